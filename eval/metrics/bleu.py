"""BLEU by nltk's definition and by sacreBLEU's, from counts of shared n-grams.

nltk (sentence_bleu and corpus_bleu, 3.10.4): an order that has no n-gram counts as 0 of 1; no shared word
means 0; `m0` does not smooth, `m1` writes 0.1 for a zero count, `m3` halves from zero to zero (Chen and
Cherry 2014). "cumulative" is the geometric mean of the precisions up to an order; "individual" is one
precision; both times the brevity penalty. Unsmoothed zeros are 0 here where nltk returns about 1e-78 or
less.

sacreBLEU (2.6.0): exponential smoothing, sums of counts over the corpus; `effective_order` for one sentence.

Counts and formulas only: tokens are somebody else's affair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from eval.metrics.overlap import ORDERS, Overlap

METHODS = ("m0", "m1", "m3")
_EPSILON = 0.1  # nltk's default for method1


def counts(shared: Overlap) -> np.ndarray:
    """float64 [pairs, 10]: prediction's length, reference's length, clipped matches of 1…4, n-grams of
    1…4."""
    columns = [shared.predicted, shared.referenced]
    columns += [grams.clipped for grams in shared.grams] + [grams.predicted for grams in shared.grams]
    return np.stack(columns, axis=1).astype(np.float64)


def counts_of_several(prediction: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """The same ten counts, float64 [10], of a prediction with several right references: an n-gram may
    match as often as in the reference that has it most, and the reference closest in length (the shorter
    of two) is the length."""
    length = len(prediction)
    closest = min((abs(len(reference) - length), len(reference)) for reference in references)[1]
    matches, totals = [], []
    for order in range(1, ORDERS + 1):
        found = _ngrams(prediction, order)
        most: Counter = Counter()
        for reference in references:
            most |= _ngrams(reference, order)
        matches.append(sum((found & most).values()))
        totals.append(sum(found.values()))
    return np.array([length, closest, *matches, *totals], np.float64)


def _ngrams(tokens: Sequence[str], order: int) -> Counter:
    return Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))


def nltk_bleu(sums: np.ndarray, weights: Sequence[float], method: str = "m0") -> np.ndarray:
    """nltk's BLEU, 0…1, for counts or sums of counts [..., 10] -> [...]; `weights` of orders 1…4."""
    if method not in METHODS:
        raise ValueError(f"smoothing {method!r} is not one of {', '.join(METHODS)}")
    lengths, references = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2:6], np.maximum(sums[..., 6:10], _phantom(sums))
    with np.errstate(divide="ignore", invalid="ignore"):
        smoothed = np.where(matches > 0, matches, _for_zero(matches, method))
        logarithms = np.log(smoothed / totals)  # -inf for an unsmoothed zero
        terms = np.where(np.asarray(weights) > 0, np.asarray(weights) * logarithms, 0.0)
        penalty = np.where(lengths > references, 1.0, np.exp(1 - references / lengths))
        score = penalty * np.exp(terms.sum(axis=-1))
    return np.where((matches[..., 0] > 0) & (lengths > 0), score, 0.0)


def _phantom(sums: np.ndarray) -> np.ndarray:
    """nltk gives a text that is too short for an order one n-gram of it."""
    return np.ones_like(sums[..., 6:10])


def _for_zero(matches: np.ndarray, method: str) -> np.ndarray:
    """What stands for a match count of zero, [..., 4]."""
    if method == "m0":
        return np.zeros_like(matches)
    if method == "m1":
        return np.full_like(matches, _EPSILON)
    return 0.5 ** np.cumsum(matches == 0, axis=-1)


def cumulative(order: int) -> tuple[float, ...]:
    """nltk's weights of cumulative BLEU: equal up to `order`."""
    return tuple(1 / order if i < order else 0.0 for i in range(ORDERS))


def individual(order: int) -> tuple[float, ...]:
    """nltk's weights that pick out the precision of one order."""
    return tuple(float(i == order - 1) for i in range(ORDERS))


def sacrebleu(sums: np.ndarray, *, effective_order: bool = False) -> np.ndarray:
    """sacreBLEU's score, 0…100, with exponential smoothing, for sums of counts [..., 10] -> [...]."""
    lengths, references = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2:6], sums[..., 6:10]
    has = totals > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        smoothed = np.where(matches > 0, matches, 0.5 ** np.cumsum((matches == 0) & has, axis=-1))
        logarithms = np.where(has, np.log(100 * smoothed / totals), 0.0)
        orders = has.sum(axis=-1)
        score = np.exp(logarithms.sum(axis=-1) / (np.maximum(orders, 1) if effective_order else ORDERS))
        penalty = np.where(lengths < references, np.exp(1 - references / lengths), 1.0)
        defined = matches.any(axis=-1) & (lengths > 0) & (effective_order | has.all(axis=-1))
        return np.where(defined, penalty * score, 0.0)
