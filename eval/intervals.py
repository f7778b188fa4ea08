"""How sure a figure is. Counts and shares in, limits out; knows nothing of what was counted."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

BLOCK = 2**20  # draws held at once: 8 MB, and as much again for how often each unit was drawn


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson 1927), 95 % by default; (0, 1) for n = 0."""
    if not 0 <= hits <= n:
        raise ValueError(f"hits must lie between 0 and n: {hits} of {n}")
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(
    counts: np.ndarray,
    resamples: int = 1000,
    seed: int | Sequence[int] = 12345,
    clusters: Sequence[str] | None = None,
) -> np.ndarray:
    """Sums of counts [cases, c] over cases drawn with replacement: float64 [resamples, c] (Efron 1979).

    `clusters` names each case's cluster (its patient); whole clusters are drawn then. The draws depend on the
    seed and on how many cases or clusters there are, and on nothing else: measures of the same cases may be
    resampled apart and still belong together, but other cases should have another seed, such as (12345, 1).
    The draws are those of sacrebleu 2.6 for the same seed; seed and number of resamples are its defaults. No
    case gives sums of zero.
    """
    units = by_cluster(counts, clusters)
    sums = np.zeros((resamples, units.shape[1]))
    if len(units) == 0:
        return sums
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // len(units))
    for start in range(0, resamples, block):
        drawn = rng.integers(len(units), size=(min(block, resamples - start), len(units)))
        times = np.array([np.bincount(row, minlength=len(units)) for row in drawn], dtype=np.float64)
        sums[start : start + block] = times @ units
    return sums


def by_cluster(counts: np.ndarray, clusters: Sequence[str] | None) -> np.ndarray:
    """Counts [cases, c] summed over each cluster, in the order of the clusters' names: float64 [clusters, c].

    Without clusters every case is its own. ValueError where there is not one name for each case.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim != 2:
        raise ValueError(f"counts must be [cases, c], found {list(counts.shape)}")
    if clusters is None:
        return counts
    if len(clusters) != len(counts):
        raise ValueError(f"{len(clusters)} clusters are named for {len(counts)} cases")
    names = {name: place for place, name in enumerate(sorted(set(clusters)))}
    sums = np.zeros((len(names), counts.shape[1]))
    np.add.at(sums, [names[name] for name in clusters], counts)
    return sums


def percentile(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of resampled figures [resamples], NaN left out; (NaN, NaN) where nothing is left."""
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return np.nan, np.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
