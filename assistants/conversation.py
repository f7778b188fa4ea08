"""What was said and shown so far, put in order: question, answer, question, and the frames in view.

A chat template knows no two questions in a row, and images of earlier turns stay in the conversation. Both
hold for every assistant that takes several turns.

Knows nothing of wording, tokens or pages.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from assistants.base import Reply, Turn
from imaging.frame import Frame

Returned = TypeVar("Returned")


def alternating(history: Sequence[Turn | Reply], turn: Turn) -> list[Turn | Reply]:
    """Turn, Reply, …, Turn.

    A turn that got no words back (stopped before the first) leaves only its frames, at the head of the turn
    after it.
    """
    conversation: list[Turn | Reply] = []
    waiting: Turn | None = None
    for entry in [*history, turn]:
        if isinstance(entry, Turn):
            unanswered = waiting.frames if waiting else ()
            waiting = replace(entry, frames=unanswered + entry.frames)
        elif waiting and entry.text.strip():
            conversation += [waiting, entry]
            waiting = None
    return [*conversation, waiting]


def frames_in_view(history: Sequence[Turn | Reply], turn: Turn) -> list[Frame]:
    """All frames of the conversation, oldest first."""
    return [frame for each in [*history, turn] if isinstance(each, Turn) for frame in each.frames]


def showing_only(
    history: Sequence[Turn | Reply], turn: Turn, kept: Collection[int]
) -> tuple[list[Turn | Reply], Turn]:
    """The same conversation with the other frames left out; `kept` are indices into `frames_in_view`."""
    shown, place = [], 0
    for entry in [*history, turn]:
        if isinstance(entry, Turn):
            left = tuple(frame for at, frame in enumerate(entry.frames, start=place) if at in kept)
            place += len(entry.frames)
            entry = replace(entry, frames=left)
        shown.append(entry)
    return shown[:-1], shown[-1]


def last_of(preparing: Generator[Any, None, Returned]) -> Returned:
    """What a generator returns, its signs of life ignored: for whoever does not stream."""
    while True:
        try:
            next(preparing)
        except StopIteration as done:
            return done.value
