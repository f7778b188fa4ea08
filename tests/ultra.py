"""A LLaVA-Ultra of a few thousand random parameters, and the published layouts it can be opened from.

The layouts' tensor names are written out from the publishers' files, not taken from the code under test.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SamConfig,
    SamModel,
)

from assistants.llava_ultra import LlavaUltraConfig, LlavaUltraForConditionalGeneration

WORDS = 100  # in the vocabulary
IMAGE = WORDS  # the placeholder, one past it
TOKENS = 16  # of one image: 56 pixels, patches of 14
VISION = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
    "image_size": 56,
    "patch_size": 14,
}
SAM = {
    "hidden_size": 32,
    "output_channels": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 128,
    "patch_size": 8,  # 16 cells a side, four times CLIP's, as 64 to 16
    "window_size": 5,
    "global_attn_indexes": [1],
    "mlp_dim": 32,
    "initializer_range": 0.1,
}
TEXT = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}

FIELDS = (  # of the configuration itself
    "image_token_id",
    "projector_type",
    "vision_feature_layer",
    "alpha",
    "sam_pooling",
    "attention_layers",
    "keep",
    "template",
    "image_geometry",
)


def config(**changes) -> LlavaUltraConfig:
    text = {"model_type": "llama", **TEXT, **changes.pop("text_config", {})}
    parts = {"vision_config": VISION, "sam_config": SAM, "text_config": text}
    return LlavaUltraConfig(**{**parts, "image_token_id": IMAGE, **changes})


def model(seed: int = 0, **changes) -> LlavaUltraForConditionalGeneration:
    torch.manual_seed(seed)
    made = LlavaUltraForConditionalGeneration(config(**changes)).eval()
    made.generation_config.eos_token_id = None
    return made


def pixels(frames: int = 1, seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    clip, sam = VISION["image_size"], SAM["image_size"]
    return {
        "pixel_values": torch.randn(frames, 3, clip, clip),
        "sam_pixel_values": torch.randn(frames, 3, sam, sam),
    }


def prompt(*, images: int = 1, token: int = IMAGE) -> dict[str, Tensor]:
    """Words, images, words."""
    ids = torch.tensor([[1, 5, 9, *[token] * (images * TOKENS), 7, 33, 60, 2]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


# --- published layouts --------------------------------------------------------------------------------------


def reference(
    kind: str = "llama", *, projector: str = "mlp2x_gelu", seed: int = 3
) -> LlavaForConditionalGeneration:
    """The library's own LLaVA. Its placeholder must stand in the vocabulary: the last word is given up."""
    torch.manual_seed(seed)
    text = {"model_type": kind, **TEXT}
    made = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config={"model_type": "clip_vision_model", **VISION},
            text_config=text,
            image_token_index=WORDS - 1,
            image_seq_length=TOKENS,
        )
    )
    if projector == "linear":
        made.model.multi_modal_projector = nn.Linear(VISION["hidden_size"], TEXT["hidden_size"])
    for parameter in made.model.multi_modal_projector.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made.eval()


def original(kind: str, source: LlavaForConditionalGeneration, **changes) -> tuple[dict, dict[str, Tensor]]:
    """config.json and tensors as LLaVA-Med writes them: v1 for "llava", v1.5 for "llava_mistral"."""
    mistral = kind == "llava_mistral"
    fields = {
        **{key: value for key, value in TEXT.items() if key != "initializer_range"},
        "model_type": kind,
        "architectures": ["LlavaMistralForCausalLM" if mistral else "LlavaLlamaForCausalLM"],
        "rms_norm_eps": 1e-6,
        "mm_hidden_size": VISION["hidden_size"],
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336"
        if mistral
        else "openai/clip-vit-large-patch14",
        "use_mm_proj": True,
        "torch_dtype": "float32",
        "tokenizer_padding_side": "right",
        **({"mm_projector_type": "mlp2x_gelu", "sliding_window": None} if mistral else {}),
        **changes,
    }
    tensors = {}
    for name, tensor in source.state_dict().items():
        name = name.replace("model.language_model.", "model.")
        name = name.replace("model.multi_modal_projector.linear_1.", "model.mm_projector.0.")
        name = name.replace("model.multi_modal_projector.linear_2.", "model.mm_projector.2.")
        name = name.replace("model.multi_modal_projector.", "model.mm_projector.")
        name = name.replace("model.vision_tower.", "model.vision_tower.vision_tower.vision_model.")
        tensors[name] = tensor
    return fields, tensors


def converted(source: LlavaForConditionalGeneration) -> tuple[dict, dict[str, Tensor]]:
    """As llava-hf published its conversions."""
    tensors = {}
    for name, tensor in source.state_dict().items():
        name = name.replace("model.language_model.", "language_model.model.")
        name = name.replace("model.multi_modal_projector.", "multi_modal_projector.")
        name = name.replace("model.vision_tower.", "vision_tower.vision_model.")
        tensors["language_model.lm_head.weight" if name == "lm_head.weight" else name] = tensor
    return json.loads(source.config.to_json_string(use_diff=False)), tensors


def without_tower(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if "vision_tower" not in name}


def save(folder: Path, fields: dict, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, folder / "model.safetensors")
    return folder


def save_clip(folder: Path, source: LlavaForConditionalGeneration) -> Path:
    """A whole CLIP, words and all, whose vision tower is `source`'s."""
    text = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    clip = CLIPModel(CLIPConfig(vision_config=VISION, text_config=text, projection_dim=32))
    tower = {f"vision_model.{n}": t for n, t in source.model.vision_tower.state_dict().items()}
    own = {name: t for name, t in clip.state_dict().items() if not name.startswith("vision_model.")}
    tables = {"vision_model.embeddings.position_ids": torch.arange(TOKENS + 1)[None]}  # older files have it
    return save(folder, json.loads(clip.config.to_json_string(use_diff=False)), own | tower | tables)


def save_sam(folder: Path, seed: int = 5) -> SamModel:
    """A whole SAM, masks and all, saved in `folder`."""
    torch.manual_seed(seed)
    prompts = {"hidden_size": 16, "image_size": 128, "patch_size": 8, "mask_input_channels": 4}
    masks = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    sam = SamModel(
        SamConfig(
            vision_config={**SAM, "num_pos_feats": 8},
            prompt_encoder_config=prompts,
            mask_decoder_config=masks,
        )
    )
    save(folder, json.loads(sam.config.to_json_string(use_diff=False)), sam.state_dict())
    return sam
