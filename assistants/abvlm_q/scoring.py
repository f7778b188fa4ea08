"""From what a model says to an assessment: the protocol decides what counts and what it costs.

AbVLM-Q (2025), "clinical scoring mechanism" and Fig. 5: ten points less the deductions, then one of four
grades (a boundary belongs to the lower one, as imaging/planes.yaml says). The sum is made here, never by the
model, so that text and number cannot disagree; where the model's own sum differs, that is flagged. A
clinician may strike or add a deduction, correct, add or remove a box, or name other planes: the score
follows, and the change is marked as the clinician's.

Knows nothing of texts, models or pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from assistants.abvlm_q.answers import Answer, Stated, stated_share
from imaging.planes import ATTENUATION, FAULTS, NON_STANDARD, Planes
from models.boxes import CORRECTIONS, Box

MODEL, CLINICIAN = "model", "clinician"

# What makes an assessment doubtful, beside counts of what was refused or put right.
FLAGS = (
    "no_plane",  # none was named that the protocol knows
    "no_deductions",  # the deductions were not named to their end: there is no score
    "no_stated_score",  # the model gave no sum of its own
    "not_judged",  # a clinician named a plane for an image that the model gave no score
    "score_mismatch",  # the model's own sum differs from its deductions'
    "plane_without_structures",  # a plane whose key structures were not found
    "unknown_structure",  # a box for something that is not in the protocol
    "refused_deduction",  # one was named that could not be counted, so the score may be too high
    "missing_deduction",  # a key structure was neither found nor deducted
    "found_but_not_displayed",  # a structure has a box, and points taken for not being displayed
    "share_mismatch",  # the model's grade of attenuation is not that of the share which its reason names
)


@dataclass(frozen=True)
class Structure:
    """A box around a structure (the protocol's key), in pixels of the original image; `by` whom."""

    label: str
    box: Box
    by: str = MODEL


@dataclass(frozen=True)
class Judged:
    """A deduction that counts, with the protocol's points. `struck` ones cost nothing and stay visible;
    `not_demanded` ones are struck only because the planes that a clinician named do not demand them."""

    item: str  # "gallbladder_neck.incomplete", as a case's deductions name it
    subject: str
    fault: str
    points: float
    reason: str = ""
    boxes: tuple[Box, ...] = ()
    by: str = MODEL
    struck: bool = False
    not_demanded: bool = False


@dataclass(frozen=True)
class Assessment:
    """One image judged. `score` and `grade` are None for a view that is not scored, or not judged to the end.

    `refused` and `corrected` count by reason; `flags` are of FLAGS; `by` is "clinician" after any change,
    `planes_by` after one of the planes. `withdrawn` are the model's boxes that a clinician took away or put
    elsewhere.
    """

    structures: tuple[Structure, ...] = ()
    planes: tuple[str, ...] = ()
    deductions: tuple[Judged, ...] = ()
    score: float | None = None
    grade: str | None = None
    stated_score: float | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    corrected: Mapping[str, int] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    by: str = MODEL
    planes_by: str = MODEL
    withdrawn: tuple[Structure, ...] = ()


@dataclass(frozen=True)
class Strike:
    """The deduction of this item does not hold."""

    item: str


@dataclass(frozen=True)
class Add:
    """A deduction that is missing; it takes the place of any other for the same subject."""

    subject: str
    fault: str
    reason: str = ""
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Correct:
    """The structure at `index` is elsewhere, or another one."""

    index: int
    box: Box
    label: str | None = None


@dataclass(frozen=True)
class Place:
    """A structure (the protocol's key) that was missed is here."""

    label: str
    box: Box


@dataclass(frozen=True)
class Remove:
    """At the place of the structure at `index` there is no such structure."""

    index: int


@dataclass(frozen=True)
class Rename:
    """The image is these planes (the protocol's keys, or "non_standard" alone) and no others."""

    planes: tuple[str, ...]


Change = Strike | Add | Correct | Place | Remove | Rename

_OF_THE_MODELS_SUM = ("no_stated_score", "score_mismatch")  # what a clinician's change says nothing about
_NOT_COUNTED = ("deduction", "unknown_deduction", "not_demanded")  # reasons why a deduction was dropped
# Counts that tell what was changed and not dropped.
_CORRECTIONS = (*CORRECTIONS, "points", "repeated")


def assess(answer: Answer, counts: Mapping[str, int], protocol: Planes) -> Assessment:
    """Judge what a model said by the protocol; `counts` are the reader's own.

    Refused: planes and deductions that the protocol does not know ("unknown_plane", "unknown_deduction"),
    that these planes do not demand ("not_demanded"), that came twice ("doubled": of two for one subject the
    dearer counts), and "non_standard" beside a plane. Corrected: "points" that differ from the protocol's.
    """
    told = Counter(counts)
    planes = _planes(answer.planes, protocol, told)
    deductions = _deductions(answer.deductions, planes, protocol, told)
    structures = tuple(Structure(named.label, named.box) for named in answer.boxes)
    assessment = Assessment(
        structures=structures,
        planes=planes,
        deductions=deductions,
        stated_score=answer.score,
        refused={key: n for key, n in sorted(told.items()) if n and key not in _CORRECTIONS},
        corrected={key: n for key, n in sorted(told.items()) if n and key in _CORRECTIONS},
    )
    if answer.judged and _is_scored(planes):
        assessment = _scored(assessment, protocol)
    return replace(assessment, flags=tuple(_flags(assessment, answer.judged, protocol)))


def revise(assessment: Assessment, change: Change, protocol: Planes) -> Assessment:
    """The assessment after a clinician's change, marked as the clinician's; score and flags follow.

    A structure whose last box is removed or renamed is not displayed, which costs what these planes demand;
    one that gets a box no longer loses points for not being displayed.

    Raises ValueError where there is no score to change (Strike, Add), for a deduction that is not there
    (Strike), that the protocol does not know or these planes do not demand (Add), for a box that is not there
    (Correct, Remove), is none or of something unknown (Correct, Place), and for planes that the protocol does
    not have (Rename).
    """
    if isinstance(change, Correct | Place | Remove):
        changed = _with_boxes(assessment, _boxes_after(assessment.structures, change, protocol), protocol)
        return _flagged_anew(changed, protocol)
    if isinstance(change, Rename):
        return _flagged_anew(_renamed(assessment, change.planes, protocol), protocol)
    if assessment.score is None:
        raise ValueError("what is no standard plane, or was not judged to the end, has no score to change")
    if isinstance(change, Strike):
        deductions = _struck(assessment.deductions, change.item)
    else:
        deductions = _added(assessment.deductions, change, assessment.planes, protocol)
    changed = _scored(replace(assessment, deductions=deductions, by=CLINICIAN), protocol)
    return _flagged_anew(changed, protocol)


def points_of(subject: str, fault: str, planes: Iterable[str], protocol: Planes) -> float | None:
    """What a fault costs on these planes: the highest points of any; None where none demands it."""
    if subject == ATTENUATION:
        steps = {step.key: step.points for step in protocol.attenuation_grades}
        return steps.get(fault) if _is_scored(tuple(planes)) else None
    demands = [demand for key in planes if key in protocol.planes for demand in protocol.planes[key].demands]
    own = [demand.points[fault] for demand in demands if demand.structure == subject and fault in FAULTS]
    return max(own, default=None)


def _planes(stated: Iterable[str], protocol: Planes, told: Counter[str]) -> tuple[str, ...]:
    found: list[str] = []
    for key in stated:
        if key in found:
            told["doubled"] += 1
        elif key in protocol.planes or key == NON_STANDARD:
            found.append(key)
        else:
            told["unknown_plane"] += 1
    if NON_STANDARD in found and len(found) > 1:
        told["non_standard"] += 1
        found.remove(NON_STANDARD)
    return tuple(found)


def _deductions(
    stated: Iterable[Stated], planes: tuple[str, ...], protocol: Planes, told: Counter[str]
) -> tuple[Judged, ...]:
    kept: dict[str, Judged] = {}
    for deduction in stated:
        points = points_of(deduction.subject, deduction.fault, planes, protocol)
        if points is None:
            known = _is_known(deduction, protocol)
            told["not_demanded" if known else "unknown_deduction"] += 1
            continue
        if abs(points - deduction.points) > 1e-6:
            told["points"] += 1
        other = kept.get(deduction.subject)
        if other is not None:
            told["doubled"] += 1
        if other is None or points > other.points:
            kept[deduction.subject] = _judged(
                deduction.subject, deduction.fault, points, deduction.reason, deduction.boxes
            )
    return tuple(kept.values())


def _is_known(deduction: Stated, protocol: Planes) -> bool:
    if deduction.subject == ATTENUATION:
        return deduction.fault in [step.key for step in protocol.attenuation_grades]
    return deduction.subject in protocol.structures and deduction.fault in FAULTS


def _judged(
    subject: str, fault: str, points: float, reason: str, boxes: tuple[Box, ...], by: str = MODEL
) -> Judged:
    return Judged(f"{subject}.{fault}", subject, fault, points, reason, boxes, by)


def _is_scored(planes: Sequence[str]) -> bool:
    return bool(planes) and NON_STANDARD not in planes


def _scored(assessment: Assessment, protocol: Planes) -> Assessment:
    score = protocol.score(deduction for deduction in assessment.deductions if not deduction.struck)
    return replace(assessment, score=score, grade=protocol.grade(score).key)


def _flagged_anew(assessment: Assessment, protocol: Planes) -> Assessment:
    """After a clinician's change: a doubt that it settles goes; those about the model's own sum stay."""
    kept = [flag for flag in assessment.flags if flag in _OF_THE_MODELS_SUM]
    judged = "no_deductions" not in assessment.flags
    found = [flag for flag in _flags(assessment, judged, protocol) if flag not in _OF_THE_MODELS_SUM]
    return replace(assessment, flags=tuple(flag for flag in FLAGS if flag in (*kept, *found)))


def _flags(assessment: Assessment, judged: bool, protocol: Planes) -> Iterable[str]:
    planes = assessment.planes
    found = {structure.label for structure in assessment.structures}
    if not planes:
        yield "no_plane"
    if not judged:
        yield "no_deductions"
    if assessment.score is not None and assessment.stated_score is None:
        yield "not_judged" if assessment.planes_by == CLINICIAN else "no_stated_score"
    elif assessment.stated_score is not None and not _same(assessment.stated_score, assessment.score):
        yield "score_mismatch"
    if any(not _shows(found, key, protocol) for key in planes if key != NON_STANDARD):
        yield "plane_without_structures"
    if not found <= set(protocol.structures):
        yield "unknown_structure"
    if assessment.score is not None and any(assessment.refused.get(reason) for reason in _NOT_COUNTED):
        yield "refused_deduction"
    missed = {deduction.subject for deduction in assessment.deductions}
    if assessment.score is not None and set(protocol.key_structures(planes)) - found - missed:
        yield "missing_deduction"
    counted = [each for each in assessment.deductions if not each.struck]
    absent = {each.subject for each in counted if each.fault == "not_displayed"}
    if absent & found:
        yield "found_but_not_displayed"
    if any(_is_at_odds(each, protocol) for each in counted):
        yield "share_mismatch"


def _is_at_odds(each: Judged, protocol: Planes) -> bool:
    """Whether attenuation has another grade than its reason says; a share is told in whole percent."""
    share = stated_share(each.reason) if each.subject == ATTENUATION else None
    if share is None:
        return False
    steps = (protocol.attenuation_grade(min(max(share + near, 0), 1)) for near in (-0.005, 0, 0.005))
    return each.fault not in {step.key for step in steps if step}


def _same(stated: float, score: float | None) -> bool:
    return score is not None and abs(stated - score) <= 1e-6


def _shows(found: set[str], key: str, protocol: Planes) -> bool:
    plane = protocol.planes[key]
    return found.issuperset(plane.needs) and len(found & set(plane.structures)) >= plane.at_least


def _struck(deductions: tuple[Judged, ...], item: str) -> tuple[Judged, ...]:
    """The model's stays, struck through; a clinician's own goes."""
    if not any(each.item == item and not each.struck for each in deductions):
        raise ValueError(f"there is no deduction {item!r} to strike")
    left = (each for each in deductions if each.item != item or each.by == MODEL)
    return tuple(replace(each, struck=True) if each.item == item else each for each in left)


def _added(
    deductions: tuple[Judged, ...], change: Add, planes: Sequence[str], protocol: Planes
) -> tuple[Judged, ...]:
    points = points_of(change.subject, change.fault, planes, protocol)
    if points is None:
        raise ValueError(f"the protocol has no deduction {change.subject}.{change.fault} on these planes")
    for other in [each for each in deductions if each.subject == change.subject and not each.struck]:
        deductions = _struck(deductions, other.item)
    new = _judged(change.subject, change.fault, points, change.reason, change.boxes, CLINICIAN)
    return (*deductions, new)


def _boxes_after(
    structures: tuple[Structure, ...], change: Correct | Place | Remove, protocol: Planes
) -> list[Structure | None]:
    """What now is at the place of each structure, None for one that was removed; behind them a new one."""
    after: list[Structure | None] = list(structures)
    if isinstance(change, Place):
        return [*after, _structure(change.label, change.box, protocol)]
    if not 0 <= change.index < len(after):
        raise ValueError(f"there is no box {change.index} among {len(after)}")
    if isinstance(change, Remove):
        after[change.index] = None
    else:
        label = change.label or structures[change.index].label
        after[change.index] = _structure(label, change.box, protocol)
    return after


def _with_boxes(assessment: Assessment, after: list[Structure | None], protocol: Planes) -> Assessment:
    """The assessment with other boxes; deductions follow them."""
    before = assessment.structures
    structures = tuple(each for each in after if each is not None)
    deductions, withdrawn = assessment.deductions, assessment.withdrawn
    for old, new in zip(before, after, strict=False):
        if new != old:
            deductions = _moved(deductions, old, new)
            withdrawn += (old,) if old.by == MODEL else ()
    changed = replace(
        assessment, structures=structures, deductions=deductions, withdrawn=withdrawn, by=CLINICIAN
    )
    if assessment.score is None:
        return changed
    had, has = ({each.label for each in some} for some in (before, structures))
    for label in has - had:
        if any(each.item == f"{label}.not_displayed" and not each.struck for each in deductions):
            deductions = _struck(deductions, f"{label}.not_displayed")
    for label in had - has:
        counted = {each.item for each in deductions if not each.struck}
        points = points_of(label, "not_displayed", assessment.planes, protocol)
        if points and f"{label}.not_displayed" not in counted:
            deductions = _added(deductions, Add(label, "not_displayed"), assessment.planes, protocol)
    return _scored(replace(changed, deductions=deductions), protocol)


def _moved(deductions: tuple[Judged, ...], old: Structure, new: Structure | None) -> tuple[Judged, ...]:
    """A deduction that points to the box points to where it is now, or no longer to what is another or
    none."""
    now = (new.box,) if new is not None and new.label == old.label else ()
    return tuple(
        replace(each, boxes=tuple(b for box in each.boxes for b in (now if box == old.box else (box,))))
        if each.subject == old.label
        else each
        for each in deductions
    )


def _structure(label: str, box: Box, protocol: Planes) -> Structure:
    x1, y1, x2, y2 = box
    if x1 >= x2 or y1 >= y2:
        raise ValueError(f"box {box!r} is not x1, y1, x2, y2 with x1 < x2 and y1 < y2")
    if label not in protocol.structures:
        raise ValueError(f"{label!r} is not one of the protocol's structures")
    return Structure(label, box, CLINICIAN)


def _renamed(assessment: Assessment, planes: tuple[str, ...], protocol: Planes) -> Assessment:
    """Deductions cost what the new planes say. Those that these do not demand fall: a clinician's own go, the
    model's stay, struck through, and count again under planes that demand them."""
    if not planes or len(set(planes)) < len(planes):
        raise ValueError(f"planes {planes!r} must be one or more, each once")
    if planes != (NON_STANDARD,) and not set(planes) <= set(protocol.planes):
        raise ValueError(f"planes {planes!r} are not the protocol's, or {NON_STANDARD} is not alone")
    kept = []
    for each in assessment.deductions:
        points = points_of(each.subject, each.fault, planes, protocol)
        if points is not None:
            struck = each.struck and not each.not_demanded
            kept.append(replace(each, points=points, struck=struck, not_demanded=False))
        elif each.by == MODEL:
            kept.append(replace(each, struck=True, not_demanded=each.not_demanded or not each.struck))
    now = replace(assessment, planes=planes, deductions=tuple(kept), by=CLINICIAN, planes_by=CLINICIAN)
    if _is_scored(planes) and "no_deductions" not in assessment.flags:
        return _scored(now, protocol)
    return replace(now, score=None, grade=None)
