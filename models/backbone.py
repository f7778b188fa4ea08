"""A multimodal model and everything that belongs to it, opened from one folder of weights.

Three architectures share it: Qwen2-VL, Qwen2.5-VL and EchoVLM; `models.checkpoint` finds the class from
config.json and checks that every tensor arrived. How text and images become tensors is
`models.encoding`'s affair, how tokens become text `models.streaming`'s.

Knows nothing of prompts, turns or pages.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from imaging.frame import Frame
from models.checkpoint import load_model, model_class_for, resolve
from models.encoding import Encoder, Message, Tensors
from models.errors import DeviceUnavailable

QUANTIZATIONS = ("8bit", "4bit")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Left in full precision when the rest is quantised: what sees, what routes and what speaks.
_KEPT_PRECISE = ["model.visual", "mlp.gate", "shared_expert_gate", "coefficient", "lm_head"]


@dataclass(frozen=True)
class Backbone:
    """A model in evaluation mode and its encoder. Holds weights, never a conversation."""

    model: PreTrainedModel
    encoder: Encoder
    folder: Path

    @classmethod
    def open(
        cls,
        weights: str | None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str | None = None,
        attn_implementation: str = "sdpa",
    ) -> Backbone:
        """Open a local folder or a Hugging Face id (`models.checkpoint.resolve` says which forms it takes).

        `device` "auto" is the first CUDA GPU when there is one, else the CPU. `dtype` "auto" is
        bfloat16 on a GPU that has it, float16 on an older one, and float32 on the CPU, where half
        precision is slower. `quantize` "8bit" or "4bit" (bitsandbytes, NF4) needs a GPU; the vision
        tower, the routers and the head keep `dtype`.

        Raises DeviceUnavailable for a GPU or package that is not there, ValueError for an unknown option, and
        `models.checkpoint.CheckpointError` for weights that do not fit.
        """
        place = choose_device(device)
        precision = choose_dtype(dtype, place)
        quantization = _quantization(quantize, place, precision)
        folder = Path(resolve(weights))
        config = json.loads((folder / "config.json").read_text("utf-8"))
        model = load_model(
            model_class_for(config),
            folder,
            dtype=precision,
            device=place,
            quantization_config=quantization,
            attn_implementation=attn_implementation,
        )
        return cls(model.eval(), Encoder.open(folder), folder)

    @property
    def context_length(self) -> int:
        """The most tokens, prompt and answer together, that the model's positions were made for."""
        return self.model.config.get_text_config().max_position_embeddings

    def encode(
        self, messages: Sequence[Message], frames: Sequence[Frame] = (), max_pixels: int | None = None
    ) -> Tensors:
        """`Encoder.encode`, with the tensors on the model's device."""
        tensors = self.encoder.encode(messages, frames, max_pixels)
        return {name: tensor.to(self.model.device) for name, tensor in tensors.items()}


def choose_device(name: str = "auto") -> torch.device:
    """The device `name` stands for; DeviceUnavailable when this machine has not got it, ValueError
    for a word that names none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is not one of auto, cpu, cuda, cuda:0 …") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailable(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA GPUs. Use --device cpu.",
            f"--device {name}：本机有 {torch.cuda.device_count()} 个 CUDA GPU。请改用 --device cpu。",
        )
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format `name` stands for on `device`; ValueError for an unknown name."""
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is not one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def number_format(model: PreTrainedModel, quantize: str | None = None) -> str:
    """How the weights' numbers are held: "bfloat16", or "bfloat16 4bit" when quantised."""
    return " ".join(part for part in (str(model.dtype).removeprefix("torch."), quantize) if part)


def _quantization(kind: str | None, device: torch.device, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if kind is None:
        return None
    if kind not in QUANTIZATIONS:
        raise ValueError(f"quantize {kind!r} is not one of {', '.join(QUANTIZATIONS)}")
    if device.type != "cuda":
        raise DeviceUnavailable(
            f"--quantize {kind} needs a CUDA GPU, but the model goes to {device}. Use --quantize none.",
            f"--quantize {kind} 需要 CUDA GPU，而当前设备为 {device}。请改用 --quantize none。",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise DeviceUnavailable(
            f"--quantize {kind} needs the package bitsandbytes: pip install bitsandbytes",
            f"--quantize {kind} 需要安装 bitsandbytes：pip install bitsandbytes",
        )
    return BitsAndBytesConfig(
        load_in_8bit=kind == "8bit",
        load_in_4bit=kind == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=_KEPT_PRECISE,
    )
