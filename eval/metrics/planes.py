"""Standard planes: none, one or several names for an image, against those it truly shows.

AbVLM-Q (2025), Table 3: label accuracy is the share of yes-or-no labels that are right (1 − Hamming loss),
subset accuracy the share of images with every label right; F1 over labels as in scikit-learn. The paper does
not say which mean its F1 is, so micro and macro are both here.

The labels are those given, or every name that is true somewhere. A name outside them is one wrong label more.
An image without an answer is wrong on every label. Names are compared as written, blanks around them aside;
knows nothing of what a plane shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from eval.measure import Measure, f_score, mean, ratio, share
from eval.pairs import Pair, PairError


def measures(pairs: Sequence[Pair], labels: Sequence[str] | None = None) -> list[Measure]:
    """Every column about planes, over the pairs whose truth names them (an empty list says "no plane").

    With `labels` given macro F1 is over all of them, and a label that is neither true nor predicted scores 0
    (scikit-learn's zero_division=0); without, it is over those that occur in the group that is scored, as
    scikit-learn does with that group's own labels. PairError for a truth that is no list of names, or that is
    not among `labels`; ValueError for labels twice.
    """
    truths = [_true_planes(pair) for pair in pairs]
    names = sorted(set().union(*(true for true in truths if true))) if labels is None else list(labels)
    if len(set(names)) < len(names):
        raise ValueError(f"labels {names!r} hold a name twice")
    stated = [_stated_planes(pair) for pair in pairs]
    for pair, true in zip(pairs, truths, strict=True):
        if true is not None and not true <= set(names):
            raise PairError(
                f"id {pair.id!r}: plane {min(true - set(names))!r:.60} is not one of {', '.join(names)}."
            )
    both = list(zip(truths, stated, strict=True))
    receipt = f"labels:{len(names)}{'' if labels is None else '-given'}|missing:wrong"
    tallies = [np.array([_tally(true, said, name) for true, said in both]).reshape(-1, 3) for name in names]
    overall = np.array([(0, 0, 0) if true is None else _overlap(true, said) for true, said in both])
    return [
        mean("Label accuracy", [_label_accuracy(true, said, len(names)) for true, said in both], receipt),
        share("Subset accuracy", [None if true is None else true == said for true, said in both], receipt),
        Measure("Micro F1", overall.reshape(-1, 3).astype(np.float64), f_score, receipt),
        Measure(
            "Macro F1",
            np.concatenate([np.zeros((len(pairs), 0)), *tallies], axis=1),
            partial(macro_f1, absent_counts=labels is not None),
            receipt + f"|absent:{'left-out' if labels is None else '0'}",
        ),
    ]


def macro_f1(sums: np.ndarray, absent_counts: bool = False) -> np.ndarray:
    """Sums of (right, stated, true), label after label [..., 3 * labels] -> mean F1 over the labels [...].

    A label that is neither stated nor true is left out, or scores 0 where `absent_counts`; NaN where all are.
    """
    figures = f_score(sums.reshape(*sums.shape[:-1], sums.shape[-1] // 3, 3))
    found = ~np.isnan(figures)
    over = np.where(found.any(axis=-1), figures.shape[-1], 0) if absent_counts else found.sum(axis=-1)
    return ratio(np.stack([np.where(found, figures, 0.0).sum(axis=-1), over], axis=-1))


def _overlap(true: set[str], said: set[str] | None) -> tuple[int, int, int]:
    said = said or set()
    return len(true & said), len(said), len(true)


def _tally(true: set[str] | None, said: set[str] | None, name: str) -> tuple[int, int, int]:
    return (0, 0, 0) if true is None else _overlap(true & {name}, (said or set()) & {name})


def _label_accuracy(true: set[str] | None, said: set[str] | None, labels: int) -> float:
    """Share of right labels; NaN without a truth, or where there are no labels at all."""
    if true is None or labels == 0:
        return np.nan
    return 0.0 if said is None else max(0, labels - len(true ^ said)) / labels


def _true_planes(pair: Pair) -> set[str] | None:
    value = pair.values.get("plane")
    if value is None:
        return None
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(
        isinstance(name, str) and name.strip() for name in names
    ):
        raise PairError(f"id {pair.id!r}: plane {value!r:.60} is not a list of names.")
    return {name.strip() for name in names}


def _stated_planes(pair: Pair) -> set[str] | None:
    """The names predicted; None without an answer, or where it gives no list of names."""
    value: Any = None if pair.prediction is None else pair.values.get("prediction_plane")
    names = [value] if isinstance(value, str) else value
    return {str(name).strip() for name in names} if isinstance(names, list | tuple) else None
