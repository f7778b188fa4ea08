"""Checkpoints in the layout of the published EchoVLM with random weights, and what they should compute.

The tensor names are written out from the authors' files, not taken from the code under test; the reference is
the library's dense Qwen2-VL with a feed-forward that evaluates every expert on every token and masks the sum.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import linear, one_hot, silu
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

IMAGE, VIDEO, START, END, PAD = 90, 91, 92, 93, 94
MIXTURE = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size")


def config(**changes) -> dict:
    """A config.json as the authors' class writes it, at a small size."""
    vision = {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 64, "mlp_ratio": 2, "in_chans": 3}
    return {
        "architectures": ["Qwen2VLMOEForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 96,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": False,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 32,
        "norm_topk_prob": False,
        "output_router_logits": True,
        "router_aux_loss_coef": 0.001,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "torch_dtype": "float32",
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": START,
        "vision_end_token_id": END,
        "bos_token_id": PAD,
        "eos_token_id": 95,
        "vision_config": {**vision, "model_type": "qwen2_vl", **changes.pop("vision_config", {})},
        **changes,
    }


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of the published layout."""
    hidden, kv = config["hidden_size"], config["num_key_value_heads"]
    kv_width = hidden // config["num_attention_heads"] * kv
    named = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        named["lm_head.weight"] = (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for name, width in (("q", hidden), ("k", kv_width), ("v", kv_width)):
            named[f"{at}.self_attn.{name}_proj.weight"] = (width, hidden)
            named[f"{at}.self_attn.{name}_proj.bias"] = (width,)
        named[f"{at}.self_attn.o_proj.weight"] = (hidden, hidden)
        named[f"{at}.input_layernorm.weight"] = (hidden,)
        named[f"{at}.post_attention_layernorm.weight"] = (hidden,)
        named |= _feed_forward(f"{at}.mlp", hidden, config["intermediate_size"])
        for expert in range(config["num_experts"]):
            named |= _feed_forward(f"{at}.moe.experts.{expert}", hidden, config["moe_intermediate_size"])
        named |= _feed_forward(f"{at}.moe.shared_expert", hidden, config["shared_expert_intermediate_size"])
        named[f"{at}.moe.gate.weight"] = (config["num_experts"], hidden)
        named[f"{at}.moe.shared_expert_gate.weight"] = (1, hidden)
        named[f"{at}.coefficient.weight"] = (2, hidden)
        named[f"{at}.coefficient.bias"] = (2,)
    return named | _vision(config["vision_config"])


def _feed_forward(at: str, hidden: int, width: int) -> dict[str, tuple[int, ...]]:
    inner = {f"{at}.{name}_proj.weight": (width, hidden) for name in ("gate", "up")}
    return {**inner, f"{at}.down_proj.weight": (hidden, width)}


def _vision(vision: dict) -> dict[str, tuple[int, ...]]:
    width, merged = vision["embed_dim"], 4 * vision["embed_dim"]
    named = {"visual.patch_embed.proj.weight": (width, 3, 2, 14, 14)}
    linears = {"merger.mlp.0": (merged, merged), "merger.mlp.2": (vision["hidden_size"], merged)}
    norms = ["merger.ln_q"]
    for block in range(vision["depth"]):
        at = f"blocks.{block}"
        linears |= {f"{at}.attn.qkv": (3 * width, width), f"{at}.attn.proj": (width, width)}
        inner = vision["mlp_ratio"] * width
        linears |= {f"{at}.mlp.fc1": (inner, width), f"{at}.mlp.fc2": (width, inner)}
        norms += [f"{at}.norm1", f"{at}.norm2"]
    for name, shape in linears.items():
        named |= {f"visual.{name}.weight": shape, f"visual.{name}.bias": shape[:1]}
    for name in norms:
        named |= {f"visual.{name}.weight": (width,), f"visual.{name}.bias": (width,)}
    return named


def weights(config: dict, seed: int = 0) -> dict[str, Tensor]:
    """Random numbers under every name, of a size that keeps activations near one and routing decided."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes(config).items():
        tensor = torch.randn(shape, generator=random)
        if "norm" in name or "ln_q" in name:
            tensor = 0.1 * tensor + (1 if name.endswith("weight") else 0)
        elif len(shape) == 1:
            tensor *= 0.1
        elif "embed_tokens" not in name:
            tensor *= (2 if "moe.gate" in name else 1) * prod(shape[1:]) ** -0.5
        tensors[name] = tensor.contiguous()
    return tensors


def save(folder: Path, config: dict, tensors: dict[str, Tensor], *, shards: int = 1) -> Path:
    """Write a folder as Hugging Face lays one out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    index = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        save_file(
            {name: tensors[name] for name in names[shard::shards]}, folder / file, metadata={"format": "pt"}
        )
        index |= dict.fromkeys(names[shard::shards], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


class DensePath(nn.Module):
    """The released feed-forward, every expert on every token: slow, short, and hard to get wrong."""

    def __init__(self, config: dict, tensors: dict[str, Tensor], layer: int):
        super().__init__()
        self.config = config
        prefix = f"model.layers.{layer}."
        self.tensors = {
            name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)
        }

    def one(self, name: str, x: Tensor) -> Tensor:
        gate, up, down = (self.tensors[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
        return linear(silu(linear(x, gate)) * linear(x, up), down)

    def forward(self, x: Tensor) -> Tensor:
        config, named = self.config, self.tensors
        gates, chosen = linear(x, named["moe.gate.weight"]).softmax(-1).topk(config["num_experts_per_tok"])
        if config["norm_topk_prob"]:
            gates = gates / gates.sum(-1, keepdim=True)
        gates = (one_hot(chosen, config["num_experts"]) * gates[..., None]).sum(
            -2
        )  # [B, T, N], 0 if not chosen
        moe = linear(x, named["moe.shared_expert_gate.weight"]).sigmoid() * self.one("moe.shared_expert", x)
        for expert in range(config["num_experts"]):
            moe = moe + gates[..., expert, None] * self.one(f"moe.experts.{expert}", x)
        mixing = linear(x, named["coefficient.weight"], named["coefficient.bias"]).softmax(-1)
        return mixing[..., 0, None] * moe + mixing[..., 1, None] * self.one("mlp", x)


def newer_name(name: str) -> str:
    """A published tensor name as newer versions of the library spell it."""
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1)


def dense(config: dict, tensors: dict[str, Tensor]) -> Qwen2VLForConditionalGeneration:
    """The library's Qwen2-VL on the same tensors, without the mixture."""
    left_out = (*MIXTURE, "norm_topk_prob", "output_router_logits", "router_aux_loss_coef", "architectures")
    fields = {key: value for key, value in config.items() if key not in left_out}
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**fields)).eval()
    renamed = {
        newer_name(name): tensor
        for name, tensor in tensors.items()
        if ".moe." not in name and ".coefficient." not in name
    }
    if config["tie_word_embeddings"]:
        renamed["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(renamed)
    return model


def reference(config: dict, tensors: dict[str, Tensor]) -> Qwen2VLForConditionalGeneration:
    """`dense` with `DensePath` in every layer."""
    model = dense(config, tensors)
    for number, layer in enumerate(model.model.language_model.layers):
        layer.mlp = DensePath(config, tensors, number)
    return model


def inputs(*rows: tuple[int | tuple[int, int], ...], seed: int = 1) -> dict[str, Tensor]:
    """A batch padded on the left. A row lists its pieces: a number of words, or an image's (height, width) in
    patches."""
    random = torch.Generator().manual_seed(seed)
    ids, grids = [], []
    for row in rows:
        tokens = []
        for piece in row:
            if isinstance(piece, int):
                tokens += torch.randint(0, IMAGE, (piece,), generator=random).tolist()
            else:
                tokens += [START, *[IMAGE] * (piece[0] * piece[1] // 4), END]
                grids.append((1, *piece))
        ids.append(tokens)
    length = max(map(len, ids))
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids])
    batch = {
        "input_ids": torch.tensor([[PAD] * (length - len(row)) + row for row in ids]),
        "attention_mask": mask,
    }
    if grids:
        batch["image_grid_thw"] = torch.tensor(grids)
        patches = int(batch["image_grid_thw"].prod(-1).sum())
        batch["pixel_values"] = torch.randn(patches, 3 * 2 * 14 * 14, generator=random)
    return batch
