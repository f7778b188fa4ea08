"""Turns and replies as chat bubbles, and bubbles as turns and replies.

The conversation lives in the browser, in the bubbles and nowhere else: a user's bubble holds the frames
as the model sees them (PNG, decoded and cropped) and the very words the model reads, so that nothing
has to be remembered on the server. Undo, retry and edit are cuts in a list.

Knows nothing of files as they were uploaded, of events, or of any one assistant.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from apps.language import text
from apps.privacy import own_upload
from assistants.base import Reply, Turn
from assistants.language import language_of
from imaging.frame import Frame

Bubble = dict  # a message of gr.Chatbot: {"role", "content": [parts], "metadata"}

ASIDE = "aside"  # id of a bubble that is ours, not the model's: a notice or an error
ON_FILES = "files"  # id of a notice that belongs to the question above it: a file that was left out
STEP = "frames"  # id of the step that shows which frames were looked at, with what was chosen behind a colon


class Expired(FileNotFoundError):
    """An image of the conversation is no longer there: uploads live for an hour."""


def question_bubbles(request: str, frames: Sequence[Frame], language: str) -> list[Bubble]:
    """What was asked: the frames as pictures, written to the upload folder, then the words.

    Two bubbles, because Gradio's editor breaks on one that holds both.
    """
    pictures = [
        {"path": save_frame(frame), "alt_text": f"{text('image', language, number=number)}: {_name(frame)}"}
        for number, frame in enumerate(frames, start=1)
    ]
    shown = [{"role": "user", "content": pictures}] if pictures else []
    return [*shown, {"role": "user", "content": request}]


def answer_bubbles(reply: Reply, images: int, language: str) -> list[Bubble]:
    """The answer so far, under a plain notice when it means nothing."""
    bubbles = []
    if reply.unfamiliar:
        bubbles.append(aside(unfamiliar(reply.unfamiliar, images, language)))
    if reply.text:
        bubbles.append({"role": "assistant", "content": reply.text})
    return bubbles


def aside(words: str, kind: str = ASIDE) -> Bubble:
    """A bubble that speaks for the page. Plain and open: Gradio would fold a titled one away."""
    return {"role": "assistant", "content": f"⚠️ {words}", "metadata": {"id": kind}}


def unfamiliar(indices: Sequence[int], images: int, language: str) -> str:
    """The notice for images unlike all the demo weights were trained on, by number when it is not all."""
    if len(indices) == images:
        return text("unfamiliar_one" if images == 1 else "unfamiliar_all", language)
    names = [text("image", language, number=index + 1) for index in indices]
    if language == "zh":
        return text("unfamiliar_some", language, images="、".join(names))
    return text(
        "unfamiliar_some", language, images=f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
    )


def conversation(bubbles: Sequence[Bubble]) -> tuple[list[Turn | Reply], Turn]:
    """What was said before and the turn to answer now; `bubbles` end with the words of a question.

    Raises Expired when an image is gone, and ForeignFile for one that was never uploaded.
    """
    said: list[Turn | Reply] = []
    frames: list[Frame] = []
    for bubble in bubbles:
        if bubble["role"] == "user":
            frames += [_read(picture) for picture in pictures(bubble)]
            if spoken := words(bubble):
                said.append(Turn(spoken, tuple(frames), language=language_of(spoken) or "en"))
                frames = []
        elif not _is_aside(bubble):
            said.append(Reply(words(bubble), finished=True))
    return said[:-1], said[-1]


def question_at(bubbles: Sequence[Bubble], index: int) -> tuple[int, int]:
    """The last question at or before `index`: where it begins, pictures first, and where its words are."""
    asked = max(
        n for n, bubble in enumerate(bubbles[: index + 1]) if bubble["role"] == "user" and words(bubble)
    )
    begins = asked
    while begins and bubbles[begins - 1]["role"] == "user" and not words(bubbles[begins - 1]):
        begins -= 1
    return begins, asked


def answer_begins(bubbles: Sequence[Bubble], asked: int) -> int:
    """Where the answer to the question at `asked` begins: after what was said on its files."""
    begins = asked + 1
    while begins < len(bubbles) and mark(bubbles[begins]) == ON_FILES:
        begins += 1
    return begins


def mark(bubble: Bubble) -> str:
    """A bubble's id: ours where it has one of the three above, else empty."""
    return str((bubble.get("metadata") or {}).get("id") or "")


def _is_aside(bubble: Bubble) -> bool:
    return mark(bubble).partition(":")[0] in (ASIDE, ON_FILES, STEP)


def words(bubble: Bubble) -> str:
    """The text of a bubble."""
    return "\n".join(part["text"] for part in _parts(bubble) if part.get("type") == "text")


def pictures(bubble: Bubble) -> list[dict]:
    """The pictures of a bubble, {"path", "alt_text"} each."""
    found = []
    for part in _parts(bubble):
        if part.get("type") == "file":
            found.append({"path": part["file"]["path"], "alt_text": part.get("alt_text")})
        elif "path" in part:
            found.append(part)
    return found


def _parts(bubble: Bubble) -> list[dict]:
    """The content as Gradio sends it back, [{"type": "text", …}, {"type": "file", …}], or as we wrote it."""
    content = bubble["content"] if isinstance(bubble["content"], list) else [bubble["content"]]
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]


def save_frame(frame: Frame) -> str:
    """Write a frame to the upload folder as PNG; its path, which the pixels alone decide."""
    return save_pil_to_cache(Image.fromarray(frame.pixels), get_upload_folder(), name="frame", format="png")


def _read(picture: dict) -> Frame:
    try:
        with Image.open(own_upload(picture["path"])) as image:
            return Frame(np.array(image.convert("RGB")), None, picture.get("alt_text") or "")
    except FileNotFoundError as error:
        raise Expired(picture["path"]) from error


def _name(frame: Frame) -> str:
    return frame.source if frame.index == 0 else f"{frame.source} #{frame.index + 1}"
