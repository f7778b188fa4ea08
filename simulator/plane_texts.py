"""What is asked about an abdominal plane, and the true answer: plane, structures, deductions, score.

The wording is data (wording/planes.yaml); the names of planes, structures, states and grades are the
protocol's (imaging/planes.yaml). Each deduction is said with its reason.

The line of key structures holds what the planes demand, with states, and nothing else: it is what a reader
checks against the protocol. What else can be seen is named on a line of its own, without states, for the
protocol says of no plane how much of it there should be.

Knows nothing of pixels or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from imaging.planes import ATTENUATION, Deduction, load_planes

LANGUAGES = ("zh", "en")


def request(language: str, rng: np.random.Generator) -> str:
    """How a clinician asks for plane, structures and score."""
    choices = _wording(language)["requests"]
    return choices[int(rng.integers(len(choices)))]


def answer(
    language: str,
    planes: Sequence[str],
    states: Mapping[str, str],
    beside: Sequence[str],
    deductions: Sequence[Deduction],
    score: float | None,
    attenuation: float,
    causes: Mapping[str, str],
) -> str:
    """The true answer, a line each for planes, key structures, what else is displayed, deductions, score.

    `beside` are structures that can be seen and are not judged; `attenuation` is the dark share of the sector
    (0 to 1); `causes` says what hides a structure ("plane", "sector" or "shadow"). A non-standard view
    (`score` None) demands nothing: it names all that it displays, and no points.
    """
    words, protocol = _wording(language), load_planes()
    lines = [words["plane"].format(planes=_names(planes, language))]
    lines += _structures(planes, states, beside, language)
    if score is None:
        return words["line"].join([*lines, words["not_scored"]])
    said = [_deduction(deduction, attenuation, causes, language) for deduction in deductions]
    lines.append(
        words["deductions"].format(deductions=words["semicolon"].join(said))
        if said
        else words["no_deductions"]
    )
    grade = protocol.grade(score).name.text(language)
    return words["line"].join([*lines, words["score"].format(score=f"{score:g}", grade=grade)])


def _structures(
    planes: Sequence[str], states: Mapping[str, str], beside: Sequence[str], language: str
) -> list[str]:
    """A line with the structures that the planes demand and their states, where there are planes; a line
    with any other that is displayed."""
    words, protocol = _wording(language), load_planes()
    demanded = protocol.key_structures(planes)
    said = [
        words["structure"].format(
            name=protocol.name(name, language),
            state=protocol.name(states.get(name, "not_displayed"), language),
        )
        for name in demanded
    ]
    others = [name for name, state in states.items() if state != "not_displayed" and name not in demanded]
    names = [protocol.name(name, language) for name in (*others, *beside)]
    lines = [words["structures"].format(structures=words["comma"].join(said))] if said else []
    if names:
        heading = words["others"] if said else words["displayed"]
        lines.append(heading.format(structures=words["comma"].join(names)))
    return lines or [words["no_structures"]]


def _deduction(deduction: Deduction, attenuation: float, causes: Mapping[str, str], language: str) -> str:
    words, protocol = _wording(language), load_planes()
    name, points = protocol.name(deduction.subject, language), f"{deduction.points:g}"
    if deduction.subject == ATTENUATION:
        grade = protocol.attenuation_grade(attenuation).name.text(language)
        return words["attenuation"].format(
            grade=grade, name=name, percent=round(100 * attenuation), points=points
        )
    state = protocol.name(deduction.fault, language)
    cause = words["causes"][causes.get(deduction.subject, "plane")]
    return words["deduction"].format(name=name, state=state, cause=cause, points=points)


def _names(planes: Sequence[str], language: str) -> str:
    return _wording(language)["semicolon"].join(load_planes().name(key, language) for key in planes)


@cache
def _wording(language: str) -> dict:
    if language not in LANGUAGES:
        raise ValueError(f"there is no wording for the language {language!r}; choose zh or en")
    path = Path(__file__).parent / "wording" / "planes.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))[language]
