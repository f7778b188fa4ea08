"""Whether two reports agree on the clinical facts that are read out of them.

Overlap metrics reward a report that says the opposite in the same words ("left" for "right", 可见 for 未见).
Here what each text states (`eval.metrics.clinical`) is compared: precision, recall and F1 over facts, as
CheXpert's labels (Irvin et al. 2019) are used for reports of chest films.

Which column sees a flipped negation: where 未见 became 可见 and nothing else is said, "findings F1" and
"lesion F1" are 0 and "flips" is 100. "side F1" is the one for left and right. "clinical F1" counts all facts
together: it keeps what such a pair still agrees on (organ, side) and falls to 33-67, not to 0.

Knows nothing of how a text is read, and not which of several lesions a fact belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.measure import Measure, f_score, ratio
from eval.metrics.clinical import Statements, digest, statements
from eval.pairs import Pair

ASPECTS = {  # of Statements -> of a column
    "organ": "organ",
    "side": "side",
    "lesion": "lesion",
    "kind": "kind",
    "size": "size",
    "rads": "RADS",
    "findings": "findings",
}
TOLERANCE = 0.1  # of the true diameter; chosen, not tuned
_NOTHING = Statements()


def measures(pairs: Sequence[Pair], *, every: bool = False) -> list[Measure]:
    """Agreement on clinical facts as columns, one row of counts for each pair.

    F1 for each of ASPECTS, with precision and recall for the findings; "flips", the share of findings named
    by both that the prediction turns round; "clinical F1" over all facts together. A text gives at most one
    organ and one verdict on the lesion, and mostly one side, kind, size and category, so their precision and
    recall say little that F1 does not; `every` adds them. A prediction of None or blank states nothing. Of
    several references the one that agrees best counts; a pair whose references are blank counts nowhere.
    """
    texts = {text for pair in pairs for text in (*pair.references, pair.prediction or "") if text.strip()}
    said = {text: statements(text) for text in texts}
    counts = np.zeros((len(pairs), len(ASPECTS), 3))
    turned = np.zeros((len(pairs), 2))
    for row, pair in enumerate(pairs):
        predicted = said.get(pair.prediction or "", _NOTHING)
        compared = [
            (_agreement(predicted, said[text]), said[text]) for text in pair.references if text in said
        ]
        if compared:
            counts[row], best = max(compared, key=lambda found: _overall(found[0], predicted))
            turned[row] = _flips(predicted.findings, best.findings)
    return _columns(counts, turned, every)


def _columns(counts: np.ndarray, turned: np.ndarray, every: bool) -> list[Measure]:
    receipt = f"rules:{digest()}|facts:each once|size:±{TOLERANCE:.0%}|references:best".replace("%", " %")
    columns: list[Measure] = []
    aspects = {title: counts[:, index] for index, title in enumerate(ASPECTS.values())}
    for title, rows in {**aspects, "clinical": counts.sum(axis=1)}.items():
        if title == "clinical":
            columns.append(Measure("flips", turned, ratio, receipt, lower_is_better=True))
        if every or title == "findings":
            columns.append(Measure(f"{title} P", rows, _precision, receipt))
            columns.append(Measure(f"{title} R", rows[:, [0, 2]], ratio, receipt))
        columns.append(Measure(f"{title} F1", rows, f_score, receipt))
    return columns


def _precision(sums: np.ndarray) -> np.ndarray:
    """Counts (right, stated, true) -> right of stated; 0 where nothing is stated of what is true."""
    right, stated, true = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(stated > 0, right / stated, np.where(true > 0, 0.0, np.nan))


def _agreement(predicted: Statements, true: Statements) -> list[tuple[int, int, int]]:
    """(right, stated, true) for each of ASPECTS."""
    rows = []
    for aspect in ASPECTS:
        stated, wanted = getattr(predicted, aspect), getattr(true, aspect)
        right = _matching_sizes(stated, wanted) if aspect == "size" else len(stated & wanted)
        rows.append((right, len(stated), len(wanted)))
    return rows


def _overall(rows: list[tuple[int, int, int]], predicted: Statements) -> float:
    """F1 over all aspects. Two texts without facts agree, unless one of them is no answer."""
    right, stated, true = map(sum, zip(*rows, strict=True))
    if stated + true:
        return 2 * right / (stated + true)
    return 1.0 if predicted is not _NOTHING else -1.0


def _flips(stated: frozenset[tuple[str, bool]], true: frozenset[tuple[str, bool]]) -> tuple[int, int]:
    """(findings that the prediction shows and the reference only denies, or the reverse; named in both)."""
    shared = {name for name, _ in stated} & {name for name, _ in true}
    return len({name for name, _ in stated - true} & shared), len(shared)


def _matching_sizes(stated: frozenset[tuple[float, ...]], true: frozenset[tuple[float, ...]]) -> int:
    """How many sizes agree: equal ones first, then each with the nearest of those that are left."""
    left = sorted(true - stated)
    right = len(true) - len(left)
    for size in sorted(stated - true):
        same = [other for other in left if _same_size(size, other)]
        if same:
            left.remove(min(same, key=lambda other: abs(size[0] - other[0])))
            right += 1
    return right


def _same_size(stated: tuple[float, ...], true: tuple[float, ...]) -> bool:
    """Whether the largest diameters that both give are within TOLERANCE of the true ones."""
    pairs = zip(stated, true, strict=False)
    return all(abs(size - wanted) <= TOLERANCE * wanted + 1e-9 for size, wanted in pairs)
