"""Structures found with boxes: precision, recall, false positives and how well the boxes lie.

AbVLM-Q (2025), Tables 1 and 2. The paper gives neither the overlap nor the matching rule, so both are chosen
and stand in the receipt: a predicted and a true box of one label may match from an intersection over union
(IoU) of 0.5, each box once. "greedy" takes pairs in the order of falling IoU; "hungarian" takes the
assignment with the largest sum of IoU (scipy). "Mean recall" is the mean over structures. Mean IoU is over
matched boxes only.

Boxes are [x1, y1, x2, y2] in any unit, without the "+1" of pixel counting; labels are compared as written. A
predicted box that is none (reversed, empty, NaN, three numbers) is a false positive. An image without an
answer misses all its structures, and is left out of false positives, which would reward it.

Knows nothing of images, of where coordinates start or of how a text is parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.measure import Measure, f_score, ratio
from eval.pairs import Pair, PairError

RIGHT, STATED, TRUE, OVERLAP = range(4)  # what is tallied for each structure of an image
FARTHEST = 1e9  # coordinates beyond it are no picture; squares of them would overflow in silence

Matcher = Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image, float64 [n, 4]; their labels; the labels of what was no box (None: no label)."""

    corners: np.ndarray
    labels: tuple[str, ...]
    broken: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class _Scene:
    """One image whose structures are known."""

    true: Boxes
    stated: Boxes
    overlap: np.ndarray  # float64 [stated, true]
    answered: bool


def measures(
    pairs: Sequence[Pair],
    iou: float | Sequence[float] = 0.5,
    matching: str = "greedy",
    per_structure: bool = False,
) -> list[Measure]:
    """Every column about boxes, over the pairs whose truth has them (an empty list says "nothing is here").

    `iou` is the overlap from which boxes may match; the columns of every further one end with it ("Recall
    @0.3"). `matching` is a key of MATCHERS. With `per_structure` each structure that is true somewhere has
    its own columns too ("Recall liver"). PairError for a true box that is none; ValueError for an `iou`
    outside (0, 1] or an unknown matching.
    """
    if matching not in MATCHERS:
        raise ValueError(f"matching {matching!r} is not one of {', '.join(MATCHERS)}")
    thresholds = [iou] if isinstance(iou, int | float) else list(dict.fromkeys(iou))
    if not thresholds or not all(0 < threshold <= 1 for threshold in thresholds):
        raise ValueError(f"iou {iou!r} must be above 0 and no more than 1")
    scenes = [_scene(pair) for pair in pairs]
    structures = sorted({label for scene in scenes if scene for label in scene.true.labels})
    answered = np.array([scene is not None and scene.answered for scene in scenes], dtype=bool)
    columns: list[Measure] = []
    for threshold in thresholds:
        at = "" if threshold == thresholds[0] else f" @{threshold:g}"
        receipt = f"iou:{threshold:g}|match:{matching}|one-to-one|invalid:fp"
        tallies = np.array([_tally(scene, structures, threshold, MATCHERS[matching]) for scene in scenes])
        tallies = tallies.reshape(len(pairs), len(structures) + 1, 4)
        columns += _columns(tallies.sum(axis=1), answered, at, receipt)
        columns.append(_mean_recall(tallies[:, :-1], at, f"{receipt}|structures:{len(structures)}"))
        for place, structure in enumerate(structures if per_structure else ()):
            columns += _columns(tallies[:, place], answered, f" {structure}{at}", receipt)
    broken = np.array([len(scene.stated.broken) if scene else 0 for scene in scenes])
    return [*columns, _total("Invalid boxes", broken, answered, "reversed, empty or not four numbers")]


def overlaps(stated: Boxes, true: Boxes) -> np.ndarray:
    """float64 [stated, true]: the IoU of every two boxes of one label, 0 between labels."""
    same = np.array(stated.labels, dtype=object)[:, None] == np.array(true.labels, dtype=object)
    return np.where(same, intersection_over_union(stated.corners, true.corners), 0.0)


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The overlap of every box of a [n, 4] with every box of b [m, 4]: [n, m], from 0 to 1."""
    a, b = a[:, None], b[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.clip(sides, 0, None).prod(axis=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(axis=-1) for boxes in (a, b)]
    return common / (areas[0] + areas[1] - common)


def greedy(overlap: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Matched rows and columns of `overlap`, in the order of falling overlap; of equal ones the first."""
    rows, columns = np.nonzero(overlap >= threshold)
    free_rows, free_columns = np.ones(overlap.shape[0], bool), np.ones(overlap.shape[1], bool)
    taken: list[int] = []
    for k in np.argsort(-overlap[rows, columns], kind="stable"):
        if free_rows[rows[k]] and free_columns[columns[k]]:
            free_rows[rows[k]] = free_columns[columns[k]] = False
            taken.append(k)
    return rows[taken], columns[taken]


def hungarian(overlap: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Matched rows and columns of `overlap` with the largest sum, of pairs that reach the threshold."""
    from scipy.optimize import linear_sum_assignment

    # What is below the threshold must not draw a box away from a pair that counts.
    rows, columns = linear_sum_assignment(np.where(overlap >= threshold, overlap, 0.0), maximize=True)
    counts = overlap[rows, columns] >= threshold
    return rows[counts], columns[counts]


MATCHERS: dict[str, Matcher] = {"greedy": greedy, "hungarian": hungarian}


def _tally(scene: _Scene | None, structures: Sequence[str], threshold: float, match: Matcher) -> np.ndarray:
    """What an image adds: float64 [structures + 1, 4], the last row for labels that are true nowhere."""
    tally = np.zeros((len(structures) + 1, 4))
    if scene is None:
        return tally
    place = {structure: row for row, structure in enumerate(structures)}
    for label in scene.true.labels:
        tally[place[label], TRUE] += 1
    for label in (*scene.stated.labels, *scene.stated.broken):
        tally[place.get(label, -1), STATED] += 1
    for row, column in zip(*match(scene.overlap, threshold), strict=True):
        tally[place[scene.true.labels[column]], [RIGHT, OVERLAP]] += 1, scene.overlap[row, column]
    return tally


def _columns(tally: np.ndarray, answered: np.ndarray, name: str, receipt: str) -> list[Measure]:
    """The columns of one structure or of all together from `tally` [cases, 4]; `name` ends their names."""
    wrong = tally[:, STATED] - tally[:, RIGHT]
    per_image = np.stack([wrong, answered], axis=1)
    return [
        Measure(f"Precision{name}", tally[:, [RIGHT, STATED]], ratio, receipt),
        Measure(f"Recall{name}", tally[:, [RIGHT, TRUE]], ratio, receipt),
        Measure(f"F1{name}", tally[:, [RIGHT, STATED, TRUE]], f_score, receipt),
        _total(f"FP{name}", wrong, answered, receipt),
        Measure(f"FP per image{name}", per_image, ratio, receipt, scale=1.0, lower_is_better=True),
        Measure(f"Mean IoU{name}", tally[:, [OVERLAP, RIGHT]], ratio, receipt, scale=1.0),
    ]


def _mean_recall(tallies: np.ndarray, name: str, receipt: str) -> Measure:
    counts = tallies[:, :, [RIGHT, TRUE]].reshape(len(tallies), 2 * tallies.shape[1])
    return Measure(f"Mean recall{name}", counts, mean_recall, receipt)


def mean_recall(sums: np.ndarray) -> np.ndarray:
    """Sums of (right, true), structure after structure [..., 2 * structures] -> mean recall [...] over those
    that are true somewhere."""
    recalls = ratio(sums.reshape(*sums.shape[:-1], sums.shape[-1] // 2, 2))
    found = ~np.isnan(recalls)
    return ratio(np.stack([np.where(found, recalls, 0.0).sum(axis=-1), found.sum(axis=-1)], axis=-1))


def _total(name: str, counts: np.ndarray, answered: np.ndarray, receipt: str) -> Measure:
    rows = np.stack([counts, answered], axis=1).astype(np.float64)
    return Measure(name, rows, total, receipt, scale=1.0, lower_is_better=True)


def total(sums: np.ndarray) -> np.ndarray:
    """Counts (found, images) -> how many were found in all; NaN over no image."""
    return np.where(sums[..., 1] > 0, sums[..., 0], np.nan)


def _scene(pair: Pair) -> _Scene | None:
    value = pair.values.get("boxes")
    if value is None:
        return None
    true = _read(value)
    if true.broken:
        raise PairError(
            f"id {pair.id!r}: boxes {value!r:.80} must be a list of "
            '{"label": name, "box": [x1, y1, x2, y2]} with x1 < x2 and y1 < y2.'
        )
    answered = pair.prediction is not None
    found = pair.values.get("prediction_boxes") if answered else None
    stated = _read([] if found is None else found)
    return _Scene(true, stated, overlaps(stated, true), answered)


def _read(value: Any) -> Boxes:
    """Boxes of a list as it came from a file; a value that is no list is one broken box."""
    corners, labels, broken = [], [], []
    for box in value if isinstance(value, list | tuple) else [None]:
        found = box.get("box") if isinstance(box, dict) else None
        label = box.get("label") if isinstance(box, dict) else None
        label = label.strip() if isinstance(label, str) and label.strip() else None
        if label is None or not _is_box(found):
            broken.append(label)
        else:
            corners.append(found)
            labels.append(label)
    return Boxes(np.array(corners, dtype=np.float64).reshape(-1, 4), tuple(labels), tuple(broken))


def _is_box(corners: Any) -> bool:
    if not isinstance(corners, list | tuple) or len(corners) != 4:
        return False
    numbers = all(isinstance(c, int | float) and not isinstance(c, bool) for c in corners)
    # Neither NaN nor infinity nor an integer too long for a float passes the comparison.
    if not numbers or not all(abs(c) <= FARTHEST for c in corners):
        return False
    x1, y1, x2, y2 = corners
    return x2 > x1 and (x2 - x1) * (y2 - y1) > 0  # sides can be too short for their area
