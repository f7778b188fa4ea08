"""Which of several images is best: how often a rater says so rightly.

Ultrasound-QBench (2025), Table I, "Comparative", which prints one accuracy and does not say how many images
were compared or how far apart they were; so accuracy on two images one level apart stands beside it, and the
share of image pairs that the whole ranking puts in the right order.

The truth is `best_first`, the order of the images, or else their `levels`, of equals any is best. The
prediction is `prediction_ranking`, and the two opinions it is made of. An answer without one is wrong. Knows
nothing of how images were compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from eval.measure import Measure, mean, ratio, share
from eval.pairs import Pair

RISING = ("low", "medium", "high")
OPINIONS = {"by levels": "prediction_best_by_levels", "by question": "prediction_best_by_question"}


def measures(pairs: Sequence[Pair]) -> list[Measure]:
    """Every column about comparisons, over pairs whose truth has an order or levels of several images; none
    where nobody ranked images (a question with options is `eval.metrics.closed`'s)."""
    if not any("prediction_ranking" in pair.values for pair in pairs):
        return []
    worth = [_worth(pair) for pair in pairs]
    right = [
        None if true is None else _is_best(_first(pair), true)
        for pair, true in zip(pairs, worth, strict=True)
    ]
    near = [hit if _one_apart(pair) else None for hit, pair in zip(right, pairs, strict=True)]
    columns = [
        share("Accuracy", right, "best:of-ranking|missing:wrong"),
        share("Accuracy one level apart", near, "images:2|levels:neighbours|missing:wrong"),
    ]
    for name, key in OPINIONS.items():
        hits = [
            None
            if true is None or not _is_list(pair.values.get(key), len(true))
            else _is_best(int(np.argmax(pair.values[key])), true)
            for pair, true in zip(pairs, worth, strict=True)
        ]
        columns.append(share(f"Accuracy {name}", hits, f"best:{name.replace(' ', '-')}-alone"))
    ordered = np.array([_ordered(pair, true) for pair, true in zip(pairs, worth, strict=True)]).reshape(-1, 2)
    chance = [np.nan if true is None else true.count(max(true)) / len(true) for true in worth]
    return [
        *columns,
        Measure("Pairs in order", ordered, ratio, "of-all-pairs-of-images-that-differ|missing:wrong"),
        mean("Chance", chance, "one-image-at-random"),
    ]


def _worth(pair: Pair) -> list[float] | None:
    """What each image is worth in truth; None where the case is no comparison."""
    order, levels = pair.values.get("best_first"), pair.values.get("levels")
    if isinstance(order, list) and len(order) > 1:
        return [-float(order.index(image)) for image in range(len(order))]
    if isinstance(levels, list) and len(levels) > 1 and all(level in RISING for level in levels):
        return [float(RISING.index(level)) for level in levels]
    return None


def _first(pair: Pair) -> int | None:
    ranking = pair.values.get("prediction_ranking")
    return ranking[0] if pair.prediction is not None and isinstance(ranking, list) and ranking else None


def _is_best(image: int | None, worth: Sequence[float]) -> bool:
    return image is not None and image < len(worth) and worth[image] == max(worth)


def _one_apart(pair: Pair) -> bool:
    levels = pair.values.get("levels")
    if not isinstance(levels, list) or len(levels) != 2 or not set(levels) <= set(RISING):
        return False
    return abs(RISING.index(levels[0]) - RISING.index(levels[1])) == 1


def _is_list(value: object, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


def _ordered(pair: Pair, worth: Sequence[float] | None) -> tuple[float, float]:
    """(in the right order, pairs of images that truly differ)."""
    if worth is None:
        return 0.0, 0.0
    differing = [(a, b) for a, b in combinations(range(len(worth)), 2) if worth[a] != worth[b]]
    ranking = pair.values.get("prediction_ranking")
    if pair.prediction is None or not _is_list(ranking, len(worth)):
        return 0.0, float(len(differing))
    place = {image: at for at, image in enumerate(ranking)}
    right = sum((place[a] < place[b]) == (worth[a] > worth[b]) for a, b in differing)
    return float(right), float(len(differing))
