"""A table of texts, and how Markdown and LaTeX write it.

LaTeX is for the package booktabs and comes as a `table` to be read in with \\input. Chinese text needs
xelatex or lualatex with a font that has it.

Knows nothing of scores: what stands in a cell was decided before.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Entry:
    """One cell: its text, what stands small beside it (an interval), and whether it is the best."""

    text: str
    detail: str = ""
    best: bool = False


@dataclass(frozen=True)
class Sheet:
    """`head` holds a path for each column, ("IVUSQA", "Basic"); the first `words` columns are words."""

    title: str
    head: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[Entry, ...], ...]
    words: int = 1
    breaks: frozenset[int] = frozenset()  # rows above which a rule is drawn
    receipts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def markdown(sheet: Sheet) -> str:
    """A heading, the table with its columns in line, the receipts as they are, the notes as a list."""
    head = [_in_markdown(" · ".join(path)) for path in sheet.head]
    body = [[_markdown_cell(entry) for entry in row] for row in sheet.rows]
    widths = [max(3, *(_width(row[column]) for row in [head, *body])) for column in range(len(head))]
    rule = [
        "-" * width if column < sheet.words else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    ]
    lines = [
        "| " + " | ".join(_padded(text, width, column < sheet.words)
                          for column, (text, width) in enumerate(zip(row, widths, strict=True))) + " |"
        for row in [head, rule, *body]
    ]  # fmt: skip
    parts = [f"### {_in_markdown(sheet.title)}", "\n".join(lines)]
    if sheet.receipts:
        parts.append("\n".join(["```text", *map(_on_one_line, sheet.receipts), "```"]))
    if sheet.notes:
        parts.append("\n".join(f"- {_in_markdown(note)}" for note in sheet.notes))
    return "\n\n".join(parts) + "\n"


def _markdown_cell(entry: Entry) -> str:
    text = _in_markdown(entry.text)
    text = f"**{text}**" if entry.best else text
    return f"{text} {_in_markdown(entry.detail)}" if entry.detail else text


def _in_markdown(text: str) -> str:
    """What Markdown would take for a column, emphasis, code or a tag gets a backslash."""
    return re.sub(r"([\\|*`<])", r"\\\1", _on_one_line(text))


def _on_one_line(text: str) -> str:
    """Line breaks, tabs and other control characters become one space."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)


def _padded(text: str, width: int, left: bool) -> str:
    space = " " * (width - _width(text))
    return text + space if left else space + text


def _width(text: str) -> int:
    """Columns that a text takes in a terminal: two for a Chinese character, none for an accent."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def latex(sheet: Sheet) -> str:
    """A `table` with booktabs' rules, a line of the head for each level, receipts and notes below."""
    columns = "l" * sheet.words + "r" * (len(sheet.head) - sheet.words)
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{_in_latex(sheet.title)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *_latex_head(sheet.head),
        r"\midrule",
    ]
    for number, row in enumerate(sheet.rows):
        if number and number in sheet.breaks:
            lines.append(r"\midrule")
        lines.append(" & ".join(map(_latex_cell, row)) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    below = [rf"\texttt{{{_breakable(receipt)}}}" for receipt in sheet.receipts] + [
        _in_latex(note) for note in sheet.notes
    ]
    if below:
        lines += ["", r"\medskip\raggedright\scriptsize", *(rf"\noindent {line}\par" for line in below)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _latex_head(head: Sequence[tuple[str, ...]]) -> list[str]:
    """One line a level; neighbours that share the path down to a level share its cell and a rule."""
    lines = []
    for level in range(max(map(len, head))):
        cells, rules, first = [], [], 1
        for path, columns in groupby(enumerate(head), lambda item, level=level: _head_key(*item, level)):
            width = len(list(columns))
            text = _in_latex(path[-1])
            if width > 1:
                cells.append(rf"\multicolumn{{{width}}}{{c}}{{{text}}}")
                rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
            else:
                cells.append(text)
            first += width
        lines += [" & ".join(cells) + r" \\", *rules]
    return lines


def _head_key(column: int, path: tuple[str, ...], level: int) -> tuple:
    """What neighbours must have in common to share a cell; the last level of a path is a column's own."""
    if level >= len(path):
        return (column, "")
    return (column, path[level]) if level == len(path) - 1 else path[: level + 1]


def _latex_cell(entry: Entry) -> str:
    text = _in_latex(entry.text)
    text = rf"\textbf{{{text}}}" if entry.best else text
    return rf"{text} {{\scriptsize {_in_latex(entry.detail)}}}" if entry.detail else text


def _breakable(receipt: str) -> str:
    """A receipt has no spaces to break a line at, so it may break after each part."""
    return r"\textbar{}\allowbreak{}".join(_in_latex(part) for part in receipt.split("|"))


# Beside LaTeX's own characters: [ and * would be read as arguments of the line's end before them, and the
# usual fonts of pdflatex lack the signs of the last lines.
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_",
    "%": r"\%", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}", '"': "''",
    "[": "{[}", "]": "{]}", "*": "{*}",
    "–": "--", "—": "---", "…": r"\ldots{}", "†": r"\dag{}", "·": r"$\cdot$", "×": r"$\times$", "±": r"$\pm$",
    "≥": r"$\geq$", "≤": r"$\leq$", "→": r"$\rightarrow$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    "−": "$-$",
})  # fmt: skip


def _in_latex(text: str) -> str:
    return _on_one_line(text).translate(_LATEX)
