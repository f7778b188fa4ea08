"""Which of a case's frames an answer was written from, and how it is said.

LLaVA-Ultra (2024), section 3.3, in front of any assistant: scores come from the assistant's own features
(`models.frame_choice`), a person's choice from the Turn. The choice travels with every Reply as plain data,
so that a page can show it and an evaluation can write it down.

Knows nothing of models, prompts or pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assistants.base import Reply
from imaging.frame import Frame
from models.errors import ModelError

if TYPE_CHECKING:
    from models.frame_choice import Selection

MOST_FRAMES = 32  # of one case; chosen: a long examination's stills


class UnusableChoice(ModelError):
    """More frames than can be compared, or a chosen frame that is not there."""


@dataclass(frozen=True)
class SelectionReply(Reply):
    """A Reply from some of the frames in view; `selection` is None where there is none to choose from.

    As plain data: `frames` (how many were looked at), `kept` (indices, oldest first), `scores` (a share of 1
    each; they compare the frames of this case and mean nothing beside another's), `how` ("feature",
    "attention" or "person", see `models.frame_choice.Selection`) and `redundant` (groups of near-identical
    frames).
    """

    selection: dict[str, Any] | None = None


def as_data(selection: Selection, frames: Sequence[Frame]) -> dict[str, Any]:
    """`SelectionReply.selection`: lists, numbers and words only."""
    from models.frame_choice import redundant  # here, so that a page need not wait for torch

    return {
        "frames": len(frames),
        "kept": list(selection.kept),
        "scores": list(selection.scores),
        "how": selection.how,
        "redundant": [list(group) for group in redundant(frames)],
    }


def check(frames: Sequence[Frame], chosen: Sequence[int]) -> None:
    """Raise UnusableChoice, with the numbers, where the frames cannot be compared as asked."""
    count = len(frames)
    if count > MOST_FRAMES:
        raise UnusableChoice(
            f"This case has {count} frames; at most {MOST_FRAMES} can be compared. Leave some out or start a "
            "new conversation.",
            f"该病例共有 {count} 帧图像，最多可比较 {MOST_FRAMES} 帧。请减少图像，或新建对话。",
        )
    absent = [frame + 1 for frame in chosen if not 0 <= frame < count]
    if absent:
        listed = ", ".join(map(str, absent))
        raise UnusableChoice(
            f"There is no frame {listed} in this case, which has {count}.",
            f"该病例共有 {count} 帧图像，没有第 {listed} 帧。",
        )
