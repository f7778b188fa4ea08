"""Turn chat messages and frames into the tensors a Qwen2-VL style model reads.

Chat template, tokenizer and image processor all come from the weights' own folder, never from its name.
Follows Qwen2-VL (arXiv 2409.12191, section 2.1): one image is one placeholder token of the template,
repeated once for every `merge_size` x `merge_size` group of patches. Images go through the library's PIL
processor, which needs no torchvision; the library's own `Qwen2VLProcessor` is not used because it also asks
for a video processor, which does.

Knows nothing of models, organs or prompts; training uses it without opening any weights.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer

from imaging.frame import Frame
from models.errors import UnusableImage

IGNORED = -100  # label of a token that is not learned, as torch's cross entropy expects
PLACES = "places"  # key of an image processor whose model sees every pixel's place (`with_places`)
WAVES = (3, 10)  # periods across a picture
LARGEST_ASPECT_RATIO = 200  # of Qwen2-VL's `smart_resize`, which refuses longer images

Message = dict  # {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "…"}]}
Tensors = dict[str, torch.Tensor]


class Encoder:
    """Tokenizer and image processor of one set of weights.

    `image_token_id` is the template's placeholder for an image; one Encoder may be used from several threads.
    """

    def __init__(self, tokenizer, image_processor, image_token_id: int):
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.image_token_id = image_token_id
        self._tokenizing = threading.Lock()  # the fast tokenizer keeps a flag while it encodes

    @classmethod
    def open(cls, folder: str | Path) -> Encoder:
        """Read tokenizer, chat template, image processor and the image token's id from a weights folder.

        Raises OSError where a file is missing and ValueError where the folder has no chat template or its
        config.json no `image_token_id`.
        """
        folder = Path(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        processor_template = folder / "chat_template.json"  # older folders keep it here
        if processor_template.is_file():
            tokenizer.chat_template = json.loads(processor_template.read_text("utf-8"))["chat_template"]
        if not tokenizer.chat_template:
            raise ValueError(
                f"{folder} has no chat template: expected chat_template.jinja beside the tokenizer"
            )
        image_token_id = json.loads((folder / "config.json").read_text("utf-8")).get("image_token_id")
        if image_token_id is None:
            raise ValueError(f"{folder / 'config.json'} has no image_token_id")
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        return cls(tokenizer, processor, image_token_id)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer, chat template and image processor where `open` finds them."""
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    def encode(
        self,
        messages: Sequence[Message],
        frames: Sequence[Frame] = (),
        max_pixels: int | None = None,
        *,
        learn: bool = False,
    ) -> Tensors:
        """One conversation as a batch of one, ready for `generate`, or with `learn` for a training step.

        `frames` are the images of all messages in order. Returns input_ids, attention_mask and
        mm_token_type_ids (1 on image tokens), all int64 [1, T]; with frames also pixel_values float32
        [patches, features] and image_grid_thw int64 [images, 3]; with `learn` also labels [1, T], see
        `encode_text`. Raises ValueError when messages and frames disagree on the number of images.
        """
        return self.encode_text(messages, self.encode_images(frames, max_pixels), learn=learn)

    def encode_text(self, messages: Sequence[Message], images: Tensors, *, learn: bool = False) -> Tensors:
        """The tensors of `encode` for images that are encoded already (only their grid is looked at).

        With `learn` the messages end with an answer, and `labels` hold the tokens of every answer and of
        the mark that ends it, `IGNORED` elsewhere. Control tokens typed into a message ("<|im_end|>") are
        read as plain text, so a person cannot forge a turn.
        """
        ids = self._tokenize(messages, prompt=not learn)
        ids = self._expand(ids, self._image_tokens(images))
        input_ids = torch.tensor([ids])  # [1, T]
        tensors = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "mm_token_type_ids": (input_ids == self.image_token_id).long(),
            **images,
        }
        if learn:
            tensors["labels"] = torch.tensor([self._answers_only(ids)])
        return tensors

    def encode_images(self, frames: Sequence[Frame], max_pixels: int | None = None) -> Tensors:
        """pixel_values float32 [patches, features] and image_grid_thw int64 [images, 3]; nothing for no
        frames.

        An image larger than `max_pixels` is scaled down with its proportions kept. The checkpoint's own
        budget is never exceeded, and stands alone where `max_pixels` is None.
        """
        if not frames:
            return {}
        for frame in frames:
            _check_aspect_ratio(frame)
        own = self.image_processor.size
        largest = own["longest_edge"] if max_pixels is None else min(max_pixels, own["longest_edge"])
        size = {"shortest_edge": min(own["shortest_edge"], largest), "longest_edge": largest}
        share = getattr(self.image_processor, PLACES, 0.0)
        pictures = [Image.fromarray(with_places(frame.pixels, share)) for frame in frames]
        return dict(self.image_processor(pictures, size=size, return_tensors="pt"))

    def words(self, text: str) -> torch.Tensor:
        """The ids [L] of a text alone, without the template; control tokens typed into it are plain text."""
        with self._tokenizing:
            return torch.tensor(
                self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
            )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def pad(self, items: Sequence[Tensors], side: str = "left") -> Tensors:
        """Several encoded conversations as one batch [B, T], padded on the left (for generation) or right."""
        fill = {
            "input_ids": self.tokenizer.pad_token_id,
            "attention_mask": 0,
            "mm_token_type_ids": 0,
            "labels": IGNORED,
        }
        length = max(item["input_ids"].shape[1] for item in items)
        batch = {}
        for key, value in fill.items():
            if key in items[0]:
                rows = [_pad_row(item[key][0], length, value, side) for item in items]
                batch[key] = torch.stack(rows)
        for key in ("pixel_values", "image_grid_thw"):
            present = [item[key] for item in items if key in item]
            if present:
                batch[key] = torch.cat(present)
        return batch

    def _tokenize(self, messages: Sequence[Message], *, prompt: bool = True) -> list[int]:
        """Token ids of the chat template; with `prompt` they end where the assistant's next answer begins."""
        with self._tokenizing:
            encoded = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=prompt, sanitize_control_tokens=True, return_dict=True
            )
        return encoded["input_ids"]

    @cached_property
    def _answer_begins(self) -> list[int]:
        """The template's tokens in front of every answer."""
        asked = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
        return self._tokenize(asked)[len(self._tokenize(asked, prompt=False)) :]

    def _answers_only(self, ids: list[int]) -> list[int]:
        labels = [IGNORED] * len(ids)
        mark, end = self._answer_begins, self.tokenizer.eos_token_id
        for i in range(len(ids) - len(mark)):
            if ids[i : i + len(mark)] == mark:
                first = i + len(mark)
                last = ids.index(end, first)
                labels[first : last + 1] = ids[first : last + 1]
        return labels

    def _image_tokens(self, images: Tensors) -> list[int]:
        """How many tokens each image becomes."""
        if not images:
            return []
        return (images["image_grid_thw"].prod(dim=1) // self.image_processor.merge_size**2).tolist()

    def _expand(self, ids: list[int], image_tokens: list[int]) -> list[int]:
        """Repeat each image placeholder once for every token its image becomes."""
        places = ids.count(self.image_token_id)
        if places != len(image_tokens):
            raise ValueError(f"the messages hold {places} images, but {len(image_tokens)} frames came along")
        counts = iter(image_tokens)
        expanded = []
        for token in ids:
            expanded.extend([token] * next(counts) if token == self.image_token_id else [token])
        return expanded


def with_places(pixels: np.ndarray, share: float) -> np.ndarray:
    """The picture [H, W, 3] with every pixel's place written into its colours by `share` (0 to 1): how far
    right it lies into red, how far down into blue; green stays as it is.

    CoordConv (Liu et al. 2018) for a tower whose first layer is there already. Qwen2-VL's tower knows only
    how far apart two patches are; to learn from borders and corners where one lies took its makers millions
    of pictures. A place is the mean of itself and of two waves, which tell near places apart.
    """
    if not share:
        return pixels
    shown = pixels.astype(np.float32)
    for channel, axis in ((0, 1), (2, 0)):
        count = pixels.shape[axis]
        at = (np.arange(count, dtype=np.float32) + 0.5) / count
        waves = [(1 + np.sin(2 * np.pi * periods * at)) / 2 for periods in WAVES]
        place = np.expand_dims(np.mean([at, *waves], axis=0), 1 - axis)
        shown[..., channel] = (1 - share) * shown[..., channel] + 255 * share * place
    return np.rint(shown).astype(np.uint8)


def _pad_row(row: torch.Tensor, length: int, value: int, side: str) -> torch.Tensor:
    padding = row.new_full((length - len(row),), value)
    return torch.cat([padding, row] if side == "left" else [row, padding])


def _check_aspect_ratio(frame: Frame) -> None:
    height, width = frame.pixels.shape[:2]
    if max(height, width) > LARGEST_ASPECT_RATIO * min(height, width):
        raise UnusableImage(
            f"{frame.source}: {width} x {height} pixels is too narrow to read. Upload the whole image.",
            f"{frame.source}：图像尺寸为 {width} × {height} 像素，过于狭长，无法读取。请上传完整图像。",
        )
