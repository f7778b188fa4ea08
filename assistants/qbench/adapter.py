"""Open what a rater can run on: whole weights of any model, or a LoRA adapter on the base that it names.

Ultrasound-QBench rates zero-shot and asks for tuning on the domain (section V.B c); an adapter
(adapter_config.json and adapter_model.safetensors, peft) is what such tuning leaves here. It is added into
its base's weights, once every tensor has been compared with what the base needs.

Knows nothing of prompts, levels or scores.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.utils import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoImageProcessor, PreTrainedModel

from models import checkpoint
from models.any_model import Opened, SuiteEncoder, open_any
from models.checkpoint import REPOSITORY, CheckpointError
from models.encoding import Encoder

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def open_weights(
    weights: str | Path, *, device: str, dtype: str, quantize: str | None
) -> tuple[Opened, tuple[Path, ...]]:
    """What `models.any_model.open_any` opens, or an adapter on it, and the folders that answers come from,
    the adapter's first.

    Raises what `open_any` does, and CheckpointError for an adapter that names no base of the suite's own
    architectures or does not fit it.
    """
    options = {"device": device, "dtype": dtype, "quantize": quantize}
    folder = _adapter_folder(weights)
    if folder is None:
        opened = open_any(str(weights), **options)
        return opened, (opened.folder,)
    values = checkpoint.read_json(folder / CONFIG)
    base = values.get("base_model_name_or_path")
    opened = open_any(base, **options) if base and values.get("peft_type") == "LORA" else None
    if opened is None or opened.backbone is None:
        raise CheckpointError(
            f"{folder / CONFIG} is no LoRA adapter of a model that the suite trains.",
            f"{folder / CONFIG} 不是本系统可训练模型的 LoRA 适配器。",
        )
    model = _merged(opened.model, folder, keep_apart=quantize is not None)
    encoder = _encoder(opened.backbone.encoder, folder)
    backbone = replace(opened.backbone, model=model, encoder=encoder)
    return replace(opened, model=model, encoder=SuiteEncoder(encoder), backbone=backbone), (
        folder,
        opened.folder,
    )


def fingerprint(folders: tuple[Path, ...]) -> str:
    """`models.checkpoint.fingerprint` of the weights; with an adapter, another one for each adapter."""
    base = checkpoint.fingerprint(folders[-1])
    if len(folders) == 1:
        return base
    return hashlib.sha256(base.encode() + (folders[0] / TENSORS).read_bytes()).hexdigest()[:16]


def _adapter_folder(weights: str | Path) -> Path | None:
    places = (Path(weights).expanduser(), REPOSITORY / weights)
    return next((place for place in places if (place / CONFIG).is_file()), None)


def _merged(model: PreTrainedModel, folder: Path, *, keep_apart: bool) -> PreTrainedModel:
    """The model with the adapter in its weights; quantised weights cannot take it in and keep it beside."""
    try:
        found = load_file(folder / TENSORS)
        config = LoraConfig.from_pretrained(str(folder))
        config.inference_mode = True
        wrapped = get_peft_model(model, config)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{folder} holds no adapter for its base: {error}", f"{folder} 中的适配器无法使用：{error}"
        ) from error
    needed = {name: tensor.shape for name, tensor in get_peft_model_state_dict(wrapped).items()}
    if wrong := sorted(
        name
        for name in needed.keys() | found.keys()
        if name not in needed or name not in found or needed[name] != found[name].shape
    ):
        raise CheckpointError(
            f"{folder} does not fit its base: {len(wrong)} tensors are missing, unexpected or reshaped, such "
            f"as {wrong[0]}.",
            f"{folder} 与其基础模型不匹配：{len(wrong)} 个张量缺失、多余或形状不符，例如 {wrong[0]}。",
        )
    set_peft_model_state_dict(wrapped, found)
    return (wrapped.get_base_model() if keep_apart else wrapped.merge_and_unload()).eval()


def _encoder(base: Encoder, folder: Path) -> Encoder:
    """The base's, with the image processor that the adapter was trained with where it lies beside it."""
    if not (folder / "preprocessor_config.json").is_file():
        return base
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    return Encoder(base.tokenizer, processor, base.image_token_id)
