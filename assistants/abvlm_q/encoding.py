"""The marks of boxes as the special tokens that they are, in our own words and in no one else's.

`models.encoding.Encoder` reads every control token in a message as plain text, so that nobody can forge a
turn or a box. But the prompt's own form and the answers that are learned must be special tokens: a model that
has only seen "<", "|", "box" … as letters never writes the token. So the letters are put back into tokens by
place: the first marks of a prompt are ours, for a person's words come last; the last marks of a conversation
are those of the answer, which ends it.

Knows nothing of what the words say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from assistants.abvlm_q import prompts
from assistants.abvlm_q.answers import Names, answer_of, write
from assistants.base import Turn
from assistants.language import language_of
from imaging.case import Case
from imaging.files import load_frames
from imaging.frame import Frame
from imaging.planes import Planes
from imaging.sector import crop, find_sector
from models.boxes import MARKS, Canvas, canvas_for
from models.encoding import IGNORED, Encoder, Tensors


def cut_to_sector(frame: Frame) -> tuple[Frame, tuple[int, int]]:
    """The scan sector of a frame, and where (x, y) it begins in the file's picture."""
    cut = crop(frame, find_sector(frame.pixels))
    return cut, cut.offset


def cut_image(case: Case) -> tuple[Frame, tuple[int, int]]:
    """A case's first image, cut to its sector; raises what `load_frames` raises."""
    frame, *_ = load_frames(case.images[:1], cut_to_sector=False)
    return cut_to_sector(frame)


def canvas_of(
    convention: str, frame: Frame, origin: tuple[int, int], encoder: Encoder, images: Tensors
) -> Canvas:
    """What coordinates mean for the one image in `images`: `frame`, cut out at `origin`."""
    height, width = frame.pixels.shape[:2]
    grid = images["image_grid_thw"][0].tolist()
    return canvas_for(convention, (width, height), grid, encoder.image_processor.patch_size, origin)


class Marks:
    """The marks of boxes as one encoder's tokenizer knows them.

    ValueError for a tokenizer that has no such tokens: its backbone writes no boxes.
    """

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        tokenizer = encoder.tokenizer
        tokens = tokenizer.convert_tokens_to_ids(list(MARKS))
        if None in tokens or tokenizer.unk_token_id in tokens:
            raise ValueError(
                f"the tokenizer does not have the tokens {' '.join(MARKS)}; its model writes no boxes"
            )
        special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        self._silent = special - set(tokens)
        self._tokens = {self._letters(mark): token for mark, token in zip(MARKS, tokens, strict=True)}

    def restore(self, tensors: Tensors, *, first: int, last: int = 0) -> Tensors:
        """The tensors of one conversation [1, T] with its `first` and `last` marks as special tokens [1, T'].

        Every other mark stays the plain text that it was read as. ValueError where there are fewer marks.
        """
        ids = tensors["input_ids"][0].tolist()
        labels = tensors["labels"][0].tolist() if "labels" in tensors else [IGNORED] * len(ids)
        places = self._places(ids)
        if first + last > len(places):
            raise ValueError(f"{first + last} marks of boxes should be here, but there are {len(places)}")
        new_ids, new_labels, at = [], [], 0
        for start, end in places[:first] + places[len(places) - last :]:
            token = self._tokens[tuple(ids[start:end])]
            new_ids += [*ids[at:start], token]
            new_labels += [*labels[at:start], IGNORED if labels[start] == IGNORED else token]
            at = end
        input_ids = torch.tensor([new_ids + ids[at:]])
        changed = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "mm_token_type_ids": (input_ids == self.encoder.image_token_id).long(),
        }
        if "labels" in tensors:
            changed["labels"] = torch.tensor([new_labels + labels[at:]])
        return tensors | changed

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids with the marks of boxes, and without any other special token."""
        kept = [token for token in ids if token not in self._silent]
        return self.encoder.tokenizer.decode(
            kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def _letters(self, mark: str) -> tuple[int, ...]:
        """The tokens of a mark that is read as plain text: the same ones wherever it stands."""
        empty, spelled = (self._read(text) for text in ("", mark))
        start = next(i for i, (a, b) in enumerate(zip(empty, spelled, strict=False)) if a != b)
        return tuple(spelled[start : start + len(spelled) - len(empty)])

    def _read(self, text: str) -> list[int]:
        message = {"role": "user", "content": [{"type": "text", "text": text}]}
        return self.encoder.encode_text([message], {})["input_ids"][0].tolist()

    def _places(self, ids: list[int]) -> list[tuple[int, int]]:
        """Where marks are spelled out, as (first token, first token after it), in order."""
        lengths = {len(letters) for letters in self._tokens}
        places, at = [], 0
        while at < len(ids):
            length = next((n for n in lengths if tuple(ids[at : at + n]) in self._tokens), 0)
            if length:
                places.append((at, at + length))
            at += length or 1
        return places


def learn(
    marks: Marks,
    case: Case,
    protocol: Planes,
    convention: str,
    *,
    form: str = "full",
    max_pixels: int | None = None,
    step: int = 1,
    cut: tuple[Frame, tuple[int, int]] | None = None,
) -> Tensors:
    """A case as a training step: the prompt, and the answer that is learned; see `Encoder.encode`.

    The image is cut to its sector as in use, or is `cut` already, and the boxes are written for what is left
    of it, in multiples of `step` of the backbone's units. Raises what `answer_of` and `load_frames` raise.
    """
    frame, origin = cut or cut_image(case)
    language = case.language or language_of(case.question or "") or "zh"
    images = marks.encoder.encode_images([frame], max_pixels)
    canvas = replace(canvas_of(convention, frame, origin, marks.encoder, images), step=step)
    answer = write(answer_of(case, protocol, language), Names(protocol), language, canvas)
    turn = Turn(case.question or "", (frame,), "plane", case.organ, language)
    messages = [
        *prompts.build_messages(turn, protocol, form),
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    tensors = marks.encoder.encode_text(messages, images, learn=True)
    last = sum(answer.count(mark) for mark in MARKS)
    return marks.restore(tensors, first=prompts.own_marks(turn, protocol, form), last=last)
