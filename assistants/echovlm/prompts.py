"""What is said to EchoVLM: a turn and what came before it become chat messages.

The wording is data (prompts.yaml beside this file), with the seven organs of the EchoVLM paper and both
languages. Every user message shows its images before its words, the order Qwen2-VL was trained with; images
of earlier turns stay in the conversation.

Knows nothing of tokens or pixels: an image is a placeholder here, and the weights' own chat template writes
it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from assistants.base import Reply, Turn
from assistants.conversation import alternating
from assistants.wording import Wording

_WORDING = Wording.read(Path(__file__).with_suffix(".yaml"))
organs = _WORDING.organs
standard_request = _WORDING.standard_request
request = _WORDING.request


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
