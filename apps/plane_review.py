"""One image as it was judged: what a page keeps of it, and what leaves the page as CSV and JSON.

Boxes are in pixels of the file's own picture; `path` is the part of it that the model saw, which begins at
`offset`. Knows nothing of components, events or HTML.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from assistants.abvlm_q.assistant import PlaneReply
from assistants.abvlm_q.scoring import (
    Add,
    Assessment,
    Change,
    Correct,
    Judged,
    Place,
    Remove,
    Rename,
    Strike,
    Structure,
    points_of,
    revise,
)
from imaging.planes import ATTENUATION, FAULTS, NON_STANDARD, Planes
from models.boxes import Box
from models.errors import ModelError

COLUMNS = ("file", "plane", "score", "grade", "main_deduction", "deductions", "boxes", "doubts", "by")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would compute


@dataclass(frozen=True)
class Review:
    """An image, and what is known of it. `error` is a sentence in each language where it could not be
    judged."""

    source: str
    path: str
    offset: tuple[int, int]
    size: tuple[int, int]  # width and height of what the model saw
    assessment: Assessment | None = None
    unfamiliar: bool = False
    finished: bool = False
    error: Mapping[str, str] | None = None

    def with_reply(self, reply: PlaneReply) -> Review:
        """As it stands after this much of the answer."""
        return replace(
            self, assessment=reply.assessment, unfamiliar=bool(reply.unfamiliar), finished=reply.finished
        )

    def changed(self, change: Change, protocol: Planes) -> Review:
        """After a clinician's change; ValueError where it cannot be made (`scoring.revise`)."""
        return replace(self, assessment=revise(self.assessment, change, protocol))


def addable(assessment: Assessment, protocol: Planes) -> list[tuple[str, str, float]]:
    """Deductions that these planes know, as (subject, fault, points); none for a view that is not scored."""
    if assessment.score is None:
        return []
    structures = protocol.key_structures(assessment.planes)
    pairs = [(structure, fault) for structure in structures for fault in FAULTS]
    pairs += [(ATTENUATION, step.key) for step in protocol.attenuation_grades]
    counted = {each.item for each in assessment.deductions if not each.struck}
    found = [(*pair, points_of(*pair, assessment.planes, protocol)) for pair in pairs]
    return [each for each in found if each[2] and f"{each[0]}.{each[1]}" not in counted]


def strike(item: str) -> Strike:
    return Strike(item)


def add(item: str, assessment: Assessment, reason: str = "") -> Add:
    """The deduction of "subject.fault"; it points to the structure's boxes, unless it says there is none."""
    subject, _, fault = item.rpartition(".")
    seen = fault != "not_displayed"
    places = tuple(each.box for each in assessment.structures if seen and each.label == subject)
    return Add(subject, fault, " ".join(reason.split()), places)


def correct(
    index: int, edges: Sequence[float | None], label: str | None, review: Review, protocol: Planes
) -> Correct:
    """The box at `index` as it was typed, under another name where one was chosen.

    ModelError for what is no box inside the part of the picture that the model saw, and where neither name
    is the protocol's; ValueError for a box that is not there.
    """
    structures = review.assessment.structures
    if not 0 <= index < len(structures):
        raise ValueError(f"there is no box {index} among {len(structures)}")
    label = label or structures[index].label
    return Correct(index, _typed(edges, review), _known(label, protocol))


def place(edges: Sequence[float | None], label: str | None, review: Review, protocol: Planes) -> Place:
    """A box that was missing, as it was typed; ModelError as for `correct`, and for one that is there."""
    box, label = _typed(edges, review), _known(label, protocol)
    if any((each.label, each.box) == (label, box) for each in review.assessment.structures):
        raise ModelError("this box is there already.", "该边界框已经存在。")
    return Place(label, box)


def remove(index: int) -> Remove:
    return Remove(index)


def rename(chosen: Sequence[str], protocol: Planes) -> Rename:
    """Other planes, in the protocol's order; ModelError for none, and for a non-standard view beside one."""
    planes = tuple(key for key in (*protocol.planes, NON_STANDARD) if key in chosen)
    if not planes or (NON_STANDARD in planes and len(planes) > 1):
        raise ModelError(
            "choose one or more planes, or the non-standard view alone.",
            "请选择一个或多个标准切面，或单独选择非标准切面。",
        )
    return Rename(planes)


def _known(label: str | None, protocol: Planes) -> str:
    if label not in protocol.structures:
        raise ModelError("choose the structure's name.", "请选择结构名称。")
    return label


def _typed(edges: Sequence[float | None], review: Review) -> Box:
    if any(edge is None for edge in edges):
        raise ModelError("a box needs all four numbers.", "边界框需要填写全部四个数值。")
    x1, y1, x2, y2 = (round(edge) for edge in edges)
    (left, top), (width, height) = review.offset, review.size
    right, bottom = left + width, top + height
    if not (left <= x1 < x2 <= right and top <= y1 < y2 <= bottom):
        raise ModelError(
            f"a box has x1 below x2 and y1 below y2, here x from {left} to {right} and y from {top} to "
            f"{bottom}.",
            f"边界框须满足 x1 < x2、y1 < y2，且 x 在 {left} 至 {right} 之间，y 在 {top} 至 {bottom} 之间。",
        )
    return x1, y1, x2, y2


def main_deduction(assessment: Assessment) -> Judged | None:
    """The dearest one that counts, the first of equals."""
    counted = [each for each in assessment.deductions if not each.struck]
    return max(counted, key=lambda each: each.points, default=None)


def record(review: Review) -> dict[str, Any]:
    """All that is known of an image, ready for JSON: keys of the protocol, boxes in the file's own pixels."""
    if review.error is not None:
        return {"file": review.source, "error": review.error["en"]}
    found = review.assessment
    return {
        "file": review.source,
        "plane": list(found.planes),
        "plane_by": found.planes_by,
        "score": found.score,
        "grade": found.grade,
        "stated_score": found.stated_score,
        "boxes": [_box(each) for each in found.structures],
        "withdrawn_boxes": [_box(each) for each in found.withdrawn],
        "deductions": [asdict(each) for each in found.deductions],
        "flags": list(found.flags),
        "refused": dict(found.refused),
        "corrected": dict(found.corrected),
        "unfamiliar": review.unfamiliar,
        "finished": review.finished,
        "by": found.by,
    }


def _box(structure: Structure) -> dict[str, Any]:
    return {"label": structure.label, "box": list(structure.box), "by": structure.by}


def as_json(reviews: Iterable[Review], model: str) -> str:
    """The records of a queue, with what they are worth."""
    note = "AI draft, research use only, not for clinical diagnosis"
    words = {"model": model, "note": note, "images": [record(review) for review in reviews]}
    return json.dumps(words, ensure_ascii=False, indent=1) + "\n"


def as_csv(reviews: Iterable[Review], model: str) -> str:
    """One line an image, with COLUMNS and the model; as Excel reads it (a mark first, no formulas)."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*COLUMNS, "model"])
    for review in reviews:
        writer.writerow([_plain(value) for value in (*_line(record(review)), model)])
    return "\ufeff" + text.getvalue()


def _line(values: Mapping[str, Any]) -> list[str]:
    if "error" in values:
        return [values["file"], *[""] * (len(COLUMNS) - 3), values["error"], ""]
    counted = [each for each in values["deductions"] if not each["struck"]]
    dearest = max(counted, key=lambda each: each["points"], default={"item": ""})
    score = "" if values["score"] is None else f"{values['score']:g}"
    return [
        values["file"],
        "; ".join(values["plane"]),
        score,
        values["grade"] or "",
        dearest["item"],
        "; ".join(f"{each['item']} -{each['points']:g}" for each in counted),
        "; ".join(f"{each['label']} {' '.join(map(str, each['box']))}" for each in values["boxes"]),
        "; ".join([*values["flags"], *(["unfamiliar"] if values["unfamiliar"] else [])]),
        values["by"],
    ]


def _plain(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA) else value
