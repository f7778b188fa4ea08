"""One examination with its answer, and the JSONL file that test sets and training sets are kept in.

One JSON object a line; its keys are the fields of Case. Image paths are written relative to the file, so
that a folder of cases can be moved. A key that is not known here is kept in `extra` and written back.

Knows nothing of pixels, organs or tasks: `organ` and `task` may be any word.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

LANGUAGES = ("zh", "en")
ANSWER_TYPES = ("open", "closed")
LEVELS = ("high", "medium", "low")


class CaseError(ValueError):
    """A case that cannot be read; the message names the file, the line and the field."""


@dataclass(frozen=True)
class Case:
    """One examination: images, a question, and what is known of the answer. Fields that are not known are
    None or empty.

    `boxes` holds {"label": str, "box": [x1, y1, x2, y2]} in pixels of the first image as it lies in the
    file; `deductions` {"item": str, "points": number}; `valid_images` the indices of the images that show
    the finding; `plane` the names of the standard planes; `patient` a pseudonym that keeps a patient's
    cases together.
    """

    id: str
    images: tuple[str | Path, ...]  # absolute, or relative to the file that the case is written to
    question: str | None = None
    answer: str | None = None
    organ: str | None = None
    language: str | None = None  # LANGUAGES
    task: str | None = None
    answer_type: str | None = None  # ANSWER_TYPES
    boxes: tuple[Mapping[str, Any], ...] = ()
    level: str | None = None  # LEVELS
    plane: tuple[str, ...] = ()
    score: float | None = None
    deductions: tuple[Mapping[str, Any], ...] = ()
    valid_images: tuple[int, ...] = ()
    patient: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        _check(self)


TEXTS = ("question", "answer", "organ", "task", "patient")
CHOICES = {"language": LANGUAGES, "answer_type": ANSWER_TYPES, "level": LEVELS}
LISTS = ("images", "boxes", "plane", "deductions", "valid_images")
KEYS = tuple(f.name for f in fields(Case) if f.name != "extra")


def read_cases(path: str | Path) -> list[Case]:
    """All cases of a JSONL file, with their images' paths made absolute.

    Raises CaseError for the first line that is not a case ("cases.jsonl line 17: level 'hi' is not one of
    high, medium, low") and OSError where the file cannot be opened. Whether the images exist is not
    checked.
    """
    path = Path(path)
    cases: list[Case] = []
    lines: dict[str, int] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                case = _from_json(json.loads(line), path.absolute().parent)
                if case.id in lines:
                    raise CaseError(f"id {case.id!r} was already used in line {lines[case.id]}")
            except json.JSONDecodeError as error:
                raise CaseError(f"{path.name} line {number}: not JSON: {error}") from error
            except CaseError as error:
                raise CaseError(f"{path.name} line {number}: {error}") from None
            lines[case.id] = number
            cases.append(case)
    return cases


def write_cases(path: str | Path, cases: Iterable[Case]) -> None:
    """Write a JSONL file, one case a line. A file that was there stays until the new one is complete."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            for case in cases:
                line = json.dumps(
                    case_values(case, path.absolute().parent), ensure_ascii=False, allow_nan=False
                )
                file.write(line + "\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _from_json(values: Any, folder: Path) -> Case:
    if not isinstance(values, dict):
        raise CaseError("a case must be an object in braces")
    for key in ("id", "images"):
        if values.get(key) is None:
            raise CaseError(f"{key} is missing")
    known = {key: values[key] for key in KEYS if values.get(key) is not None}
    for key in LISTS:
        if not isinstance(known.get(key, []), list):
            raise CaseError(f"{key} {known[key]!r} is not a list")
    known |= {key: tuple(known[key]) for key in LISTS if key in known}
    if not all(isinstance(image, str) and image for image in known["images"]):
        raise CaseError("images must be a list of paths")
    known["images"] = tuple(Path(os.path.normpath(folder / image)) for image in known["images"])
    return Case(**known, extra={key: value for key, value in values.items() if key not in KEYS})


def case_values(case: Case, folder: Path) -> dict[str, Any]:
    """The keys and values of a case's line in a file that lies in `folder` (absolute)."""
    values = {key: getattr(case, key) for key in KEYS}
    values["images"] = [_relative(Path(image), folder).as_posix() for image in case.images]
    return {key: value for key, value in values.items() if value is not None and value != ()} | dict(
        case.extra
    )


def _relative(image: Path, folder: Path) -> Path:
    return Path(os.path.relpath(image, folder)) if image.is_absolute() else image


def _check(case: Case) -> None:
    if not isinstance(case.id, str) or not case.id:
        raise CaseError(f"id {case.id!r} is not a text")
    for key in TEXTS:
        if not isinstance(getattr(case, key), str | None):
            raise CaseError(f"{key} {getattr(case, key)!r} is not a text")
    for key, choices in CHOICES.items():
        if getattr(case, key) is not None and getattr(case, key) not in choices:
            raise CaseError(f"{key} {getattr(case, key)!r} is not one of {', '.join(choices)}")
    if case.score is not None and not _is_number(case.score):
        raise CaseError(f"score {case.score!r} is not a number")
    if not all(isinstance(name, str) for name in case.plane):
        raise CaseError(f"plane {list(case.plane)!r} is not a list of names")
    for index in case.valid_images:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(case.images):
            raise CaseError(f"valid_images {index!r} is not the index of one of {len(case.images)} images")
    for box in case.boxes:
        _check_box(box)
    for deduction in case.deductions:
        if not isinstance(deduction, Mapping) or not isinstance(deduction.get("item"), str):
            raise CaseError(f'deductions {deduction!r} is not {{"item": name, "points": number}}')
        if not _is_number(deduction.get("points")):
            raise CaseError(f"deductions: points {deduction.get('points')!r} is not a number")


def _check_box(box: Any) -> None:
    if not isinstance(box, Mapping) or not isinstance(box.get("label"), str):
        raise CaseError(f'boxes {box!r} is not {{"label": name, "box": [x1, y1, x2, y2]}}')
    corners = box.get("box")
    if not isinstance(corners, list | tuple) or len(corners) != 4 or not all(map(_is_number, corners)):
        raise CaseError(f"boxes: box {corners!r} is not four numbers")
    if corners[0] >= corners[2] or corners[1] >= corners[3]:
        raise CaseError(f"boxes: box {corners!r} is not x1, y1, x2, y2 with x1 < x2 and y1 < y2")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
