"""How well predicted image scores follow true ones: SRCC and PLCC.

The two figures of image quality assessment, as Q-Align (arXiv 2312.17090) prints them for scores read from
level tokens: Spearman's correlation of ranks and Pearson's of the scores as they are. Ultrasound-QBench
prints neither; its data has levels only.

The truth is `image_score`, the prediction `prediction_score`; a case without either is left out and shows in
n. Ranks are taken once within each `setting`, ties in the middle, so that resampling only reweights them.
Knows nothing of how a score was made.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.measure import Measure
from eval.pairs import Pair


def measures(pairs: Sequence[Pair]) -> list[Measure]:
    """SRCC and PLCC over pairs with both scores, from −1 to 1."""
    both = np.array([(_score(pair, "image_score"), _score(pair, "prediction_score")) for pair in pairs])
    both = both.reshape(len(pairs), 2)
    both[np.isnan(both).any(axis=1)] = np.nan
    settings = [pair.group("setting") for pair in pairs]
    ranked = np.full_like(both, np.nan)
    for setting in set(settings):
        at = np.array([name == setting for name in settings]) & ~np.isnan(both[:, 0])
        ranked[at] = np.stack([ranks(column) for column in both[at].T], axis=1)
    # Sums of squares lose digits far from zero; a correlation does not mind where zero is.
    return [
        Measure("SRCC", _moments(ranked), pearson, "ranks:within-setting|ties:middle", scale=1.0),
        Measure("PLCC", _moments(both), pearson, "scores:as-they-are|no-fit", scale=1.0),
    ]


def pearson(sums: np.ndarray) -> np.ndarray:
    """Sums of (1, x, y, xx, yy, xy), [..., 6] -> Pearson's r [...]; NaN where x or y does not vary."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread_x, spread_y = n * xx - x * x, n * yy - y * y
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (n * xy - x * y) / np.sqrt(spread_x * spread_y)
    enough = (spread_x > _SLACK * n * xx) & (spread_y > _SLACK * n * yy)
    return np.where(enough, np.clip(found, -1, 1), np.nan)


_SLACK = 1e-12  # of a sum of squares: less is what floating point leaves of no variation


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing the middle of theirs: float64 [n]."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _moments(both: np.ndarray) -> np.ndarray:
    """(x, y) [cases, 2] -> (1, x, y, xx, yy, xy) [cases, 6], about the mean; zeros where there is none."""
    there = ~np.isnan(both[:, :1])
    if there.any():
        both = both - np.nanmean(both, axis=0)
    x, y = both[:, 0], both[:, 1]
    return np.where(there, np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1), 0.0)


def _score(pair: Pair, key: str) -> float:
    value = pair.values.get(key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and np.isfinite(value) else np.nan
