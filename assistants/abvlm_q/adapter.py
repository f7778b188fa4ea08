"""Open what a LoRA run leaves: a base model with an adapter on it, merged or not.

AbVLM-Q (2025), "fine-tuning": LoRA on the linear layers of attention and feed-forward, the vision transformer
included. An adapter is a folder with adapter_config.json and adapter_model.safetensors (peft), and names its
base; as with whole weights, every tensor is compared with what the model needs before anything is used, and
nothing pickled is opened.

Knows nothing of prompts or boxes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.utils import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
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

    With `merge` the adapter is added into the base's weights, which is faster; quantised weights are left as
    they are. Raises what `Backbone.open` raises, and CheckpointError for an adapter that does not fit.
    """
    folder = adapter_folder(weights)
    options = {"device": device, "dtype": dtype, "quantize": quantize}
    if folder is None:
        backbone = Backbone.open(str(weights), **options)
        return backbone, (backbone.folder,)
    config = _configuration(folder)
    backbone = Backbone.open(config.base_model_name_or_path, **options)
    model = _with_adapter(backbone.model, config, folder, merge and quantize is None)
    encoder = _encoder(backbone.encoder, folder)
    return replace(backbone, model=model.eval(), encoder=encoder), (folder, backbone.folder)


def _configuration(folder: Path) -> LoraConfig:
    values = read_json(folder / CONFIG)
    if values.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{folder} is an adapter of the kind {values.get('peft_type')}; LORA is the one that is opened.",
            f"{folder} 是 {values.get('peft_type')} 类型的适配器；本系统只支持 LORA。",
        )
    if not values.get("base_model_name_or_path"):
        raise CheckpointError(
            f"{folder / CONFIG} does not name its base (base_model_name_or_path).",
            f"{folder / CONFIG} 未注明基础模型（base_model_name_or_path）。",
        )
    return LoraConfig.from_pretrained(str(folder))


def _with_adapter(model: PreTrainedModel, config: LoraConfig, folder: Path, merge: bool) -> PreTrainedModel:
    try:
        found = load_file(folder / TENSORS)
        config.inference_mode = True
        wrapped = get_peft_model(model, config)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{folder} does not hold an adapter that can be put on {config.base_model_name_or_path}: {error}",
            f"{folder} 中的适配器无法用于 {config.base_model_name_or_path}：{error}",
        ) from error
    needed = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(wrapped).items()}
    arrived = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if arrived != needed:
        missing, unexpected = needed.keys() - arrived.keys(), arrived.keys() - needed.keys()
        reshaped = [name for name in needed.keys() & arrived.keys() if needed[name] != arrived[name]]
        example = min([*missing, *unexpected, *reshaped])
        raise CheckpointError(
            f"{folder} does not fit {config.base_model_name_or_path}: {len(missing)} tensors missing, "
            f"{len(unexpected)} unexpected, {len(reshaped)} reshaped, such as {example}.",
            f"{folder} 与 {config.base_model_name_or_path} 不匹配：缺少 {len(missing)} 个张量，"
            f"多出 {len(unexpected)} 个，{len(reshaped)} 个形状不符，例如 {example}。",
        )
    set_peft_model_state_dict(wrapped, found)
    return wrapped.merge_and_unload() if merge else wrapped.get_base_model()


def _encoder(base: Encoder, folder: Path) -> Encoder:
    """The base's, with the image processor that the adapter was trained with where it lies beside it."""
    if not (folder / "preprocessor_config.json").is_file():
        return base
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    return Encoder(base.tokenizer, processor, base.image_token_id)
