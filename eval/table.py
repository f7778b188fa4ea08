"""Results as text: Markdown, LaTeX, CSV and JSON, by groups, by systems, or in the shape of a paper's table.

Markdown and LaTeX are for reading: figures are rounded; receipts, notes and warnings stand under every table.
CSV and JSON are for the next program: every figure of every section, unrounded, whatever the layout.

Knows nothing of the texts that were scored, nor of files: results in, one text out.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from eval.layouts import (
    group_names,
    group_of,
    groups_sheet,
    in_order,
    number,
    section_names,
    section_of,
    systems_sheet,
    told_apart,
    warnings,
)
from eval.paper_layout import OTHER_IMAGES, our_column, our_name, paper_sheet
from eval.papers import PaperTable, paper_table
from eval.result import Cell, Group, Result, Section
from eval.sheet import Sheet, latex, markdown

SCHEMA_VERSION = 1
FORMATS = ("md", "csv", "latex", "json")
LAYOUTS = ("groups", "systems")
_LATEX_NEEDS = (
    "% needs \\usepackage{booktabs}; for Chinese text compile with xelatex and \\usepackage{ctex}\n"
)


def render(
    results: Sequence[Result],
    format: str = "md",
    layout: str = "groups",
    paper: str | None = None,
    decimals: int = 2,
) -> str:
    """The results of one or several systems as one text.

    Several results take the layout "systems" whatever `layout` says; results of one name are numbered.
    `paper` is one of `eval.papers.paper_names()`: Markdown and LaTeX are then that one table, CSV and JSON
    have its figures beside ours. A figure that is no percentage is printed with one digit more than
    `decimals`. Raises ValueError for no results, for an unknown format, layout or paper, and for a paper's
    table without any column of ours.
    """
    for word, value, known in (("format", format, FORMATS), ("layout", layout, LAYOUTS)):
        if value not in known:
            raise ValueError(f"no {word} is called {value!r}; choose one of {', '.join(known)}")
    results = told_apart(results)
    published = paper_table(paper) if paper else None
    if format == "json":
        return _json(results, published)
    if format == "csv":
        return _csv(results, published)
    sheets = _sheets(results, layout, published, decimals)
    origin = list(_origin(results))
    if format == "md":
        return "\n".join([*map(markdown, sheets), *(f"- {line}" for line in origin)]) + "\n"
    return "\n".join([_LATEX_NEEDS, *map(latex, sheets), *(f"% {line}" for line in origin)]) + "\n"


def _sheets(
    results: Sequence[Result], layout: str, published: PaperTable | None, decimals: int
) -> list[Sheet]:
    if published:
        return [paper_sheet(results, published, decimals)]
    if layout == "systems" or len(results) > 1:
        return [systems_sheet(results, name, decimals) for name in section_names(results)]
    return [groups_sheet(results[0], section, decimals) for section in results[0].sections]


def _origin(results: Sequence[Result]) -> Iterator[str]:
    """How the figures came about, a line a system: intervals, versions, files."""
    for result in results:
        drawn = f"{result.resamples} resamples, seed {result.seed}"
        parts = [f"95 % intervals: {drawn}" if result.resamples else "no resamples"]
        if result.cluster and result.resamples:
            parts.append(f"drawn by {result.cluster}")
        parts += [f"{name} {version}" for name, version in result.versions.items()]
        parts += [f"{name} sha256:{digest[:12]}" for name, digest in result.inputs.items()]
        yield " ".join(f"{result.system}: {'; '.join(parts)}".split())


# --- CSV ----------------------------------------------------------------------------------------------------


def _csv(results: Sequence[Result], paper: PaperTable | None) -> str:
    """One row a (section, group, system): counts, value, low, high and n of every metric, then receipts."""
    rows = [*_our_rows(results), *(_published_rows(results, paper) if paper else ())]
    names = in_order(name for row in rows for name in row["cells"])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = ["section", "group", "system", "n", "empty", "missing"]
    figures = [f"{name}{part}" for name in names for part in ("", " low", " high", " n")]
    writer.writerow([*keys, *figures, *(f"{name} receipt" for name in names)])
    for row in rows:
        cells = [figure for name in names for figure in row["cells"].get(name, [None] * 4)]
        receipts = [row["receipts"].get(name) for name in names]
        writer.writerow([*(row.get(key) for key in keys), *cells, *receipts])
    return out.getvalue()


def _our_rows(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    for section in section_names(results):
        for group in group_names(results, section):
            for result in results:
                if found := group_of(result, section, group):
                    yield _our_row(result, section_of(result, section), found)


def _our_row(result: Result, section: Section, group: Group) -> dict[str, Any]:
    cells = {column.name: group.cells.get(column.name, Cell(None)) for column in section.columns}
    return {
        "section": section.name,
        "group": group.name,
        "system": result.system,
        "n": group.n,
        "empty": group.empty,
        "missing": group.missing,
        "cells": {
            name: [number(cell.value), number(cell.low), number(cell.high), cell.n]
            for name, cell in cells.items()
        },
        "receipts": {column.name: column.receipt for column in section.columns},
    }


def _published_rows(results: Sequence[Result], paper: PaperTable) -> Iterator[dict[str, Any]]:
    """A paper's figures under the names of our columns, and of our groups where we have them."""
    receipt = f"published: {paper.name}, {paper.place}; {OTHER_IMAGES}"
    for system, group in product(paper.systems, paper.groups):
        by_section: dict[str, dict[str, list]] = {}
        for metric in paper.metrics_of(group):
            value = paper.figures.get((group.name, metric.name, system))
            if value is not None:
                found = our_column(results, metric)
                cells = by_section.setdefault(metric.section, {})
                cells[found.name if found else metric.column] = [value, None, None, None]
        for section, cells in by_section.items():
            yield {
                "section": section,
                "group": our_name(results, section, group) or group.name,
                "system": f"{system}, {OTHER_IMAGES}",
                "cells": cells,
                "receipts": dict.fromkeys(cells, receipt),
            }


# --- JSON ---------------------------------------------------------------------------------------------------


def _json(results: Sequence[Result], paper: PaperTable | None) -> str:
    """The schema of SCHEMA_VERSION; a figure is null where nothing was counted."""
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "versions": _merged(result.versions for result in results),
        "inputs": _merged(result.inputs for result in results),
        **{name: _common(results, name) for name in ("seed", "resamples", "cluster")},
        "systems": [_json_system(result) for result in results],
        "warnings": warnings(results),
    }
    if paper:
        content["published"] = _json_paper(paper)
    return json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _json_system(result: Result) -> dict[str, Any]:
    return {
        "system": result.system,
        "group_by": result.group_by,
        **_counts(result),
        "sections": {section.name: _json_section(section) for section in result.sections},
    }


def _json_section(section: Section) -> dict[str, Any]:
    columns = {
        column.name: {
            "receipt": column.receipt,
            "lower_is_better": column.lower_is_better,
            "percent": column.percent,
        }
        for column in section.columns
    }
    groups = {
        group.name: {
            **_counts(group),
            "cells": {name: _json_cell(cell) for name, cell in group.cells.items()},
        }
        for group in section.groups
    }
    return {"title": section.title, "columns": columns, "groups": groups, "notes": list(section.notes)}


def _counts(of: Result | Group) -> dict[str, int]:
    return {name: int(getattr(of, name)) for name in ("n", "empty", "missing")}


def _json_cell(cell: Cell) -> dict[str, Any]:
    return {
        "value": number(cell.value),
        "low": number(cell.low),
        "high": number(cell.high),
        "n": int(cell.n),
    }


def _json_paper(paper: PaperTable) -> dict[str, Any]:
    figures = []
    for (group, metric, system), value in paper.figures.items():
        figure = {"group": group, "metric": metric, "system": system, "value": value}
        wrong = paper.errors.get((group, metric, system))
        figures.append({**figure, "error": wrong} if wrong else figure)
    where = {"table": paper.name, "paper": paper.paper, "place": paper.place, "marked": OTHER_IMAGES}
    return {**where, "figures": figures, "notes": list(paper.notes)}


def _merged(mappings: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """All entries; a name that stands for something else in another mapping is numbered."""
    merged: dict[str, str] = {}
    for mapping in mappings:
        for name, value in mapping.items():
            key, count = name, 1
            while merged.get(key, value) != value:
                count += 1
                key = f"{name} ({count})"
            merged[key] = value
    return merged


def _common(results: Sequence[Result], name: str) -> Any:
    """What all results have in common; null where they differ."""
    values = {getattr(result, name) for result in results}
    return values.pop() if len(values) == 1 else None
