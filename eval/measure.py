"""The frame that every metric is built on: what is counted for each case, and what a sum of counts means.

A `Measure` keeps one row of counts for every case and a function from summed counts to the figure. A case
alone, a group of cases, a whole file and a thousand bootstrap resamples of it are then the same
computation on different sums, so intervals and significance tests never look at a text a second time
(sacreBLEU keeps counting and arithmetic apart in the same way).

Knows nothing of texts, tokens or boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Finish = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measure:
    """One column of a table.

    `counts` is float64 [cases, c]: what each case adds; zeros for a case that the measure does not speak
    of. `finish` turns sums of such rows, [..., c], into figures [...]; NaN where nothing was counted.
    `scale` takes a figure to the table's unit (100 for a share); `case_scale` takes it to the scale on
    which the metric's own package prints a single case. `finish_case` is the formula for one case where
    it is not the formula for sums. `share` marks counts that are (hits, of) of independent cases, whose
    interval is Wilson's.
    """

    name: str  # "BLEU-1"
    counts: np.ndarray
    finish: Finish
    receipt: str  # "tok:jieba-0.42.1-hmm|order:1|smooth:m3"
    scale: float = 100.0
    case_scale: float = 1.0
    share: bool = False
    lower_is_better: bool = False
    finish_case: Finish | None = None

    @property
    def applies(self) -> np.ndarray:
        """bool [cases]: which cases the measure speaks of (a count other than zero, or a figure)."""
        return self.counts.any(axis=1) | ~np.isnan(self.per_case)

    @property
    def per_case(self) -> np.ndarray:
        """float64 [cases]: the figure of each case alone, before any scale; NaN where there is none."""
        return (self.finish_case or self.finish)(self.counts)

    def of(self, sums: np.ndarray) -> np.ndarray:
        """Figures in the table's unit for sums of counts, [..., c] -> [...]."""
        return self.finish(sums) * self.scale


def ratio(sums: np.ndarray) -> np.ndarray:
    """First count over second: the finish of every mean, share, precision and recall."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def f_score(sums: np.ndarray) -> np.ndarray:
    """Counts (right, stated, true) -> F1; NaN where nothing is stated and nothing true."""
    with np.errstate(invalid="ignore", divide="ignore"):
        total = sums[..., 1] + sums[..., 2]
        return np.where(total > 0, 2 * sums[..., 0] / total, np.nan)


def mean(name: str, values: Sequence[float] | np.ndarray, receipt: str, **details) -> Measure:
    """The mean over cases of one value each; a case whose value is NaN is left out of the mean."""
    values = np.asarray(values, dtype=np.float64)
    counted = ~np.isnan(values)
    counts = np.stack([np.where(counted, values, 0.0), counted.astype(np.float64)], axis=1)
    return Measure(name, counts, ratio, receipt, **details)


def share(name: str, right: Sequence[bool | None], receipt: str, **details) -> Measure:
    """The share of cases that are right; None leaves a case out."""
    values = [np.nan if hit is None else float(hit) for hit in right]
    return mean(name, values, receipt, share=True, **details)
