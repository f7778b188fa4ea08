"""The tables of the papers that this suite follows: their shape and their published figures.

They are read from papers.yaml, which says how it is laid out, where a figure stands in its paper, and which
figures are printed wrongly.

Knows nothing of results or formats: a name of an axis in, what the paper says out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

import yaml

from eval.result import MICRO

AXES = ("group", "metric", "system")
Cell = tuple[str, str, str]  # group, metric, system: names as in the paper


@dataclass(frozen=True)
class PaperGroup:
    """A group of the paper's cases; `ours` are further names that a group of a result may have."""

    name: str
    ours: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()  # those that are reported of it; empty for all

    @property
    def path(self) -> tuple[str, ...]:
        """The levels of its heading."""
        return tuple(self.name.split(" · "))

    def is_called(self, name: str) -> bool:
        return name.strip().casefold() in {known.casefold() for known in (self.name, *self.ours)}


@dataclass(frozen=True)
class PaperMetric:
    """A metric of the paper, and the section and column of a result that it is."""

    name: str
    section: str
    column: str
    decimals: int | None = None  # None: as many as the caller wants


@dataclass(frozen=True)
class PaperTable:
    """One table and its figures; of AXES, `rows` run down, `columns` across, `within` inside a cell."""

    name: str  # "echovlm-2"
    paper: str
    place: str
    title: str
    group_by: str | None
    task: str | None  # of our cases, where a table is about one task
    rows: tuple[str, ...]
    columns: str
    within: str | None
    groups: tuple[PaperGroup, ...]
    metrics: tuple[PaperMetric, ...]
    systems: tuple[str, ...]
    figures: Mapping[Cell, float]  # without the cells that are not printed or not readable
    errors: Mapping[Cell, str]  # what is wrong with a printed figure
    notes: tuple[str, ...]

    def metrics_of(self, group: PaperGroup | None) -> tuple[PaperMetric, ...]:
        """The metrics that are reported of a group; of a group that the paper does not have, all."""
        chosen = group.metrics if group else ()
        return tuple(metric for metric in self.metrics if not chosen or metric.name in chosen)


def paper_names() -> tuple[str, ...]:
    """What `paper_table` knows, in the order of the file."""
    return tuple(_file())


@cache
def paper_table(name: str) -> PaperTable:
    """The table of this name, "echovlm-2"; ValueError for an unknown one, or for a slip in papers.yaml."""
    if name not in _file():
        raise ValueError(f"no table is called {name!r}; choose one of {', '.join(paper_names())}")
    entry = _file()[name]
    table = PaperTable(
        name=name,
        **{key: entry[key] for key in ("paper", "place", "title", "columns")},
        **{key: entry.get(key) for key in ("group_by", "task", "within")},
        rows=tuple(entry["rows"]),
        groups=tuple(_group(group) for group in entry.get("groups", [{"name": MICRO}])),
        metrics=tuple(_metric(metric, entry["section"]) for metric in entry["metrics"]),
        systems=tuple(entry["systems"]),
        figures={},
        errors={_cell(error["cell"]): error["note"] for error in entry.get("errors", [])},
        notes=tuple(entry["note"]),
    )
    figures = dict(_figures(table, entry["figures"]))
    if unknown := [cell for cell in table.errors if cell not in figures]:
        raise ValueError(f"papers.yaml, {name}: an error is noted for {unknown[0]}, which has no figure")
    return replace(table, figures=figures)


@cache
def _file() -> Mapping[str, Mapping]:
    return yaml.safe_load(Path(__file__).with_name("papers.yaml").read_text("utf-8"))


def _group(entry: Mapping) -> PaperGroup:
    return PaperGroup(entry["name"], tuple(entry.get("ours", ())), tuple(entry.get("metrics", ())))


def _metric(entry: Mapping, section: str) -> PaperMetric:
    column = entry.get("ours", entry["name"])
    return PaperMetric(entry["name"], entry.get("section", section), column, entry.get("decimals"))


def _cell(names: Sequence[str]) -> Cell:
    group, metric, system = names
    return group, metric, system


def _figures(table: PaperTable, nested: Mapping) -> Iterator[tuple[Cell, float]]:
    """The figures of the file, which are nested by the rows and listed by the columns, with their cells."""
    if not nested:
        return
    names = {
        "group": [group.name for group in table.groups],
        "metric": [metric.name for metric in table.metrics],
        "system": list(table.systems),
    }
    for row in product(*(names[axis] for axis in table.rows)):
        figures = nested
        for name in row:
            figures = figures[name]
        place = f"papers.yaml, {table.name}, {', '.join(row)}"
        for column, figure in _matched(names[table.columns], figures, place):
            at = {**dict(zip(table.rows, row, strict=True)), table.columns: column}
            yield from _cells_within(table, at, figure, place)


def _cells_within(
    table: PaperTable, at: Mapping[str, str], figure: object, place: str
) -> Iterator[tuple[Cell, float]]:
    """The figures of one printed cell: one, or a list along the axis `within`, which is the metric."""
    only = {"group": table.groups[0].name, "metric": table.metrics[0].name, "system": table.systems[0]}
    if table.within:
        group = next(group for group in table.groups if group.name == at["group"])
        inner = [metric.name for metric in table.metrics_of(group)]
        listed = figure if isinstance(figure, list) else [figure, *[None] * (len(inner) - 1)]
        pairs = [
            ({**at, table.within: name}, value)
            for name, value in _matched(inner, listed, f"{place}, {at['group']}")
        ]
    else:
        pairs = [(at, figure)]
    for names, value in pairs:
        if value is not None:
            yield _cell([names.get(axis, only[axis]) for axis in AXES]), float(value)


def _matched(names: Sequence[str], figures: Sequence, place: str) -> list[tuple[str, object]]:
    if len(names) != len(figures):
        raise ValueError(f"{place}: {len(names)} figures expected, found {len(figures)}")
    return list(zip(names, figures, strict=True))
