"""Image scores of 0 to 10 points and the four grades that they fall into.

AbVLM-Q (2025), "Image scoring" and Fig. 5: Poor (0–4), Moderate (4–6), Good (6–8), Excellent (8–10). The
paper does not say to which grade a boundary belongs. It does call a fall from 6 to 4 points a confusion of
Moderate with Poor, so a boundary belongs to the lower grade here: Poor is 0 ≤ s ≤ 4, Moderate 4 < s ≤ 6, Good
6 < s ≤ 8, Excellent 8 < s ≤ 10. The accuracy of a grade is over the cases that truly have it, which is how
"263/309" of Excellent images in the paper reads.

A prediction that is no number from 0 to 10, or is missing, is wrong on every column, with the largest error
that a score could have had. Knows nothing of planes or of how points are deducted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.measure import Measure, mean, share
from eval.pairs import Pair, PairError

GRADES = ("Poor", "Moderate", "Good", "Excellent")
BOUNDARIES = (4, 6, 8)  # the last point of Poor, Moderate, Good
HIGHEST = 10
UNPARSED = len(GRADES)  # its column in the confusion matrix
SLACK = 1e-9  # 8.3 − 7.3 is a little more than one point in floating point


def measures(pairs: Sequence[Pair]) -> list[Measure]:
    """Every column about scores, over pairs whose truth has one; PairError for one that is not in 0–10."""
    scores = [(_true_score(pair), _predicted_score(pair)) for pair in pairs]
    grades = [(None if true is None else _rank(true), _rank(said)) for true, said in scores]
    errors = np.array([_error(true, said) for true, said in scores], dtype=np.float64)
    receipt = "grades:4,6,8-to-the-lower|missing:wrong"
    right = [None if true is None else true == said for true, said in grades]
    columns = [share("Grade accuracy", right, receipt)]
    for rank, grade in enumerate(GRADES):
        of_grade = [hit if true == rank else None for hit, (true, _) in zip(right, grades, strict=True)]
        columns.append(share(f"Accuracy {grade}", of_grade, receipt))
    near = [
        None if true is None else said is not None and abs(true - said) <= 1 + SLACK for true, said in scores
    ]
    unparsed = [None if true is None else said is None for true, said in scores]
    return [
        *columns,
        mean("MAE", errors, "points:0-10|missing:largest-error", scale=1.0, lower_is_better=True),
        share("Within 1", near, "points:0-10|missing:wrong"),
        share("Unparsed", unparsed, "no score from 0 to 10", lower_is_better=True),
    ]


def confusion(pairs: Sequence[Pair]) -> np.ndarray:
    """int64 [4, 5]: rows are true grades Poor to Excellent, columns the predicted ones, then "no score"."""
    table = np.zeros((len(GRADES), len(GRADES) + 1), dtype=np.int64)
    for pair in pairs:
        true = _true_score(pair)
        if true is not None:
            table[_rank(true), _rank(_predicted_score(pair))] += 1
    return table


def grade(score: float) -> str:
    """The grade of a score from 0 to 10, boundaries in the lower one; ValueError for anything else."""
    if not _is_score(score):
        raise ValueError(f"score {score!r:.60} is not a number from 0 to {HIGHEST}")
    return GRADES[_rank(score)]


def _rank(score: float | None) -> int:
    return UNPARSED if score is None else bisect_left(BOUNDARIES, score - SLACK)


def _error(true: float | None, said: float | None) -> float:
    """Points between two scores; without a prediction the most there could be, NaN without a truth."""
    if true is None:
        return np.nan
    return max(true, HIGHEST - true) if said is None else abs(true - said)


def _true_score(pair: Pair) -> float | None:
    score = pair.values.get("score")
    if score is not None and not _is_score(score):
        raise PairError(f"id {pair.id!r}: score {score!r:.60} is not a number from 0 to {HIGHEST}.")
    return score


def _predicted_score(pair: Pair) -> float | None:
    score = None if pair.prediction is None else pair.values.get("prediction_score")
    return score if _is_score(score) else None


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= HIGHEST
