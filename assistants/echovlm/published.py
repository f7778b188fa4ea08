"""The layout of the published weights (chaoyinshe/EchoVLM), and how it maps onto ours.

The authors' class `Qwen2VLMOEForConditionalGeneration` (Asunatan/EchoVLM, EchoVLM.py) writes a config.json of
model_type "qwen2_vl" with the mixture's fields beside the others, and Qwen2-VL's old tensor names:

    published                         here, after model.language_model.layers.N
    model.layers.N.mlp.*              .mlp.ffn.*              the static expert, Qwen2's own feed-forward
    model.layers.N.moe.gate           .mlp.gate               the router
    model.layers.N.moe.experts.K.*    .mlp.experts            all experts in one tensor a projection
    model.layers.N.moe.shared_expert* .mlp.shared_expert*     the shared expert and its gate
    model.layers.N.coefficient        .mlp.coefficient        the two-way mixing
    visual.*                          model.visual.*          the vision tower

`save_pretrained` applies the renames backwards: what this package saves has the published tensor names too.

Knows names and shapes only; the model is in `model.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import WeightRenaming, WeightTransform

from models.checkpoint import CheckpointError, tensors_of

AUTHORS_CLASS = "Qwen2VLMOEForConditionalGeneration"
OUR_TYPE = "echovlm"


def renames() -> list[WeightTransform]:
    """Published tensor names to ours: Qwen2-VL's old prefixes, our modules, Qwen2-MoE's fused experts."""
    return [
        *get_checkpoint_conversion_mapping("Qwen2VLForConditionalGeneration"),
        WeightRenaming(r"\.mlp\.(gate_proj|up_proj|down_proj)\.", r".mlp.ffn.\1."),
        # the longer name first: backwards, the library lets the last dot stand for any character
        WeightRenaming(r"\.moe\.(gate|experts|shared_expert_gate|shared_expert)\.", r".mlp.\1."),
        WeightRenaming(r"(?<!mlp)\.coefficient\.", ".mlp.coefficient."),
        *get_checkpoint_conversion_mapping("qwen2_moe"),
    ]


def register(class_name: str) -> None:
    """Let the library's loader and `save_pretrained` use `renames` for the class of that name."""
    register_checkpoint_conversion_mapping(class_name, renames(), overwrite=True)


def as_echovlm(config: Mapping[str, Any], folder: str | Path) -> dict[str, Any]:
    """A config.json as ours: unchanged when it is ours, translated when it is in the published layout.

    The authors' class builds four experts whatever `num_experts` says, so in a local folder the routers' own
    shapes decide. Raises CheckpointError for any other model, above all a dense Qwen2-VL.
    """
    config = dict(config)
    if config.get("model_type") == OUR_TYPE:
        return config
    if AUTHORS_CLASS not in (config.get("architectures") or ()) and "moe_intermediate_size" not in config:
        raise _not_echovlm(config, folder)
    config["model_type"] = OUR_TYPE
    if Path(folder).is_dir():
        config["num_experts"] = _count_experts(Path(folder), config.get("num_experts", 4))
    return config


def _count_experts(folder: Path, claimed: int) -> int:
    """Rows of the routers; what config.json claims where at least one router agrees with it."""
    tensors = tensors_of(folder)
    rows = [tensor.shape[0] for name, tensor in tensors.items() if name.endswith(".moe.gate.weight")]
    if not rows or claimed in rows:
        return claimed
    return Counter(rows).most_common(1)[0][0]


def _not_echovlm(config: Mapping[str, Any], folder: str | Path) -> CheckpointError:
    kind = config.get("model_type")
    if kind != "qwen2_vl":
        return CheckpointError(
            f"{folder} does not hold an EchoVLM: its config.json says model_type {kind!r}.",
            f"{folder} 不是 EchoVLM 权重：config.json 中的 model_type 为 {kind!r}。",
        )
    return CheckpointError(
        f"{folder} holds a dense Qwen2-VL, without EchoVLM's mixture of experts. Open it with "
        "transformers.Qwen2VLForConditionalGeneration, or start an EchoVLM from it with "
        "EchoVLMForConditionalGeneration.from_dense.",
        f"{folder} 中是不含混合专家层的 Qwen2-VL，不是 EchoVLM 权重。请选用 EchoVLM 权重。",
    )
