"""What is said to AbVLM-Q: the three layers of the hierarchical prompt, and a person's own words after them.

AbVLM-Q (2025), "Task Specification Layer", "Structured Query Layer", "Scoring Reasoning Layer". The wording
is data (prompts.yaml), the clinical directives in it come from the protocol. The task layer is the system
message; the image goes before the other two layers.

Knows nothing of tokens or pixels: an image is a placeholder, and the marks of boxes are text here
(`encoding` makes them special tokens).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import yaml

from assistants.abvlm_q.answers import DEDUCTIONS, PLANES, SCORE, STRUCTURES
from assistants.abvlm_q.answers import wording as answer_wording
from assistants.base import Turn
from imaging.planes import Planes, Step
from models.boxes import BOX_END, BOX_START, MARKS, REF_END, REF_START

TASKS = ("plane",)
LANGUAGES = ("zh", "en")
FORMS = ("full", "short")
FORM_FILE = "abvlm_q.json"  # {"prompt": "short"} beside weights or an adapter: what it was trained with


@cache
def _wording() -> dict:
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))


def form_of(folder: Path) -> str:
    """The form of prompt that a folder of weights was trained with: as its FORM_FILE says, else "full"."""
    path = folder / FORM_FILE
    form = json.loads(path.read_text("utf-8")).get("prompt") if path.is_file() else "full"
    if form not in FORMS:
        raise ValueError(f"{path}: prompt {form!r} is not one of {', '.join(FORMS)}")
    return form


def layers(language: str, protocol: Planes, form: str = "full") -> tuple[str, str, str]:
    """Task, structured query and reasoning layer. ValueError for an unknown language or form."""
    _check("language", language, LANGUAGES)
    _check("prompt", form, FORMS)
    words = _wording()[language]
    own = words[form]
    if form == "short":
        return own["task"], own["query"], own["reasoning"]
    directives = "\n".join(_directives(language, protocol))
    return (
        own["task"].format(highest=f"{protocol.highest:g}", directives=directives),
        own["query"].format(form=_marked(words["name"]) + _BOX),
        own["reasoning"].format(layout=_layout(language, protocol)),
    )


def request(turn: Turn, protocol: Planes, form: str = "full") -> str:
    """All the words of a turn as the model reads them: three layers, then the person's own words."""
    task, asked = _parts(turn, protocol, form)
    return f"{task}\n{asked}"


def build_messages(turn: Turn, protocol: Planes, form: str = "full") -> list[dict]:
    """A turn as messages for the weights' chat template; its image goes before the words."""
    task, asked = _parts(turn, protocol, form)
    images = [{"type": "image"} for _ in turn.frames]
    return [
        {"role": "system", "content": [{"type": "text", "text": task}]},
        {"role": "user", "content": [*images, {"type": "text", "text": asked}]},
    ]


def own_marks(turn: Turn, protocol: Planes, form: str = "full") -> int:
    """How many marks of boxes the three layers hold. They come before any that a person typed."""
    text = "".join(layers(turn.language, protocol, form))
    return sum(text.count(mark) for mark in MARKS)


def _parts(turn: Turn, protocol: Planes, form: str) -> tuple[str, str]:
    _check("task", turn.task, TASKS)
    task, query, reasoning = layers(turn.language, protocol, form)
    lines = [query, reasoning]
    if own := turn.text.strip():
        lines.append(f"{_wording()[turn.language]['own']} {own}")
    return task, "\n".join(lines)


_BOX = f"{BOX_START}(x1,y1),(x2,y2){BOX_END}"


def _marked(name: str) -> str:
    return f"{REF_START}{name}{REF_END}"


def _directives(language: str, protocol: Planes) -> list[str]:
    words = _wording()[language]["full"]
    lines = []
    for plane in protocol.planes.values():
        structures = [
            words["structure"].format(
                name=protocol.name(demand.structure, language),
                **{fault: f"{points:g}" for fault, points in demand.points.items()},
            )
            for demand in plane.demands
        ]
        name = plane.name.text(language)
        lines.append(words["plane"].format(plane=name, structures=words["comma"].join(structures)))
    grades = [
        words["grade"].format(name=step.name.text(language), share=_share(step), points=f"{step.points:g}")
        for step in protocol.attenuation_grades
    ]
    attenuation = protocol.attenuation.text(language)
    lines.append(words["attenuation"].format(name=attenuation, grades=words["comma"].join(grades)))
    lines.append(words["non_standard"].format(name=protocol.non_standard.text(language)))
    return lines


def _share(step: Step) -> str:
    return f"{'≤' if step.inclusive else '<'}{100 * step.limit:g}%"


def _layout(language: str, protocol: Planes) -> str:
    """The answer's own grammar, with words in place of findings."""
    answer, words = answer_wording(language), _wording()[language]
    fill, name = words["layout"], _marked(words["name"])
    heading = {key: word + answer["colon"].rstrip() for key, word in answer["headings"].items()}
    deduction = answer["deduction"].format(
        subject=name,
        fault=fill["fault"],
        reason=answer["reason"].format(reason=fill["reason"]),
        points=fill["points"],
        boxes=_BOX,
    )
    score = answer["score"].format(score=fill["score"], highest=f"{protocol.highest:g}", grade=fill["grade"])
    blank = answer["colon"].removeprefix(answer["colon"].rstrip())
    return "\n".join(
        [
            heading[STRUCTURES],
            name + _BOX,
            heading[PLANES] + blank + fill["plane"],
            heading[DEDUCTIONS],
            deduction,
            heading[SCORE] + blank + score,
        ]
    )


def _check(field: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field} {value!r} is not one of {', '.join(allowed)}")
