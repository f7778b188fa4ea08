"""Is one system better than the other on the same cases, or is it chance?

Approximate randomisation (Noreen 1989; Riezler and Maxwell 2005): if it did not matter which system gave an
answer, the answers to any case could be swapped, and the difference would seldom be as large as it is. The
paired bootstrap draws cases again instead, and gives the difference an interval. Holm's (1979) correction
goes over all cells of a table. The draws are those of sacrebleu 2.6 (its significance.py) for the same seed.

Two differences to sacrebleu, both on purpose. It counts trials strictly beyond the difference that was found,
so that a system compared with itself is "significant"; here a tie counts and p is 1. Its bootstrap takes
absolute differences before it centres them, which makes the test one-sided under a two-sided name: of equal
systems 10 % are called different at p < 0.05 (measured). That value is kept as `p_sacrebleu`, for comparison.

Works on counts (`eval.measure`), never on texts; knows nothing of what they count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from eval.intervals import bootstrap, by_cluster, percentile
from eval.measure import Measure

BLOCK = 2**21  # swaps held at once as float64: 16 MB
WORD = (
    32  # the generator draws booleans from words of 32 bits: whole words make the draws independent of BLOCK
)
TIE = 1e-10  # figures this close are the same one, summed in another order


@dataclass(frozen=True)
class Difference:
    """What the second system has over the first, in the table's unit, with its interval and p (two-sided)."""

    value: float
    low: float
    high: float
    p: float
    p_sacrebleu: float  # as sacrebleu's paired bootstrap prints it; about half of p where p is small


@overload
def approximate_randomisation(
    a: Measure, b: Measure, trials: int = ..., seed: int = ..., clusters: Sequence[str] | None = ...
) -> float: ...
@overload
def approximate_randomisation(
    a: Sequence[Measure],
    b: Sequence[Measure],
    trials: int = ...,
    seed: int = ...,
    clusters: Sequence[str] | None = ...,
) -> list[float]: ...
def approximate_randomisation(a, b, trials=10_000, seed=12345, clusters=None):
    """Two-sided p of the difference between two systems on the same cases, (hits + 1) / (trials + 1).

    `a` and `b` are one measure of both systems, or lists of the same measures, which share each trial's swaps
    and are much faster together. A group's cell is its measure with zeros outside the group. `clusters` names
    each case's patient; a patient's cases are swapped together. Trials without a figure are left out; p is
    NaN where a system has none. ValueError for measures that do not belong together.
    """
    first, second = _same_measures(a, b)
    units, others = _units(first, clusters), _units(second, clusters)
    totals, other_totals = units.sum(axis=0), others.sum(axis=0)
    cuts = np.cumsum([measure.counts.shape[1] for measure in first])[:-1]
    found = _differences(first, totals, other_totals, cuts)  # [measures]
    hits, counted = np.zeros(len(first)), np.zeros(len(first))
    for swaps in _swaps(len(units), trials, seed):
        moved = swaps @ (others - units)
        differences = _differences(first, totals + moved, other_totals - moved, cuts)  # [measures, trials]
        hits += (np.abs(differences) >= _at_least(found)[:, None]).sum(axis=1)
        counted += (~np.isnan(differences)).sum(axis=1)
    p = np.where(np.isnan(found), np.nan, (hits + 1) / (counted + 1))
    return float(p[0]) if isinstance(a, Measure) else p.tolist()


@overload
def paired_bootstrap(
    a: Measure,
    b: Measure,
    resamples: int = ...,
    seed: int = ...,
    clusters: Sequence[str] | None = ...,
    level: float = ...,
) -> Difference: ...
@overload
def paired_bootstrap(
    a: Sequence[Measure],
    b: Sequence[Measure],
    resamples: int = ...,
    seed: int = ...,
    clusters: Sequence[str] | None = ...,
    level: float = ...,
) -> list[Difference]: ...
def paired_bootstrap(a, b, resamples=1000, seed=12345, clusters=None, level=0.95):
    """The difference b − a with its percentile interval, and p of the resampled differences about their mean.

    Arguments as in `approximate_randomisation`; both systems are judged on the same resampled cases.
    """
    first, second = _same_measures(a, b)
    cuts = np.cumsum([measure.counts.shape[1] for measure in first])[:-1]
    units, others = _units(first, clusters), _units(second, clusters)
    sums, other_sums = np.split(
        bootstrap(np.concatenate([units, others], axis=1), resamples, seed), 2, axis=1
    )
    found = _differences(first, units.sum(axis=0), others.sum(axis=0), cuts)
    drawn = _differences(first, sums, other_sums, cuts)  # [measures, resamples]
    results = [_difference(*row, level) for row in zip(first, found, drawn, strict=True)]
    return results[0] if isinstance(a, Measure) else results


def holm(ps: Sequence[float]) -> list[float]:
    """P values adjusted for their number (Holm 1979), in the order given; NaN stays, and is not counted."""
    values = np.asarray(ps, dtype=np.float64)
    adjusted = np.full(len(values), np.nan)
    order = np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]  # NaN sorts last
    stepped = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted.tolist()


def _same_measures(a, b) -> tuple[list[Measure], list[Measure]]:
    first, second = ([each] if isinstance(each, Measure) else list(each) for each in (a, b))
    if not first or len(first) != len(second):
        raise ValueError(
            f"{len(first)} measures of one system are to be compared with {len(second)} of the other"
        )
    for one, other in zip(first, second, strict=True):
        if one.name != other.name or one.counts.shape[1] != other.counts.shape[1]:
            raise ValueError(
                f"{one.name!r} cannot be compared with {other.name!r}: they count different things"
            )
        if not len(one.counts) == len(other.counts) == len(first[0].counts):
            raise ValueError(
                f"{one.name!r} has {len(one.counts)} and {len(other.counts)} cases; give the same cases"
            )
    return first, second


def _units(measures: Sequence[Measure], clusters: Sequence[str] | None) -> np.ndarray:
    """All counts beside one another: float64 [cases or clusters, all c]."""
    return by_cluster(np.concatenate([measure.counts for measure in measures], axis=1), clusters)


def _swaps(units: int, trials: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of float64 [trials, units]: 1 where the systems swap what they said of a case."""
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // max(1, units) // WORD) * WORD
    for start in range(0, trials, block):
        swaps = rng.integers(2, size=(min(block, trials - start), units), dtype=bool)
        yield swaps.astype(np.float64)


def _differences(
    measures: Sequence[Measure], sums: np.ndarray, others: np.ndarray, cuts: np.ndarray
) -> np.ndarray:
    """Second minus first figure of each measure [measures, ...], from sums [..., all c] cut into measures."""
    pieces = zip(measures, np.split(sums, cuts, axis=-1), np.split(others, cuts, axis=-1), strict=True)
    return np.array([measure.of(other) - measure.of(one) for measure, one, other in pieces])


def _at_least(found: np.ndarray) -> np.ndarray:
    """The size from which a difference counts as no smaller than the one found."""
    return np.abs(found) - TIE * np.maximum(1.0, np.abs(found))


def _difference(measure: Measure, found: float, drawn: np.ndarray, level: float) -> Difference:
    drawn = drawn[~np.isnan(drawn)]
    if np.isnan(found) or len(drawn) == 0:
        return Difference(*[float("nan")] * 5)
    sizes = np.abs(drawn)
    hits = np.count_nonzero(np.abs(drawn - drawn.mean()) >= _at_least(found))
    beyond = np.count_nonzero(sizes - sizes.mean() > abs(found))
    return Difference(
        float(found),
        *percentile(drawn, level),
        p=(hits + 1) / (len(drawn) + 1),
        p_sacrebleu=(beyond + 1) / (len(drawn) + 1),
    )
