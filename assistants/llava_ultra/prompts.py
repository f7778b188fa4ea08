"""What is said to LLaVA-Ultra: a conversation is written out in the template its weights were trained with.

Wording and templates are data (prompts.yaml beside this file). The template's name comes with the weights, in
their configuration, and never from a folder's name. A prompt is a row of parts, text and tokens: what a
person typed is always text, so that nobody can forge an image, a turn or an end with a word.

Knows nothing of token ids or pixels: an image is the token `IMAGE` here (`encoding.py` writes it out).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from assistants.base import Reply, Turn
from assistants.wording import Wording, check

_WORDING = Wording.read(Path(__file__).with_suffix(".yaml"))
organs = _WORDING.organs
standard_request = _WORDING.standard_request
request = _WORDING.request
IMAGE = "<image>"


@dataclass(frozen=True)
class Part:
    """A piece of a prompt: a `token` is looked up by its name; all else is text. `learned` is an answer's."""

    text: str
    token: bool = False
    learned: bool = False


@dataclass(frozen=True)
class Template:
    """One entry of `templates` in prompts.yaml, which says what the fields mean."""

    start: str
    user: str
    with_images: str
    image: str
    answer_begins: str
    answer_ends: str
    then: str
    stop: str | None
    tokens: tuple[str, ...]


@cache
def templates() -> dict[str, Template]:
    """All templates by name."""
    entries = _WORDING.data["templates"].items()
    return {name: Template(**{**entry, "tokens": tuple(entry["tokens"])}) for name, entry in entries}


def template(name: str) -> Template:
    """The template that weights name in their configuration; ValueError for an unknown one."""
    check("template", name, tuple(templates()))
    return templates()[name]


def build_prompt(conversation: Sequence[Turn | Reply], template: Template) -> list[Part]:
    """The conversation as the model reads it: to its last Turn, to be answered, or to its last Reply, to be
    learned.

    `conversation` alternates (`assistants.conversation.alternating`). Neighbouring texts are one part.
    """
    parts = _written(template, template.start)
    for place, entry in enumerate(conversation):
        if isinstance(entry, Turn):
            parts += [*(_written(template, template.then) if place else []), *_question(template, entry)]
        else:
            parts += _answer(template, entry)
    return _joined(parts)


def _question(template: Template, turn: Turn) -> list[Part]:
    words = _harmless(template, request(turn))
    fields = {"words": [Part(words)], "images": _written(template, template.image) * len(turn.frames)}
    shown = _filled(template, template.with_images, fields) if turn.frames else [Part(words)]
    return _filled(template, template.user, {"request": shown})


def _answer(template: Template, reply: Reply) -> list[Part]:
    said = [Part(_harmless(template, reply.text.strip())), *_written(template, template.answer_ends)]
    return [
        *_written(template, template.answer_begins),
        *(Part(part.text, part.token, learned=True) for part in said),
    ]


def _harmless(template: Template, words: str) -> str:
    """A stop that is plain text must not be typed; the others are tokens and cannot be."""
    return words if template.stop is None else words.replace(template.stop, " ".join(template.stop))


def _written(template: Template, pattern: str) -> list[Part]:
    return _filled(template, pattern, {})


def _filled(template: Template, pattern: str, fields: dict[str, list[Part]]) -> list[Part]:
    """The pattern's tokens as tokens, its {fields} filled in, the rest as text."""
    marks = [*map(re.escape, template.tokens), *(re.escape(f"{{{name}}}") for name in fields)]
    parts: list[Part] = []
    for piece in re.split(f"({'|'.join(marks)})", pattern):
        if piece in template.tokens:
            parts.append(Part(piece, token=True))
        elif piece[1:-1] in fields and piece.startswith("{"):
            parts += fields[piece[1:-1]]
        else:
            parts.append(Part(piece))
    return parts


def _joined(parts: Sequence[Part]) -> list[Part]:
    """Neighbouring texts of one kind made one, empty ones left out."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if last and not (last.token or part.token) and last.learned == part.learned:
            joined[-1] = Part(last.text + part.text, learned=part.learned)
        elif part.text:
            joined.append(part)
    return joined
