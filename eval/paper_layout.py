"""Results in the shape of a paper's table, our systems before its own, which are marked "other images".

A paper's table has three axes, group, metric and system (`eval.papers`). Our groups that it lacks stand
before its averages.

Knows nothing of single papers: their shapes and figures are data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from eval.layouts import (
    AVERAGES,
    NOTHING,
    columns_of,
    digits,
    group_names,
    in_order,
    notes,
    printed,
    receipts,
    row,
    section_names,
    warnings,
)
from eval.papers import PaperGroup, PaperMetric, PaperTable
from eval.result import MACRO, MICRO, Column, Result
from eval.sheet import Entry, Sheet

OTHER_IMAGES = "other images"  # stands at every published figure
WRONG = "†"  # stands at a figure that the paper prints wrongly


def paper_sheet(results: Sequence[Result], paper: PaperTable, decimals: int) -> Sheet:
    """The paper's table with our systems in it. ValueError where no result has any of its columns."""
    view = _View(results, paper, decimals)
    if not any(map(view.column, paper.metrics)):
        wanted = " or ".join(view.sections)
        there = ", ".join(section_names(results)) or "none"
        raise ValueError(f"table {paper.name} needs the section {wanted}; the results have {there}")
    rows, breaks, block = [], [], None
    for number, place in enumerate(product(*(view.axes[axis] for axis in paper.rows))):
        # A block is the rows of one outer entry or, where systems are the only rows, ours or the paper's.
        names = list(map(_name, place))
        if (new := names[0] if len(place) > 1 else isinstance(place[0], Result)) != block:
            breaks.append(number)
        elif len(place) > 1:
            names[0] = ""
        block = new
        at = dict(zip(paper.rows, place, strict=True))
        cells = [view.entry({**at, paper.columns: column}) for column in view.axes[paper.columns]]
        rows.append((*map(Entry, names), *cells))
    return Sheet(
        title=f"{paper.title} (the shape of {paper.name})",
        head=(*((axis,) for axis in paper.rows), *map(_path, view.axes[paper.columns])),
        rows=tuple(rows),
        words=len(paper.rows),
        breaks=frozenset(breaks),
        receipts=tuple(view.receipts()),
        notes=(*view.notes(), *notes(results, view.sections), *warnings(results)),
    )


def with_our_groups(results: Sequence[Result], paper: PaperTable) -> list[PaperGroup]:
    """The paper's groups, with those of ours that it lacks before its averages."""
    sections, groups = in_order(metric.section for metric in paper.metrics), list(paper.groups)
    ours = in_order(name for section in sections for name in group_names(results, section))
    taken = {our_name(results, section, group) for section in sections for group in groups}
    strangers = [PaperGroup(name) for name in ours if name not in taken and name not in AVERAGES]
    last = next((i for i, group in enumerate(groups) if set(group.ours) & set(AVERAGES)), len(groups))
    return [*groups[:last], *strangers, *groups[last:]]


def our_name(results: Sequence[Result], section: str, group: PaperGroup) -> str | None:
    """What we call this group of a paper: of several names the first that is there."""
    return next((name for name in group_names(results, section) if group.is_called(name)), None)


def our_column(results: Sequence[Result], metric: PaperMetric) -> Column | None:
    """Our column for this metric of a paper."""
    columns = columns_of(results, metric.section)
    return next((column for column in columns if column.name == metric.column), None)


def _name(entry: Result | str | PaperGroup | PaperMetric) -> str:
    """An entry of an axis as a row is called; a published system is a bare name."""
    if isinstance(entry, Result):
        return entry.system
    return f"{entry}, {OTHER_IMAGES}" if isinstance(entry, str) else entry.name


def _path(entry: Result | str | PaperGroup | PaperMetric) -> tuple[str, ...]:
    """The levels of an entry's heading where its axis runs across."""
    if isinstance(entry, PaperGroup):
        return entry.path
    if isinstance(entry, PaperMetric):
        return (entry.name,)
    return ("ours", entry.system) if isinstance(entry, Result) else (OTHER_IMAGES, entry)


class _View:
    """A paper's axes with our entries among them, and what stands where they meet."""

    def __init__(self, results: Sequence[Result], paper: PaperTable, decimals: int):
        self._results, self._paper, self._decimals = results, paper, decimals
        self.sections = in_order(metric.section for metric in paper.metrics)
        self.axes: Mapping[str, list[Any]] = {
            "group": self._groups(),
            "metric": list(paper.metrics),
            "system": [*results, *(paper.systems if paper.figures else ())],
        }

    def _groups(self) -> list[PaperGroup]:
        """The paper's groups, with those of ours that it lacks before its averages."""
        paper = self._paper
        grouped = "group" in (*paper.rows, paper.columns)
        return with_our_groups(self._results, paper) if grouped else list(paper.groups)

    def column(self, metric: PaperMetric) -> Column | None:
        return our_column(self._results, metric)

    def entry(self, at: Mapping[str, Any]) -> Entry:
        """The cell at these entries of the axes; a pair of figures in it is told apart by a stroke."""
        group, system = at.get("group", self._paper.groups[0]), at["system"]
        if self._paper.within is None:
            return self._figure(group, at["metric"], system)
        shown = [self._figure(group, metric, system) for metric in self._paper.metrics_of(group)]
        while len(shown) > 1 and shown[-1].text == NOTHING:
            shown.pop()
        if len(shown) == 1:
            return shown[0]
        details = [figure.detail or NOTHING for figure in shown]
        between = " / ".join(details) if any(figure.detail for figure in shown) else ""
        return Entry(" / ".join(figure.text for figure in shown), between)

    def _figure(self, group: PaperGroup, metric: PaperMetric, system: Result | str) -> Entry:
        if isinstance(system, Result):
            return self._our_figure(group, metric, system)
        cell = (group.name, metric.name, system)
        value = self._paper.figures.get(cell)
        if value is None:
            return Entry(NOTHING)
        places = self._decimals if metric.decimals is None else metric.decimals
        return Entry(printed(value, places) + (WRONG if cell in self._paper.errors else ""))

    def _our_figure(self, group: PaperGroup, metric: PaperMetric, result: Result) -> Entry:
        name, column = our_name(self._results, metric.section, group), self.column(metric)
        if name is None or column is None:
            return Entry(NOTHING)
        places = digits(column, self._decimals) if metric.decimals is None else metric.decimals
        entries = row(self._results, metric.section, name, column, places)
        return entries[next(i for i, one in enumerate(self._results) if one is result)]

    def receipts(self) -> Iterator[str]:
        """With the figure of the paper's own average, so that it is one that stands in the table."""
        average = MACRO if any(MACRO in group.ours for group in self._paper.groups) else MICRO
        for metric in self._paper.metrics:
            if column := self.column(metric):
                yield from receipts(self._results, metric.section, [column], self._decimals, average)

    def notes(self) -> Iterator[str]:
        paper, source = self._paper, f"{self._paper.paper}, {self._paper.place}"
        if paper.figures:
            yield f"Published figures: {source}."
            yield f"They were measured on {OTHER_IMAGES} than ours: an order of size, not a comparison."
        else:
            yield f"Shape: {source}."
        yield from (f"{WRONG} {', '.join(cell)}: {note}." for cell, note in paper.errors.items())
        yield from paper.notes
        if paper.group_by and not self._has_our_groups():
            yield f"No group of ours is one of the paper's: score with --group-by {paper.group_by}."
        for result in self._results:
            yield f"{result.system}: {result.n} cases, {result.empty} empty, {result.missing} missing."

    def _has_our_groups(self) -> bool:
        pairs = product(self.sections, self._paper.groups)
        found = {our_name(self._results, section, group) for section, group in pairs}
        return bool(found - {None, *AVERAGES})
