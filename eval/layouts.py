"""Two layouts of results: one system's groups by its metrics, and several systems side by side.

The second is the layout of EchoVLM's Tables 2–7: a group's metrics down, systems across, the best one bold.
What the layouts share is here too: finding a cell by its names, a cell's text, the lines under a table.

Knows nothing of Markdown or LaTeX: a `Sheet` comes out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from eval.result import MACRO, MICRO, Cell, Column, Group, Result, Section
from eval.sheet import Entry, Sheet

AVERAGES = (MACRO, MICRO)
NOTHING = "–"


def groups_sheet(result: Result, section: Section, decimals: int) -> Sheet:
    """Groups down, metrics across; every figure with its interval, every row with its counts of cases."""
    rows = []
    for group in section.groups:
        figures = [
            entry(group.cells.get(column.name), digits(column, decimals), group.n)
            for column in section.columns
        ]
        counts = [Entry(str(count)) for count in (group.n, group.empty, group.missing)]
        rows.append((Entry(group.name), *figures, *counts))
    names = [
        result.group_by or "group",
        *(column.name for column in section.columns),
        "n",
        "empty",
        "missing",
    ]
    averages = [number for number, group in enumerate(section.groups) if group.name in AVERAGES]
    return Sheet(
        title=f"{section.title}: {result.system}",
        head=tuple((name,) for name in names),
        rows=tuple(rows),
        breaks=frozenset(averages[:1]),
        receipts=tuple(receipts([result], section.name, section.columns, decimals)),
        notes=(*section.notes, *warnings([result])),
    )


def systems_sheet(results: Sequence[Result], name: str, decimals: int) -> Sheet:
    """The section `name`: a group's metrics down, systems across, a line of counts under each group."""
    columns, rows, breaks = columns_of(results, name), [], []
    for group in group_names(results, name):
        breaks.append(len(rows))
        for column in columns:
            first = Entry(group if len(rows) == breaks[-1] else "")
            figures = row(results, name, group, column, digits(column, decimals))
            rows.append((first, Entry(column.name), *figures))
        rows.append((Entry(""), Entry("n (empty, missing)"), *_case_counts(results, name, group)))
    keys = in_order(result.group_by for result in results if result.group_by)
    return Sheet(
        title=next(part.title for result in results if (part := section_of(result, name))),
        head=((" / ".join(keys) or "group",), ("metric",), *((result.system,) for result in results)),
        rows=tuple(rows),
        words=2,
        breaks=frozenset(breaks),
        receipts=tuple(receipts(results, name, columns, decimals)),
        notes=(*notes(results, [name]), *warnings(results)),
    )


def _case_counts(results: Sequence[Result], section: str, group: str) -> Iterator[Entry]:
    for result in results:
        found = group_of(result, section, group)
        yield Entry(f"{found.n} ({found.empty}, {found.missing})" if found else NOTHING)


# --- finding things by name ---------------------------------------------------------------------------------


def told_apart(results: Sequence[Result]) -> list[Result]:
    """Results with different names: "pred" twice becomes "pred (1)", "pred (2)". ValueError for none."""
    if not results:
        raise ValueError("there are no results to show")
    often, seen = Counter(result.system for result in results), Counter()
    named = []
    for result in results:
        seen[result.system] += 1
        number = f" ({seen[result.system]})" if often[result.system] > 1 else ""
        named.append(replace(result, system=result.system + number))
    return named


def section_of(result: Result, name: str) -> Section | None:
    return next((section for section in result.sections if section.name == name), None)


def group_of(result: Result, section: str, name: str) -> Group | None:
    found = section_of(result, section)
    return next((group for group in found.groups if group.name == name), None) if found else None


def cell_of(result: Result, section: str, group: str, column: str) -> Cell | None:
    found = group_of(result, section, group)
    return found.cells.get(column) if found else None


def section_names(results: Sequence[Result]) -> list[str]:
    """The sections of all systems in order of appearance."""
    return in_order(section.name for result in results for section in result.sections)


def group_names(results: Sequence[Result], section: str) -> list[str]:
    """The groups of all systems in order of appearance, the averages last."""
    rows = [
        group.name for result in results if (part := section_of(result, section)) for group in part.groups
    ]
    return [*in_order(name for name in rows if name not in AVERAGES), *(a for a in AVERAGES if a in rows)]


def columns_of(results: Sequence[Result], section: str) -> list[Column]:
    """The columns of all systems in order of appearance, each name once."""
    found: dict[str, Column] = {}
    for result in results:
        for column in part.columns if (part := section_of(result, section)) else ():
            found.setdefault(column.name, column)
    return list(found.values())


def in_order(names: Iterable[str]) -> list[str]:
    """Each name once, where it first stands."""
    return list(dict.fromkeys(names))


# --- a cell as text -----------------------------------------------------------------------------------------


def number(value: float | None) -> float | None:
    """A plain finite float, or None."""
    return None if value is None or not math.isfinite(value) else float(value)


def digits(column: Column, decimals: int) -> int:
    """Digits after the point: a figure around 1, such as a mean IoU, needs one more than a percentage."""
    return decimals if column.percent else decimals + 1


def printed(value: float, digits: int) -> str:
    """Rounded, and a zero without a minus."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def entry(cell: Cell | None, digits: int, cases: int | None = None, best: bool = False) -> Entry:
    """A figure with its interval, and with its own n where that is not the number of `cases` of its group."""
    if cell is None or (value := number(cell.value)) is None:
        return Entry(NOTHING)
    details = []
    if (low := number(cell.low)) is not None and (high := number(cell.high)) is not None:
        details.append(f"[{printed(low, digits)}, {printed(high, digits)}]")
    if cases is not None and cell.n != cases:
        details.append(f"n={cell.n}")
    return Entry(printed(value, digits), " ".join(details), best)


def row(results: Sequence[Result], section: str, group: str, column: Column, digits: int) -> list[Entry]:
    """One metric of one group over all systems, the best one marked."""
    cells = [cell_of(result, section, group, column.name) for result in results]
    groups = [group_of(result, section, group) for result in results]
    best = set() if _definitions_differ(results, section, column) else _best(cells, column, digits)
    return [
        entry(cell, digits, found.n if found else None, index in best)
        for index, (cell, found) in enumerate(zip(cells, groups, strict=True))
    ]


def _definitions_differ(results: Sequence[Result], section: str, column: Column) -> bool:
    same = [c for result in results for c in columns_of([result], section) if c.name == column.name]
    return len({found.receipt for found in same}) > 1


def _best(cells: Sequence[Cell | None], column: Column, digits: int) -> set[int]:
    """Which systems are best, all that print alike; none where there is no choice."""
    values = {i: value for i, cell in enumerate(cells) if cell and (value := number(cell.value)) is not None}
    if len(values) < 2:
        return set()
    top = (min if column.lower_is_better else max)(values.values())
    return {i for i, value in values.items() if printed(value, digits) == printed(top, digits)}


# --- under a table ------------------------------------------------------------------------------------------


def receipts(
    results: Sequence[Result], section: str, columns: Sequence[Column], decimals: int, group: str = MICRO
) -> Iterator[str]:
    """One line a column, "BLEU-1 = 53.87  tok:jieba-0.42.1|order:1|cases:3000", with the figure of `group`.

    Systems that were scored by one definition share a line; where they were not, a line says so.
    """
    for column in columns:
        by_receipt: dict[str, list[Result]] = {}
        for result in results:
            for own in columns_of([result], section):
                if own.name == column.name:
                    by_receipt.setdefault(own.receipt, []).append(result)
        for receipt, systems in by_receipt.items():
            cells = [cell_of(result, section, group, column.name) or Cell(None) for result in systems]
            figures = " / ".join(entry(cell, digits(column, decimals)).text for cell in cells)
            cases = "/".join(in_order(str(cell.n) for cell in cells))
            names = ", ".join(result.system for result in systems) + ": " if len(by_receipt) > 1 else ""
            yield f"{names}{column.name} = {figures}  {receipt}|cases:{cases}"
        if len(by_receipt) > 1:
            yield f"{column.name}: the systems were scored by different definitions and cannot be compared"


def notes(results: Sequence[Result], sections: Sequence[str]) -> list[str]:
    """What the systems' sections say of themselves, each sentence once."""
    parts = [part for result in results for name in sections if (part := section_of(result, name))]
    return in_order(note for part in parts for note in part.notes)


def warnings(results: Sequence[Result]) -> list[str]:
    """The systems' warnings; those of several systems begin with the system's name."""
    if len(results) == 1:
        return list(results[0].warnings)
    return [f"{result.system}: {warning}" for result in results for warning in result.warnings]
