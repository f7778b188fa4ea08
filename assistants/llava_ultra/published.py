"""Published weights as a LLaVA-Ultra: which tensor goes where, and what they do not hold.

No weights of the paper are public. It starts from LLaVA-Med (section 3.1), CLIP and SAM, which come in these
layouts, told apart by config.json and never by a folder's name:

    layout      config.json                            decoder   projector    CLIP
    own         model_type llava_ultra                 as saved  as saved     in the checkpoint
    original    flat, with mm_vision_tower:            Llama     linear       mm_vision_tower's own weights
                LLaVA-Med v1 (llava)
                LLaVA-Med v1.5 (llava_mistral)         Mistral   mlp2x_gelu   in the checkpoint
    converted   the library's llava, with text_config  either    mlp2x_gelu   in the checkpoint
    decoder     model_type llama or mistral            either    none         to be named

A folder with adapter_config.json is a LoRA adapter (peft) on any of these, which it names; what it holds
whole (`modules_to_save`, as fusion and frame_score) takes the place of its base's, or of what that lacks.

The paper uses "the linear projection" (section 4), as LLaVA-Med v1. A projector keeps its source's form, so
that its weights can be used: on v1.5 a model has mlp2x_gelu, SAM's projector too, where the paper is linear.
LLaVA-Med v1 is published as a difference to LLaMA: `base` names the LLaMA. Tensors go from the files to the
model one by one; there is never a second copy of it in memory. Only safetensors are read.

Knows names and shapes only; the model is in `model.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import get_peft_model_state_dict
from safetensors import safe_open
from transformers import GenerationConfig, LlamaConfig, LlavaConfig, MistralConfig, initialization

from assistants.llava_ultra.configuration import CLIP_L14, LlavaUltraConfig
from assistants.llava_ultra.model import LlavaUltraForConditionalGeneration
from models import adapter
from models.checkpoint import CheckpointError, Tensor, read_json, resolve, tensors_of

Rules = tuple[tuple[str, str], ...]

DECODER: Rules = (
    (r"model\.(?=(embed_tokens|layers|norm)\.)", "model.language_model."),
    (r"lm_head\.", "lm_head."),
)
ORIGINAL: Rules = (
    (r"model\.mm_projector\.", "model.fusion.clip_projector."),
    (r"model\.vision_tower\.vision_tower\.(vision_model\.)?", "model.vision_tower."),
    *DECODER,
)
CONVERTED: Rules = (  # as older and newer versions of the library save it
    (r"(model\.)?multi_modal_projector\.linear_1\.", "model.fusion.clip_projector.0."),
    (r"(model\.)?multi_modal_projector\.linear_2\.", "model.fusion.clip_projector.2."),
    (r"(model\.)?vision_tower\.(vision_model\.)?", "model.vision_tower."),
    (r"language_model\.lm_head\.", "lm_head."),
    (r"(language_model\.model|model\.language_model)\.", "model.language_model."),
    (r"lm_head\.", "lm_head."),
)
CLIP: Rules = (
    (r"vision_model\.|(?=(embeddings|encoder|pre_layrnorm|post_layernorm)\.)", "model.vision_tower."),
)
SAM: Rules = ((r"vision_encoder\.", "model.sam_tower.vision_encoder."),)

# What files hold and a LLaVA-Ultra has no use for: tables that are computed, CLIP's words, SAM's masks.
_LEFT_OUT = re.compile(
    r".*\.(rotary_emb\.inv_freq|embeddings\.position_ids)$"
    r"|(text_model|text_projection|visual_projection|logit_scale|text_embeds)\b"
    r"|(prompt_encoder|mask_decoder|shared_image_embedding)\b"
)
# Parts that a source may lack as a whole. Half of one is damage, and so is anything else that is missing.
_MAY_BE_FRESH = (
    "model.fusion.clip_projector",
    "model.fusion.sam_projector",
    "model.fusion.sam_grid",
    "model.fusion.alpha",
    "model.frame_score",
)
_DECODERS = {
    "llava": LlamaConfig,
    "llava_llama": LlamaConfig,
    "llama": LlamaConfig,
    "llava_mistral": MistralConfig,
    "mistral": MistralConfig,
}
# Where config.json has no `template`: what each layout's published weights were trained with.
_TEMPLATES = {"llava": "llava_med_v1", "llava_mistral": "mistral_instruct", "mistral": "mistral_instruct"}
_TEMPLATE = "vicuna_v1"
_IMAGE_PATCH = "<im_patch>"  # the placeholder of the original layout, where its vocabulary has one
_CLIP_HEAD = 64  # channels of one attention head, in every CLIP of OpenAI's
_DIFFERENCE = 0.1  # a final norm's mean weight: about 0 in a difference, 1 and more in a LLaMA


class Lazy(Protocol):
    """A tensor that is read when it is indexed."""

    def __getitem__(self, index: Any) -> torch.Tensor: ...


@dataclass(frozen=True)
class Opened:
    """`model` in evaluation mode; `layout` of the table above; `fresh` names every untrained tensor. The
    first of `folders` is what was opened, the last has the tokenizer: an adapter's base, or the same."""

    model: LlavaUltraForConditionalGeneration
    layout: str
    fresh: tuple[str, ...]
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class Source:
    """One folder of weights: its configuration, its tensors' headers, and what they are called here."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    rules: Rules

    @classmethod
    def open(cls, weights: str | Path, rules: Rules) -> Source:
        folder = _resolve(weights)
        return cls(folder, read_json(folder / "config.json"), tensors_of(folder), rules)

    def named(self) -> Iterator[tuple[str, str]]:
        """(name in the file, name here) of all that is of use. CheckpointError lists strangers."""
        names = {name: _rename(name, self.rules) for name in self.tensors if not _LEFT_OUT.match(name)}
        if strangers := [name for name, ours in names.items() if ours is None]:
            raise _faulty(self.folder, [f"unexpected   {name}" for name in strangers])
        yield from names.items()


@dataclass(frozen=True)
class Sum:
    """A difference and its base, added in float32 when read. Rows that the base lacks are taken as they are:
    the four tokens that LLaVA-Med adds to LLaMA's 32000."""

    difference: Lazy
    base: Lazy

    def __getitem__(self, index: Any) -> torch.Tensor:
        total = self.difference[...].to(torch.float32, copy=True)
        base = self.base[...]
        total[: len(base)] += base
        return total[index]


def open_published(
    weights: str | Path,
    *,
    base: str | Path | None = None,
    clip: str | Path | None = None,
    sam: str | Path | None = None,
    fresh: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    **fields,
) -> Opened:
    """Open a folder or Hugging Face id in any of the layouts above, or a local folder with an adapter.

    `base` is the LLaMA that LLaVA-Med v1's difference is added to; `clip` and `sam` name weights in the
    layouts of openai/clip-vit-large-patch14 (needed only where the checkpoint has no CLIP; the default is
    what it names) and facebook/sam-vit-large (without: SAM off). `fields` go into the configuration
    (`alpha=1.0`, `template="…"`).

    Raises CheckpointError: for anything missing, unexpected or of another shape, with every name; for parts
    that no source holds (SAM's projector, alpha, the frame score), unless `fresh` allows them to start
    untrained; for a difference without its base; for pickled weights.
    """
    options = {"base": base, "clip": clip, "sam": sam, "dtype": dtype, "device": device, **fields}
    if (folder := adapter.adapter_folder(weights)) is not None:
        return _adapted(folder, fresh, options)
    folder = _resolve(weights)
    if read_json(folder / "config.json").get("model_type") == LlavaUltraConfig.model_type:
        if base or clip or sam or fields:
            raise ValueError(f"{folder} is a LLaVA-Ultra already; it takes no base, clip, sam or fields")
        model = LlavaUltraForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, device_map={"": device}
        )
        return Opened(model.eval(), "own", (), (folder,))
    layout, rules = _layout(folder)
    source = Source.open(folder, rules)
    towers = [tower for tower in (_clip(source, clip), sam and Source.open(sam, SAM)) if tower]
    config = _configuration(source, layout, towers, fields)
    with ExitStack() as files:
        tensors = _tensors(source, towers, base, files)
        untrained = _compare(folder, config, tensors)
        _require_trained(folder, untrained, fresh)
        model = LlavaUltraForConditionalGeneration.from_pretrained(
            None,
            config=config,
            state_dict={name: lazy for name, (_, lazy) in tensors.items()},
            dtype=dtype,
            device_map={"": device},
        )
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
        model.generation_config.update(**_special_ids(model.generation_config.to_dict()))
    return Opened(model.eval(), layout, untrained, (folder,))


def _adapted(folder: Path, fresh: bool, options: dict[str, Any]) -> Opened:
    """The base that the adapter in `folder` names, with the adapter added into its weights."""
    base = adapter.base_of(folder)
    opened = open_published(base, fresh=True, **options)
    wrapped = adapter.with_adapter(opened.model, base, folder)
    brought = {name.removeprefix("base_model.model.") for name in get_peft_model_state_dict(wrapped)}
    untrained = tuple(name for name in opened.fresh if name not in brought)
    _require_trained(folder, untrained, fresh)
    model = wrapped.merge_and_unload().eval()
    return Opened(model, opened.layout, untrained, (folder, *opened.folders))


def _layout(folder: Path) -> tuple[str, Rules]:
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind == "llava" and "text_config" in config:
        return "converted", CONVERTED
    if kind in ("llama", "mistral"):
        return "decoder", DECODER
    if kind in _DECODERS and "mm_hidden_size" in config:
        return "original", ORIGINAL
    raise CheckpointError(
        f"{folder} holds no weights a LLaVA-Ultra can start from: its config.json says model_type {kind!r}.",
        f"{folder} 中的权重不能用于 LLaVA-Ultra：config.json 中的 model_type 为 {kind!r}。",
    )


def _resolve(weights: str | Path) -> Path:
    """`models.checkpoint.resolve`, which says what to do where a folder has pickled weights alone."""
    folder = Path(weights).expanduser()
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        if pickles := sorted(path.name for path in folder.glob("*.bin")):
            raise CheckpointError(
                f"{folder} has pickled weights alone ({', '.join(pickles)}), which may run code and are not "
                "opened. Convert them to safetensors first, where nothing can be harmed: "
                "https://huggingface.co/docs/safetensors/convert-weights",
                f"{folder} 中只有 pickle 格式的权重（{'、'.join(pickles)}），可能执行代码，因此不予打开。"
                "请先在隔离环境中转换为 safetensors：https://huggingface.co/docs/safetensors/convert-weights",
            )
    return resolve(weights)


def _clip(source: Source, named: str | Path | None) -> Source | None:
    """Where CLIP comes from, or None where the checkpoint has its own. Only a named one is looked for."""
    if any("vision_tower." in name for name in source.tensors):
        if named:
            raise ValueError(f"{source.folder} has a vision tower of its own; leave clip out")
        return None
    named = named or source.config.get("mm_vision_tower")
    if not named:
        raise CheckpointError(
            f"{source.folder} has no vision tower and names none: give clip=, a CLIP's folder or id.",
            f"{source.folder} 中没有视觉编码器，也未注明其名称：请用 clip= 指定 CLIP 的文件夹或编号。",
        )
    return Source.open(named, CLIP)


# --- configuration ------------------------------------------------------------------------------------------


def _configuration(source: Source, layout: str, towers: list[Source], fields: dict) -> LlavaUltraConfig:
    described = _described_by_library(source) if layout == "converted" else _described_flat(source)
    for tower in towers:
        part = "vision_config" if tower.rules is CLIP else "sam_config"
        described[part] = tower.config.get("vision_config", dict(tower.config))
    described["template"] = source.config.get("template") or _template(described, source.config)
    try:
        return LlavaUltraConfig(
            architectures=[LlavaUltraForConditionalGeneration.__name__], **(described | fields)
        )
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise CheckpointError(
            f"{source.folder / 'config.json'} does not describe a LLaVA-Ultra: {error}",
            f"{source.folder / 'config.json'} 不是有效的 LLaVA-Ultra 配置：{error}",
        ) from error


def _template(described: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    kind = config["model_type"]
    if kind == "llava" and "text_config" in config:
        kind = described["text_config"]["model_type"]
    return _TEMPLATES.get(kind, _TEMPLATE)


def _described_by_library(source: Source) -> dict[str, Any]:
    config = LlavaConfig.from_dict(dict(source.config))
    _require(source, "vision_feature_select_strategy", config.vision_feature_select_strategy, "default")
    _require(source, "projector_hidden_act", config.projector_hidden_act, "gelu")
    return {
        "vision_config": config.vision_config.to_dict(),
        "text_config": config.text_config.to_dict(),
        "image_token_id": config.image_token_id,
        "projector_type": "mlp2x_gelu",
        "vision_feature_layer": config.vision_feature_layer,
    }


def _described_flat(source: Source) -> dict[str, Any]:
    config = source.config
    _require(source, "mm_vision_select_feature", config.get("mm_vision_select_feature", "patch"), "patch")
    _require(source, "mm_patch_merge_type", config.get("mm_patch_merge_type", "flat"), "flat")
    described = {
        "text_config": _decoder(config),
        "image_token_id": _image_token(source),
        "projector_type": config.get("mm_projector_type") or "linear",
        "vision_feature_layer": config.get("mm_vision_select_layer", -2),
    }
    if any("vision_tower." in name for name in source.tensors):
        described["vision_config"] = _measured_clip(source)
    return described


def _decoder(config: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's fields of a flat config.json."""
    kind = _DECODERS[config["model_type"]]
    known = {*kind.__dataclass_fields__, "rope_theta", "rope_scaling"} - {"architectures", "dtype"}
    fields = {name: value for name, value in config.items() if name in known}
    if "max_sequence_length" in config:
        fields.setdefault("max_position_embeddings", config["max_sequence_length"])
    return {**fields, **_special_ids(config), "model_type": kind.model_type}


def _special_ids(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What LLaMA's first conversions got wrong in config.json and generation_config.json, put right."""
    right = {}
    if (fields.get("bos_token_id"), fields.get("eos_token_id")) == (0, 1):
        right |= {"bos_token_id": 1, "eos_token_id": 2}  # <unk>, <s>: what the tokenizer has is <s>, </s>
    if (fields.get("pad_token_id") or 0) < 0:
        right["pad_token_id"] = None
    return right


def _image_token(source: Source) -> int:
    """The id of <im_patch> where the tokenizer has it, else the first that the vocabulary has not."""
    added = source.folder / "added_tokens.json"
    if added.is_file() and _IMAGE_PATCH in (tokens := read_json(added)):
        return tokens[_IMAGE_PATCH]
    if source.config.get("mm_use_im_start_end"):
        return source.config["vocab_size"] - 3  # [PAD] <im_patch> <im_start> <im_end> end the vocabulary
    return source.config["vocab_size"]


def _measured_clip(source: Source) -> dict[str, Any]:
    """The configuration of a vision tower that came without one, from its tensors' shapes."""
    shapes = {ours: source.tensors[name].shape for name, ours in source.named()}
    at = "model.vision_tower."
    try:
        positions, hidden = shapes[f"{at}embeddings.position_embedding.weight"]
        patch = shapes[f"{at}embeddings.patch_embedding.weight"][-1]
        intermediate = shapes[f"{at}encoder.layers.0.mlp.fc1.weight"][0]
    except KeyError as error:
        raise _faulty(source.folder, [f"missing      {error.args[0]}"]) from error
    layers = {name.split(".")[4] for name in shapes if name.startswith(f"{at}encoder.layers.")}
    return {
        **CLIP_L14,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(hidden // _CLIP_HEAD, 1),
        "image_size": round((positions - 1) ** 0.5) * patch,
        "patch_size": patch,
    }


def _require(source: Source, field: str, value: Any, expected: str) -> None:
    if value != expected:
        raise CheckpointError(
            f"{source.folder / 'config.json'}: {field} is {value!r}; only {expected!r} is opened.",
            f"{source.folder / 'config.json'}：{field} 为 {value!r}，本系统只支持 {expected!r}。",
        )


# --- tensors ------------------------------------------------------------------------------------------------


def _tensors(
    source: Source, towers: Iterable[Source], base: str | Path | None, files: ExitStack
) -> dict[str, tuple[tuple[int, ...], Lazy]]:
    """Shape and lazy tensor by our names; `files` keeps the files open."""
    slices = {name: lazy for each in (source, *towers) for name, lazy in _slices(each, files).items()}
    _check_difference(source, slices, base)
    if base is not None:
        for name, (shape, lazy) in _slices(Source.open(base, DECODER), files).items():
            whole, difference = slices.get(name, (None, None))
            if whole is None or whole[1:] != shape[1:] or whole[0] < shape[0]:
                raise _faulty(source.folder, [f"reshaped     {name} {whole}, the base has {shape}"])
            if whole != shape and name.rpartition(".")[0] not in (
                "model.language_model.embed_tokens",
                "lm_head",
            ):
                raise _faulty(source.folder, [f"reshaped     {name} {whole}, the base has {shape}"])
            slices[name] = (whole, Sum(difference, lazy))
    return slices


def _slices(source: Source, files: ExitStack) -> dict[str, tuple[tuple[int, ...], Lazy]]:
    opened: dict[Path, Any] = {}
    slices = {}
    for name, ours in source.named():
        tensor = source.tensors[name]
        if tensor.file not in opened:
            opened[tensor.file] = files.enter_context(safe_open(tensor.file, framework="pt"))
        slices[ours] = (tensor.shape, opened[tensor.file].get_slice(name))
    return slices


def _check_difference(source: Source, slices: Mapping[str, tuple], base: str | Path | None) -> None:
    """A difference opened as it is would talk nonsense, and so would whole weights with a base on top."""
    norm = slices.get("model.language_model.norm.weight")
    if norm is None:
        return  # `_compare` names it
    is_difference = norm[1][...].float().mean().abs() < _DIFFERENCE
    if is_difference and base is None:
        raise CheckpointError(
            f"{source.folder} holds a difference to LLaMA's weights, not the weights: give base=, the LLaMA "
            "(in a recipe ultra.base), and use what is saved then.",
            f"{source.folder} 中是与 LLaMA 权重的差值，而非完整权重：请用 base= 指定 LLaMA 权重"
            "（训练配置中为 ultra.base），并使用由此保存的权重。",
        )
    if base is not None and not is_difference:
        raise CheckpointError(
            f"{source.folder} holds whole weights, not a difference: leave base out.",
            f"{source.folder} 中是完整权重，而非差值：请不要指定 base。",
        )


def _compare(folder: Path, config: LlavaUltraConfig, tensors: dict) -> tuple[str, ...]:
    """What must start untrained, in order. CheckpointError for damage."""
    with torch.device("meta"), initialization.no_init_weights():
        needed = LlavaUltraForConditionalGeneration(config).state_dict()
    if config.tie_word_embeddings:
        del needed["lm_head.weight"]
        tensors.pop("lm_head.weight", None)
    missing = sorted(needed.keys() - tensors.keys())
    absent = [part for part in _MAY_BE_FRESH if not any(name.startswith(part) for name in tensors)]
    untrained = tuple(name for name in missing if name.startswith(tuple(absent)))
    faults = [f"missing      {name}" for name in missing if name not in untrained]
    faults += [f"unexpected   {name}" for name in sorted(tensors.keys() - needed.keys())]
    for name in sorted(tensors.keys() & needed.keys()):
        found, wanted = tuple(tensors[name][0]), tuple(needed[name].shape)
        if found != wanted:
            faults.append(f"reshaped     {name} {found}, needed {wanted}")
    if faults:
        raise _faulty(folder, faults)
    return untrained


def _require_trained(folder: Path, untrained: Sequence[str], fresh: bool) -> None:
    if untrained and not fresh:
        listing = "".join(f"\n{name}" for name in untrained)
        raise CheckpointError(
            f"{folder} does not hold every part of a LLaVA-Ultra. Open it with fresh=True to start these "
            f"untrained:{listing}",
            f"{folder} 不含 LLaVA-Ultra 的全部部分。如需从未训练状态开始，请使用 fresh=True：{listing}",
        )


def _rename(name: str, rules: Rules) -> str | None:
    for pattern, ours in rules:
        if found := re.match(pattern, name):
            return ours + name[found.end() :]
    return None


def _faulty(folder: Path, faults: Iterable[str]) -> CheckpointError:
    listing = "".join(f"\n{fault}" for fault in faults)
    return CheckpointError(
        f"{folder} cannot be opened as a LLaVA-Ultra; nothing was loaded:{listing}",
        f"{folder} 无法作为 LLaVA-Ultra 打开，未加载任何内容：{listing}",
    )
