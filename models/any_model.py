"""Open any model of the library that answers questions about images, and read prompts for it.

Three kinds of weights: folders of the suite's own architectures go through `models.backbone`, or where the
registry names an encoder of their own (LLaVA-Ultra) through that; any other architecture that transformers
knows as image-text-to-text (LLaVA-1.5, LLaVA-NeXT, InternVL …) through AutoModelForImageTextToText and the
folder's own AutoProcessor, whose image half is the library's PIL one, so that torchvision is not needed. All
become a `PromptEncoder` for `models.likelihood`.

A model needs a safetensors folder, a chat template (without one nobody knows how it wants to be asked), a
processor that works without torchvision (its part for videos is left out), and no code of its own: what lacks
one is refused in one sentence.

Knows nothing of levels, prompts or pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.auto.processing_auto import processor_class_from_name

from imaging.frame import Frame
from models.backbone import Backbone, choose_device, choose_dtype
from models.checkpoint import CheckpointError, model_class_for, read_json, resolve
from models.encoding import IGNORED, Encoder, Message, Tensors
from models.likelihood import PromptEncoder
from models.registry import registry

_PER_TOKEN = ("input_ids", "mm_token_type_ids", "token_type_ids")  # what a processor says of every token


@dataclass(frozen=True)
class Opened:
    """A model in evaluation mode and what reads its prompts; `backbone` where it is one of the suite's."""

    model: PreTrainedModel
    encoder: PromptEncoder
    folder: Path
    backbone: Backbone | None = None


def open_any(
    weights: str, *, device: str = "auto", dtype: str = "auto", quantize: str | None = None
) -> Opened:
    """Open a folder or Hugging Face id of any image-text-to-text architecture.

    Raises CheckpointError for what cannot be opened, and what `Backbone.open` raises. `quantize` is for the
    suite's own architectures only: ValueError with any other.
    """
    folder = resolve(weights)
    named = read_json(folder / "config.json").get("architectures") or []
    own = next((registry().encoders[name] for name in named if name in registry().encoders), None)
    if own is None and any(name in registry().classes for name in named):
        backbone = Backbone.open(weights, device=device, dtype=dtype, quantize=quantize)
        return Opened(backbone.model, SuiteEncoder(backbone.encoder), backbone.folder, backbone)
    if quantize is not None:
        raise ValueError(f"{', '.join(named)} cannot be quantised here; leave out --quantize {quantize}")
    place = choose_device(device)
    if own is not None:
        return _with_own_encoder(folder, own, choose_dtype(dtype, place), place)
    model = _load(folder, choose_dtype(dtype, place), place)
    return Opened(model, ProcessorEncoder.open(folder, model.config.image_token_id), folder)


def _with_own_encoder(folder: Path, encoder: str, dtype: torch.dtype, device: torch.device) -> Opened:
    """A model of the suite whose prompts are read by `encoder`, a dotted path. CheckpointError where it does
    not fit its weights."""
    model_class = model_class_for(read_json(folder / "config.json"))
    model = model_class.from_pretrained(folder, dtype=dtype, device_map={"": device})
    module, _, name = encoder.rpartition(".")
    try:
        reader = getattr(import_module(module), name).open(folder, model.config)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        _refuse(folder, f"has no tokenizer that fits it: {reason}", f"没有匹配的分词器：{reason}", error)
    return Opened(model.eval(), reader, folder)


def _load(folder: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    if "auto_map" in read_json(folder / "config.json"):
        _refuse(folder, "brings its own code, which is not run", "自带程序代码，本系统不会运行")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            device_map={"": device},
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        _refuse(folder, f"is no model for images and text that transformers knows: {reason}",
                f"不是 transformers 支持的图文模型：{reason}", error)  # fmt: skip
    absent = sorted({*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])})
    if absent:
        _refuse(folder, f"lacks tensors or has them in another shape: {', '.join(absent[:5])}",
                f"缺少张量或张量形状不符：{'、'.join(absent[:5])}")  # fmt: skip
    if getattr(model.config, "image_token_id", None) is None:
        _refuse(folder, "does not say which token stands for an image", "未说明代表图像的 token")
    return model.eval()


def _refuse(folder: Path, en: str, zh: str, cause: Exception | None = None) -> None:
    raise CheckpointError(f"{folder.name} {en}.", f"{folder.name} {zh}。") from cause


class SuiteEncoder:
    """Reads prompts with the suite's own `models.encoding.Encoder`."""

    def __init__(self, encoder: Encoder):
        self._encoder = encoder
        self.image_token_id = encoder.image_token_id
        self.pad_token_id = encoder.tokenizer.pad_token_id

    def tokens(
        self, messages: Sequence[Message], frames: Sequence[Frame], images: Sequence[Tensors]
    ) -> dict[str, list[int]]:
        """See `PromptEncoder`. An open answer is encoded as a learned one, and cut before its end mark."""
        grids = [image["image_grid_thw"].cpu() for image in images]
        open_answer = messages[-1]["role"] == "assistant"
        encoded = self._encoder.encode_text(
            messages, {"image_grid_thw": torch.cat(grids)} if grids else {}, learn=open_answer
        )
        end = None
        if open_answer:
            end = int((encoded["labels"][0] != IGNORED).nonzero()[-1])
        return {name: encoded[name][0, :end].tolist() for name in ("input_ids", "mm_token_type_ids")}

    def image(self, frame: Frame, max_pixels: int | None) -> Tensors:
        return self._encoder.encode_images([frame], max_pixels)

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoder.decode(ids)


class ProcessorEncoder:
    """Reads prompts with a folder's own processor, whatever its class. `max_pixels` is not for it to keep:
    most of these models know one size of image only."""

    def __init__(self, processor, image_token_id: int):
        self._processor = processor
        self.image_token_id = image_token_id
        pad = processor.tokenizer.pad_token_id
        self.pad_token_id = processor.tokenizer.eos_token_id if pad is None else pad

    @classmethod
    def open(cls, folder: Path, image_token_id: int) -> ProcessorEncoder:
        """CheckpointError where the processor is missing, needs torchvision, or has no chat template."""
        try:
            processor = _processor(folder)
        except (ImportError, OSError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            _refuse(
                folder, f"has no processor that works here: {reason}", f"没有可用的处理器：{reason}", error
            )
        if getattr(processor, "image_processor", None) is None:
            _refuse(folder, "has no image processor", "没有图像处理器")
        if not (getattr(processor, "chat_template", None) or processor.tokenizer.chat_template):
            _refuse(folder, "has no chat template, so it cannot be asked", "没有对话模板，无法提问")
        return cls(processor, image_token_id)

    def tokens(
        self, messages: Sequence[Message], frames: Sequence[Frame], images: Sequence[Tensors]
    ) -> dict[str, list[int]]:
        """See `PromptEncoder`; control tokens typed into a message are plain text, as in the suite's own."""
        open_answer = messages[-1]["role"] == "assistant"
        encoded = self._read(
            messages, frames, add_generation_prompt=not open_answer, continue_final_message=open_answer
        )
        return {name: list(encoded[name][0]) for name in _PER_TOKEN if name in encoded}

    def _read(self, messages: Sequence[Message], frames: Sequence[Frame], **options) -> Mapping[str, Any]:
        return self._processor.apply_chat_template(
            list(messages),
            tokenize=True,
            return_dict=True,
            sanitize_control_tokens=True,
            processor_kwargs={"images": [_picture(frame) for frame in frames]} if frames else {},
            **options,
        )

    def image(self, frame: Frame, max_pixels: int | None) -> Tensors:
        """See `PromptEncoder`. By the whole processor, which may cut an image otherwise than the part that is
        for images does by itself (InternVL's tiles)."""
        shown = ({"role": "user", "content": [{"type": "image"}]},)
        made = self._read(shown, (frame,), return_tensors="pt", add_generation_prompt=True)
        return {
            name: value
            for name, value in made.items()
            if isinstance(value, torch.Tensor) and name not in (*_PER_TOKEN, "attention_mask")
        }

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def _processor(folder: Path) -> ProcessorMixin:
    """The folder's processor with its PIL parts; one that knows videos, too, goes without them.

    Raises ImportError, OSError, ValueError or TypeError where that is not to be had.
    """
    options = {"backend": "pil", "local_files_only": True, "trust_remote_code": False}
    try:
        return AutoProcessor.from_pretrained(folder, **options)
    except ImportError:
        values, _ = ProcessorMixin.get_processor_dict(folder, local_files_only=True)
        kind = processor_class_from_name(values.get("processor_class") or "")
        attributes = kind.get_attributes() if kind else []
        if set(attributes) != {"image_processor", "tokenizer", "video_processor"}:
            raise
    parts = {
        "image_processor": AutoImageProcessor.from_pretrained(folder, **options),
        "tokenizer": AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
        "video_processor": None,
    }
    return _without_videos(kind).from_args_and_dict([parts[name] for name in attributes], values)


def _without_videos(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """The same processor, content with no part for videos: the library has one with torchvision alone."""

    class Still(kind):
        def check_argument_for_proper_class(self, argument_name, argument):
            if argument_name == "video_processor" and argument is None:
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

    return Still


def _picture(frame: Frame) -> Image.Image:
    return Image.fromarray(frame.pixels)
