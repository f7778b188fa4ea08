"""Two systems on the same cases: which differences are more than chance.

Every cell of the table (section, column, group) is tested twice, by approximate randomisation and by the
paired bootstrap (`eval.significance`), and the p values of the first are adjusted for their number by
Holm's procedure. Only cases that both files hold are compared; what stands in one file alone is named.

Knows nothing of files: pairs in, rows out, and the rows as Markdown or JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from eval.measure import Measure
from eval.pairs import Pair, PairError
from eval.result import MACRO, MICRO
from eval.rows import some
from eval.scoring import SMALL_GROUP, Measured, Options, cluster_names, group_members, measured
from eval.significance import approximate_randomisation, holm, paired_bootstrap

LEVEL = 0.05
_OF_THE_CASES = {"Majority rate"}  # says nothing of a system, and would only make Holm's number larger


@dataclass(frozen=True)
class Difference:
    """One cell: both figures, what the second has over the first with its 95 % interval, and the p values."""

    section: str
    column: str
    group: str
    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    p_randomisation: float
    p_bootstrap: float
    p_adjusted: float  # of the randomisation test, Holm over all cells
    receipt: str


@dataclass(frozen=True)
class Comparison:
    """Every cell of two systems' table, and what was left out."""

    first: str
    second: str
    cells: tuple[Difference, ...]
    n: int
    trials: int
    resamples: int
    seed: int
    cluster: str | None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what does not make it incomplete

    @property
    def complete(self) -> bool:
        """Whether every case of both files was compared."""
        return not self.warnings


def compare(
    first: Sequence[Pair],
    second: Sequence[Pair],
    options: Options | None = None,
    *,
    names: tuple[str, str] = ("first", "second"),
    trials: int = 10_000,
) -> Comparison:
    """Test the second system against the first. PairError where they share no case or differ in a reference.

    Cases are joined by id. `options` as for scoring; a case without a prediction is a wrong answer.
    """
    options = replace(options or Options(), missing="wrong")
    if not options.resamples:
        options = replace(options, resamples=Options.resamples)
    mine, theirs, warnings = _joined(first, second, names)
    sections = _matching(measured(mine, options), measured(theirs, options))
    if not sections:
        raise PairError("the two files have nothing in common that could be compared")
    groups = group_members(mine, options.group_by)
    clusters = cluster_names(mine, options.cluster) if options.cluster else None
    tested = [
        cell
        for group, members in [*groups.items(), (MICRO, np.arange(len(mine)))]
        for cell in _tested(sections, group, members, clusters, options, trials)
    ]
    if groups:
        tested += _tested(_averages(sections, groups), MACRO, np.arange(len(mine)), clusters, options, trials)
    adjusted = holm([cell.p_randomisation for cell in tested])
    cells = tuple(replace(cell, p_adjusted=p) for cell, p in zip(tested, adjusted, strict=True))
    return Comparison(
        *names,
        cells,
        len(mine),
        trials,
        options.resamples,
        options.seed,
        options.cluster,
        tuple(warnings),
        tuple(_thin(cells)),
    )


def _thin(cells: Sequence[Difference]) -> list[str]:
    few = [f"{c.section} {c.column}, {c.group} ({c.n})" for c in cells if c.n < SMALL_GROUP]
    return [f"Fewer than {SMALL_GROUP} cases, so little can be concluded: {some(few)}."] if few else []


def _joined(
    first: Sequence[Pair], second: Sequence[Pair], names: tuple[str, str]
) -> tuple[list[Pair], list[Pair], list[str]]:
    """The pairs of ids that both have, in the first one's order, and a sentence for each side's surplus."""
    other = {pair.id: pair for pair in second}
    mine = [pair for pair in first if pair.id in other]
    if not mine:
        raise PairError(f"{names[0]} and {names[1]} have no id in common, so nothing can be compared")
    for pair in mine:
        if pair.references != other[pair.id].references:
            raise PairError(
                f"id {pair.id!r} has another reference in {names[1]} than in {names[0]}; "
                "score both against one file of references (--references)"
            )
    warnings = []
    shared = {pair.id for pair in mine}
    for name, pairs in zip(names, (first, second), strict=True):
        alone = [pair.id for pair in pairs if pair.id not in shared]
        if alone:
            warnings.append(f"{len(alone)} cases are in {name} alone and were left out: {some(alone)}.")
        silent = [pair.id for pair in pairs if pair.id in shared and pair.prediction is None]
        if silent:
            warnings.append(
                f"{len(silent)} cases of {name} have no prediction and count as wrong: {some(silent)}."
            )
    return mine, [other[pair.id] for pair in mine], warnings


Both = tuple[str, Measure, Measure]  # section, and one column of both systems


def _matching(first: Sequence[Measured], second: Sequence[Measured]) -> list[Both]:
    """Columns that both systems have."""
    theirs = {(section.name, measure.name): measure for section in second for measure in section.measures}
    return [
        (section.name, measure, theirs[section.name, measure.name])
        for section in first
        for measure in section.measures
        if (section.name, measure.name) in theirs and measure.name not in _OF_THE_CASES
    ]


def _tested(
    columns: Sequence[Both],
    group: str,
    members: np.ndarray,
    clusters: Sequence[str] | None,
    options: Options,
    trials: int,
) -> list[Difference]:
    """The cells of one group, without the adjustment; columns without a figure on either side are left
    out."""
    here = [(name, _only(first, members), _only(second, members)) for name, first, second in columns]
    here = [
        (name, first, second)
        for name, first, second in here
        if not np.isnan([_figure(first), _figure(second)]).any()
    ]
    if not here:
        return []
    mine, theirs = [first for _, first, _ in here], [second for _, _, second in here]
    drawn = [clusters[i] for i in members] if clusters else None
    ps = approximate_randomisation(mine, theirs, trials, options.seed, drawn)
    spreads = paired_bootstrap(mine, theirs, options.resamples, options.seed, drawn)
    return [
        Difference(
            name,
            first.name,
            group,
            int((first.applies | second.applies).sum()) if group != MACRO else len(members),
            _figure(first),
            _figure(second),
            spread.value,
            spread.low,
            spread.high,
            p,
            spread.p,
            float("nan"),
            first.receipt,
        )
        for (name, first, second), p, spread in zip(here, ps, spreads, strict=True)
    ]


def _only(measure: Measure, members: np.ndarray) -> Measure:
    return replace(measure, counts=measure.counts[members])


def _figure(measure: Measure) -> float:
    return float(measure.of(measure.counts.sum(axis=0)))


def _averages(columns: Sequence[Both], groups: dict[str, np.ndarray]) -> list[Both]:
    """Columns whose figure is the unweighted mean over groups: each group has counts of its own."""
    return [(name, _average(first, groups), _average(second, groups)) for name, first, second in columns]


def _average(measure: Measure, groups: dict[str, np.ndarray]) -> Measure:
    n, width = measure.counts.shape
    counts = np.zeros((n, len(groups), width))
    for index, members in enumerate(groups.values()):
        counts[members, index] = measure.counts[members]

    def finish(sums: np.ndarray) -> np.ndarray:
        figures = measure.finish(sums.reshape(*sums.shape[:-1], len(groups), width))
        having = ~np.isnan(figures)
        with np.errstate(invalid="ignore"):
            return np.where(having, figures, 0.0).sum(axis=-1) / having.sum(axis=-1)

    return replace(measure, counts=counts.reshape(n, -1), finish=finish, finish_case=None)


def render(comparison: Comparison, format: str = "md") -> str:
    """The comparison as Markdown or JSON; ValueError for another format."""
    if format == "json":
        return json.dumps(_without_nan(asdict(comparison)), ensure_ascii=False, indent=1) + "\n"
    if format != "md":
        raise ValueError(f"no format is called {format!r}; choose md or json")
    lines = [
        f"| section | column | group | n | {comparison.first} | {comparison.second} "
        "| difference [95 %] | p | p, Holm |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in comparison.cells:
        star = " *" if cell.p_adjusted < LEVEL else ""
        lines.append(
            f"| {cell.section} | {cell.column} | {cell.group} | {cell.n} "
            f"| {cell.first:.2f} | {cell.second:.2f} "
            f"| {cell.difference:+.2f} [{cell.low:+.2f}, {cell.high:+.2f}] "
            f"| {cell.p_randomisation:.4f} | {cell.p_adjusted:.4f}{star} |"
        )
    swapped = f"a {comparison.cluster}'s cases" if comparison.cluster else "cases"
    lines += [
        "",
        f"- {comparison.n} cases in both. p: approximate randomisation, {comparison.trials} trials, "
        f"{swapped} swapped between the systems, seed {comparison.seed}. Interval: paired bootstrap, "
        f"{comparison.resamples} resamples. * = below {LEVEL} after Holm's adjustment over "
        f"{len(comparison.cells)} cells.",
        *(f"- Warning: {warning}" for warning in (*comparison.warnings, *comparison.notes)),
    ]
    receipts = {(cell.section, cell.column): cell.receipt for cell in comparison.cells}
    lines += [f"- {section} {column}: {receipt}" for (section, column), receipt in receipts.items()]
    return "\n".join(lines) + "\n"


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value
