"""How much a rater depends on the wording: the spread of its accuracy over prompts, on the same images.

Ultrasound-QBench (2025), section III.B, "prompt sensitivity", for which the paper gives no formula. Here it
is the distance between the best and the worst prompt, and the standard deviation over prompts (chosen). A
spread of resampled figures leans upwards, so that its interval does as well. A group of one prompt has none.

Counts pairs of one `image` by several prompts (`eval.rater`); knows nothing of what the prompts say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.measure import Measure, ratio
from eval.metrics import levels
from eval.pairs import Pair


def measures(pairs: Sequence[Pair]) -> list[Measure]:
    """Spread and deviation of every way to decide; none for pairs that name no prompt."""
    names = sorted(
        {str(pair.values["prompt"]) for pair in pairs if pair.values.get("prompt") and _is_levelled(pair)}
    )
    if len(names) < 2:
        return []
    place = np.array(
        [[pair.values.get("prompt") == name for name in names] for pair in pairs]
    )  # [cases, prompts]
    found = []
    for column in levels.measures(pairs):
        title, _, way = column.name.partition(" ")
        if title != "Accuracy":
            continue
        counts = (place[:, :, None] * column.counts[:, None, :]).reshape(len(pairs), -1)
        tail = f" {way}" if way else ""
        receipt = f"over:{','.join(names)}|{column.receipt}"
        found.append(Measure(f"Spread{tail}", counts, spread, receipt, lower_is_better=True))
        found.append(Measure(f"Deviation{tail}", counts, deviation, receipt, lower_is_better=True))
    return found


def spread(sums: np.ndarray) -> np.ndarray:
    """Summed (right, of) for each prompt, [..., 2 · prompts] -> best accuracy less the worst [...]."""
    rates, several = _rates(sums)
    return np.where(several, _of(np.fmax, rates) - _of(np.fmin, rates), np.nan)


def deviation(sums: np.ndarray) -> np.ndarray:
    """Summed (right, of) for each prompt, [..., 2 · prompts] -> standard deviation of accuracy [...]."""
    rates, several = _rates(sums)
    there = ~np.isnan(rates)
    count = np.maximum(there.sum(axis=-1), 1)
    mean = np.where(there, rates, 0.0).sum(axis=-1) / count
    squares = np.where(there, (rates - mean[..., None]) ** 2, 0.0).sum(axis=-1) / count
    return np.where(several, np.sqrt(squares), np.nan)


def _rates(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies [..., prompts], NaN for a prompt that was not asked, and whether more than one was."""
    rates = ratio(sums.reshape(*sums.shape[:-1], -1, 2))
    return rates, (~np.isnan(rates)).sum(axis=-1) > 1


def _of(reduce: np.ufunc, rates: np.ndarray) -> np.ndarray:
    return reduce.reduce(rates, axis=-1)


def _is_levelled(pair: Pair) -> bool:
    return "image" in pair.values and pair.values.get("level") not in (None, "")
