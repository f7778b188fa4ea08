"""Open whole weights, or what a LoRA run leaves: an adapter, put on the base model that it names.

An adapter is a folder with adapter_config.json and adapter_model.safetensors (peft; LoRA is Hu et al. 2021).
AbVLM-Q (2025), "fine-tuning", has one on the linear layers of attention and feed-forward, the vision
transformer included; Ultrasound-QBench (2025), section V.B c, asks for tuning on the domain, which leaves one
here. As with whole weights, every tensor is compared with what the model needs before anything is used, and
nothing pickled is opened.

Knows nothing of prompts, boxes or scores.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoImageProcessor, PreTrainedModel

from models.backbone import Backbone
from models.checkpoint import REPOSITORY, CheckpointError, read_json
from models.encoding import Encoder

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def adapter_folder(weights: str | Path) -> Path | None:
    """The folder of `weights` when it is an adapter, else None. Relative paths as in `checkpoint.resolve`."""
    places = (Path(weights).expanduser(), REPOSITORY / weights)
    return next((place for place in places if (place / CONFIG).is_file()), None)


def open_backbone(
    weights: str | Path, *, device: str, dtype: str, quantize: str | None, merge: bool = True
) -> tuple[Backbone, tuple[Path, ...]]:
    """Whole weights, or an adapter on its base, and the folders that answers come from, the adapter's first.

    With `merge` the adapter is added into the base's weights, which is faster; quantised weights cannot take
    it in and keep it beside. Raises what `Backbone.open` raises, and CheckpointError for an adapter that does
    not fit.
    """
    options = {"device": device, "dtype": dtype, "quantize": quantize}
    folder = adapter_folder(weights)
    if folder is None:
        backbone = Backbone.open(str(weights), **options)
        return backbone, (backbone.folder,)
    base = base_of(folder)
    backbone = Backbone.open(base, **options)
    wrapped = with_adapter(backbone.model, base, folder)
    model = wrapped.merge_and_unload() if merge and quantize is None else wrapped.get_base_model()
    encoder = _encoder(backbone.encoder, folder)
    return replace(backbone, model=model.eval(), encoder=encoder), (folder, backbone.folder)


def base_of(folder: Path) -> str:
    """The weights that an adapter says it is for; CheckpointError where it is no LoRA, names no base, or one
    that is an adapter itself."""
    values = read_json(folder / CONFIG)
    base, kind = values.get("base_model_name_or_path"), values.get("peft_type")
    if kind != "LORA":
        why, why_zh = f"its peft_type is {kind}", f"peft_type 为 {kind}"
    elif not base:
        why, why_zh = "base_model_name_or_path is empty", "未注明 base_model_name_or_path"
    elif adapter_folder(base) is not None:
        why, why_zh = f"its base {base} is an adapter, too", f"其基础模型 {base} 也是适配器"
    else:
        return base
    raise CheckpointError(
        f"{folder / CONFIG} is no LoRA adapter of a model that the suite trains: {why}.",
        f"{folder / CONFIG} 不是本系统可训练模型的 LoRA 适配器：{why_zh}。",
    )


def with_adapter(model: PreTrainedModel, base: str, folder: Path) -> PeftModel:
    """The model of `base` with the adapter beside its weights."""
    config = config_of(folder)
    config.inference_mode = True
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:  # peft found no layer of that name
        raise _no_adapter(folder, base, error) from error
    fill(wrapped, base, folder)
    return wrapped


def config_of(folder: Path) -> LoraConfig:
    """What an adapter says of itself; CheckpointError where that cannot be read."""
    try:
        return LoraConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError) as error:
        raise _no_adapter(folder, base_of(folder), error) from error


def fill(wrapped: PeftModel, base: str, folder: Path) -> None:
    """Put the folder's tensors into the LoRA of a model of `base`; CheckpointError unless every one fits."""
    try:
        found = load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise _no_adapter(folder, base, error) from error
    _require_fit(get_peft_model_state_dict(wrapped), found, base, folder)
    set_peft_model_state_dict(wrapped, found)


def _no_adapter(folder: Path, base: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder} holds no adapter for its base, {base}: {error}",
        f"{folder} 中的适配器无法用于 {base}：{error}",
    )


def _require_fit(needed: dict[str, Tensor], found: dict[str, Tensor], base: str, folder: Path) -> None:
    """CheckpointError unless both hold the same tensors, by name and shape."""
    missing, unexpected = needed.keys() - found.keys(), found.keys() - needed.keys()
    reshaped = {name for name in needed.keys() & found.keys() if needed[name].shape != found[name].shape}
    if wrong := missing | unexpected | reshaped:
        raise CheckpointError(
            f"{folder} does not fit its base: {len(wrong)} tensors differ from what {base} needs "
            f"({len(missing)} missing, {len(unexpected)} unexpected, {len(reshaped)} reshaped), such as "
            f"{min(wrong)}.",
            f"{folder} 与其基础模型 {base} 不匹配：缺少 {len(missing)} 个张量，"
            f"多出 {len(unexpected)} 个，{len(reshaped)} 个形状不符，例如 {min(wrong)}。",
        )


def _encoder(base: Encoder, folder: Path) -> Encoder:
    """The base's, with the image processor that the adapter was trained with where it lies beside it."""
    if not (folder / "preprocessor_config.json").is_file():
        return base
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    return Encoder(base.tokenizer, processor, base.image_token_id)
