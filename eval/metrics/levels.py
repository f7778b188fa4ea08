"""Quality levels (low, medium, high): how often they are right, and whether a rater tells them apart at all.

Ultrasound-QBench (2025), Table I, prints the accuracy alone; 34.21 and 34.99 % come back there over models
and prompts, which is what one level said of every image scores. So the share of each predicted level, the
rate of the commonest true level, balanced accuracy and a kappa with quadratic weights (Cohen 1968) stand
beside it. Definitions are scikit-learn's where it has them.

A level comes from `prediction_level` or else is the largest of `prediction_logits`. An answer with neither is
unparsed and wrong; so is a case without an answer. A rater that decides on the same case in further ways says
so under the keys of WAYS; each has its own columns ("Accuracy clustered"), and a case that was answered in
such a way alone does not count in the plain ones. Knows nothing of how logits are made, scored or clustered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eval.measure import Finish, Measure, f_score, ratio
from eval.pairs import Pair, PairError

LEVELS = ("low", "medium", "high")  # rising: the order of the confusion matrix and of kappa's weights
UNPARSED = len(LEVELS)  # its column in the confusion matrix
WAYS = {"softmax": "prediction_level_softmax", "clustered": "prediction_level_clustered"}

# Of a further way: enough to compare it with the plain one; the others would fill a page.
IN_EVERY_WAY = ("Accuracy", "Balanced accuracy", "Kappa", *(f"Recall {level}" for level in LEVELS))

RANKS = np.arange(len(LEVELS), dtype=np.float64)
STEPS = (RANKS[:, None] - RANKS) ** 2
# No level is as far from the truth as a level can be: leaving such cases out would reward silence.
KAPPA_WEIGHTS = np.concatenate(
    [STEPS, STEPS.max(axis=1, keepdims=True)], axis=1
)  # [true, predicted or unparsed]


def measures(pairs: Sequence[Pair]) -> list[Measure]:
    """Every column about levels, over pairs whose truth has one; PairError for one that is not of LEVELS."""
    plain = _columns(_tables(pairs))
    further = []
    for way, key in WAYS.items():
        if any(key in pair.values for pair in pairs):
            further += [
                replace(column, name=f"{column.name} {way}", receipt=f"{column.receipt}|way:{way}")
                for column in _columns(_tables(pairs, way))
                if column.name in IN_EVERY_WAY
            ]
    return [*plain, *further]


def _columns(table: np.ndarray) -> list[Measure]:
    """The columns of one way to decide, from its confusion matrices [cases, 3, 4]."""
    truth, right = table.sum(axis=2), np.diagonal(table, axis1=1, axis2=2)  # both [cases, 3]
    cases = truth.sum(axis=1)
    receipt = "levels:low,medium,high|from:level-else-argmax-logits|unparsed:wrong"

    def share(name: str, hits: np.ndarray, of: np.ndarray, **details) -> Measure:
        return Measure(name, np.stack([hits, of], axis=1), ratio, receipt, share=True, **details)

    def figure(name: str, finish: Finish, note: str = "", **details) -> Measure:
        return Measure(name, table.reshape(len(table), KAPPA_WEIGHTS.size), finish, receipt + note, **details)

    columns = [
        share("Accuracy", right.sum(axis=1), cases),
        figure("Balanced accuracy", balanced_accuracy),
        figure("Macro F1", macro_f1),
        figure("Kappa", kappa, "|weights:quadratic|unparsed:farthest", scale=1.0),
    ]
    columns += [share(f"Recall {level}", right[:, i], truth[:, i]) for i, level in enumerate(LEVELS)]
    columns += [
        share(f"Precision {level}", right[:, i], table[:, :, i].sum(axis=1)) for i, level in enumerate(LEVELS)
    ]
    columns += [
        share(f"Predicted {level}", table[:, :, i].sum(axis=1), cases) for i, level in enumerate(LEVELS)
    ]
    return [
        *columns,
        share("Unparsed", table[:, :, UNPARSED].sum(axis=1), cases, lower_is_better=True),
        figure("Majority rate", majority_rate),
    ]


def confusion(pairs: Sequence[Pair], way: str | None = None) -> np.ndarray:
    """int64 [3, 4]: rows are true levels low to high, columns predicted levels low to high, then unparsed.

    `way` is one of WAYS, or None for the plain level."""
    return _tables(pairs, way).sum(axis=0).astype(np.int64)


def balanced_accuracy(sums: np.ndarray) -> np.ndarray:
    """Summed confusion matrices [..., 12] -> mean recall over the levels that occur as truth [...]."""
    table = _square(sums)
    truth = table.sum(axis=-1)
    return _mean_where(truth > 0, ratio(np.stack([np.diagonal(table, axis1=-2, axis2=-1), truth], axis=-1)))


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Summed confusion matrices [..., 12] -> mean F1 over the levels that are true or predicted [...]."""
    table = _square(sums)
    right, stated = np.diagonal(table, axis1=-2, axis2=-1), table[..., :UNPARSED].sum(axis=-2)
    figures = f_score(np.stack([right, stated, table.sum(axis=-1)], axis=-1))  # [..., 3]
    return _mean_where(~np.isnan(figures), figures)


def kappa(sums: np.ndarray) -> np.ndarray:
    """Summed confusion matrices [..., 12] -> Cohen's kappa with quadratic weights [...].

    NaN where chance alone could not disagree (one true level, nothing else predicted), as in scikit-learn.
    """
    table = _square(sums)
    total = table.sum(axis=(-2, -1))
    by_chance = table.sum(axis=-1)[..., :, None] * table.sum(axis=-2)[..., None, :]
    disagreement, expected = (KAPPA_WEIGHTS * table).sum((-2, -1)), (KAPPA_WEIGHTS * by_chance).sum((-2, -1))
    return 1 - ratio(np.stack([disagreement * total, expected], axis=-1))


def majority_rate(sums: np.ndarray) -> np.ndarray:
    """Summed confusion matrices [..., 12] -> the accuracy of always saying the commonest true level [...]."""
    truth = _square(sums).sum(axis=-1)
    return ratio(np.stack([truth.max(axis=-1), truth.sum(axis=-1)], axis=-1))


def _square(sums: np.ndarray) -> np.ndarray:
    return sums.reshape(*sums.shape[:-1], *KAPPA_WEIGHTS.shape)


def _mean_where(counted: np.ndarray, figures: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the figures that are counted; NaN where none is."""
    return ratio(np.stack([np.where(counted, figures, 0.0).sum(axis=-1), counted.sum(axis=-1)], axis=-1))


def _tables(pairs: Sequence[Pair], way: str | None = None) -> np.ndarray:
    """float64 [cases, 3, 4]: a one where truth and prediction of a case meet; zeros without a true level, and
    for a case that was not decided in this way."""
    tables = np.zeros((len(pairs), *KAPPA_WEIGHTS.shape))
    for table, pair in zip(tables, pairs, strict=True):
        truth = _true_level(pair)
        if truth is not None and _is_decided(pair, way):
            table[truth, _predicted_level(pair, way)] = 1
    return tables


def _is_decided(pair: Pair, way: str | None) -> bool:
    if way is not None:
        return WAYS[way] in pair.values
    return "prediction_level" in pair.values or not any(key in pair.values for key in WAYS.values())


def _true_level(pair: Pair) -> int | None:
    value = pair.values.get("level")
    if value is None or value == "":
        return None
    level = _level(value)
    if level is None:
        raise PairError(f"id {pair.id!r}: level {value!r:.60} is not one of high, medium, low.")
    return level


def _predicted_level(pair: Pair, way: str | None) -> int:
    if pair.prediction is None:
        return UNPARSED
    if way is not None:
        stated = _level(pair.values[WAYS[way]])
        return UNPARSED if stated is None else stated
    stated = _level(pair.values.get("prediction_level"))
    return _largest(pair.values.get("prediction_logits")) if stated is None else stated


def _level(value: Any) -> int | None:
    name = value.strip().lower() if isinstance(value, str) else None
    return LEVELS.index(name) if name in LEVELS else None


def _largest(logits: Any) -> int:
    """Argmax over the three levels; of equal logits the lower level. UNPARSED unless each is a number below
    infinity and one of them is above minus infinity, which is a level that was ruled out."""
    found = [logits.get(level) for level in LEVELS] if isinstance(logits, Mapping) else [None]
    numbers = all(isinstance(logit, int | float) and not isinstance(logit, bool) for logit in found)
    if not numbers or not all(-np.inf <= logit < np.inf for logit in found) or max(found) == -np.inf:
        return UNPARSED
    return found.index(max(found))
