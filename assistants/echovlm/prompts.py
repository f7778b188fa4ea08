"""What is said to EchoVLM: a turn and what came before it become chat messages.

The wording is data (prompts.yaml beside this file), with the seven organs of the EchoVLM paper and both
languages. Every user message shows its images before its words, the order Qwen2-VL was trained with; images
of earlier turns stay in the conversation.

Knows nothing of tokens or pixels: an image is a placeholder here, and the weights' own chat template writes
it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import yaml

from assistants.base import Reply, Turn
from assistants.conversation import alternating
from assistants.language import language_of

TASKS = ("report", "diagnosis", "vqa")
LANGUAGES = ("zh", "en")


@cache
def _wording() -> dict:
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))


def organs() -> tuple[str, ...]:
    """The organs a turn may name, in the order of the data file."""
    return tuple(_wording()["organs"])


def standard_request(task: str, language: str, organ: str | None = None) -> str:
    """The wording of `task` when a person writes nothing. ValueError for an unknown task, language, organ."""
    _check("task", task, TASKS)
    _check("language", language, LANGUAGES)
    wording = _wording()["requests"][task][language]
    if organ is None:
        return wording["plain"]
    return wording["organ"].format(organ=_organ_name(organ, language))


def request(turn: Turn) -> str:
    """The words of a turn as the model reads them.

    A person's own words go first and unchanged. Two short lines may follow: the chosen organ, where
    images come along and the words do not mention it; and the answer's language, where the words are in
    the other one.
    """
    own = turn.text.strip()
    if not own:
        return standard_request(turn.task, turn.language, turn.organ)
    _check("task", turn.task, TASKS)
    _check("language", turn.language, LANGUAGES)
    _check("organ", turn.organ, (None, *organs()))
    written_in = language_of(own) or turn.language
    lines = [own]
    if turn.organ is not None and turn.frames and not _mentions(own, turn.organ):
        name = _organ_name(turn.organ, written_in)
        lines.append(_wording()["organ_hint"][written_in].format(organ=name))
    if written_in != turn.language:
        lines.append(_wording()["answer_language"][turn.language])
    return "\n".join(lines)


def build_messages(history: Sequence[Turn | Reply], turn: Turn) -> list[dict]:
    """The conversation so far and the new turn, as messages for the weights' chat template.

    A Turn becomes a user message (its images, then its words), a Reply an assistant message. The images'
    placeholders have the order of `assistants.conversation.frames_in_view`.
    """
    conversation = alternating(history, turn)
    return [_user(entry) if isinstance(entry, Turn) else _assistant(entry) for entry in conversation]


def _user(turn: Turn) -> dict:
    images = [{"type": "image"} for _ in turn.frames]
    return {"role": "user", "content": [*images, {"type": "text", "text": request(turn)}]}


def _assistant(reply: Reply) -> dict:
    return {"role": "assistant", "content": [{"type": "text", "text": reply.text.strip()}]}


def _organ_name(organ: str, language: str) -> str:
    _check("organ", organ, organs())
    return _wording()["organs"][organ][language]


def _mentions(text: str, organ: str) -> bool:
    names = {organ, *(_organ_name(organ, language) for language in LANGUAGES)}
    return any(name in text.lower() for name in names)


def _check(field: str, value: str | None, allowed: Sequence[str | None]) -> None:
    if value not in allowed:
        raise ValueError(f"{field} {value!r} is not one of {', '.join(map(str, allowed))}")
