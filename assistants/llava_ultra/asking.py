"""LLaVA-Ultra's weights as something else than its own assistant asks them: a chat goes in, ids come out.

Ultrasound-QBench (2025) puts the same questions to any model and looks at the words it might say next
(`models.likelihood`). A chat becomes one question in the weights' own template, with the beginning of its
answer behind it.

Knows nothing of what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from assistants.base import Turn
from assistants.llava_ultra.configuration import LlavaUltraConfig
from assistants.llava_ultra.encoding import Encoder, runs
from assistants.llava_ultra.images import encode_frames
from assistants.llava_ultra.prompts import Part, build_prompt
from imaging.frame import Frame
from models.encoding import Message, Tensors


class PromptEncoder(Encoder):
    """A `models.likelihood.PromptEncoder`. Every image becomes the model's own square, whatever the budget
    of pixels."""

    @classmethod
    def open(cls, folder: str | Path, config: LlavaUltraConfig) -> PromptEncoder:
        """As `Encoder.open`."""
        return cls(super().open(folder, config).tokenizer, config)

    @property
    def image_token_id(self) -> int:
        return self.config.image_token_id

    @property
    def pad_token_id(self) -> int:
        return self.tokenizer.pad_token_id or 0

    def tokens(
        self, messages: Sequence[Message], frames: Sequence[Frame], images: Sequence[Tensors]
    ) -> dict[str, list[int]]:
        """The ids of a question, and of the beginning of its answer where the last message is one.

        A question has as many images as it says; `images` are not looked at, all have one size.
        """
        question, *begun = messages
        kinds = [part["type"] for part in question["content"]]
        stand_ins = (None,) * kinds.count("image")
        parts = build_prompt([Turn(_words(question), stand_ins)], self.template)
        parts += [Part(self.template.answer_begins + _words(answer)) for answer in begun]
        return {"input_ids": [id_ for run in runs(parts) for id_, _ in self._read(run)]}

    def image(self, frame: Frame, max_pixels: int | None) -> Tensors:
        """pixel_values [1, 3, S, S] and, unless SAM is off, sam_pixel_values [1, 3, R, R]."""
        return encode_frames([frame], self.config)


def _words(message: Message) -> str:
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")
