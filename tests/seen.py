"""Tiny models of other makers' architectures with their processors, for tests of `models.any_model`."""

from __future__ import annotations

import json
from pathlib import Path

import tiny
import torch
from transformers import (
    CLIPVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

TEMPLATE = (  # LLaVA-1.5's, shortened
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ ' ' if message['role'] == 'user' else '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
SIDE, PATCH = 28, 14


def save(folder: Path, kind: str = "llava") -> Path:
    """Write a whole folder of "llava" (LLaVA-1.5), "llava_next" or "internvl" with random weights."""
    torch.manual_seed(0)
    if kind == "internvl":
        return _save_internvl(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    common = {
        "vision_config": CLIPVisionConfig(image_size=SIDE, patch_size=PATCH, **sizes),
        "text_config": LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=2048, num_key_value_heads=2, **sizes
        ),
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
    }
    asked = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "chat_template": TEMPLATE}
    asked["num_additional_image_tokens"] = 1
    shape = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    if kind == "llava":
        model = LlavaForConditionalGeneration(LlavaConfig(**common))
        processor = LlavaProcessor(CLIPImageProcessorPil(**shape), tokenizer, **asked)
    else:
        grids = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
        model = LlavaNextForConditionalGeneration(LlavaNextConfig(image_grid_pinpoints=grids, **common))
        images = LlavaNextImageProcessorPil(image_grid_pinpoints=grids, **shape)
        processor = LlavaNextProcessor(images, tokenizer, **asked)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # untrained weights are so small that they say the same to everybody
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _save_internvl(folder: Path) -> Path:
    """As the hub has it: four tiles an image and the whole, and a part for videos that needs torchvision."""
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "video_token": "<video>"}
    names["context_image_token"] = "<IMG_CONTEXT>"
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(names.values())})
    tokenizer.chat_template = TEMPLATE.replace("<image>", "<IMG_CONTEXT>")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    text = {
        "model_type": "qwen2",
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
    }
    vision = {"num_hidden_layers": 1, "image_size": [SIDE, SIDE], "patch_size": [PATCH // 2, PATCH // 2]}
    model = InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config=sizes | vision,
            text_config=sizes | text | {"max_position_embeddings": 2048},
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=4,
        )
    )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # as above
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    colours = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    files = {
        "tokenizer_config": json.loads((folder / "tokenizer_config.json").read_text()) | names,
        "preprocessor_config": colours
        | {"image_processor_type": "GotOcr2ImageProcessorFast", "size": {"height": SIDE, "width": SIDE}}
        | {"min_patches": 1, "max_patches": 4, "processor_class": "InternVLProcessor"},
        "video_preprocessor_config": {"video_processor_type": "InternVLVideoProcessor"},
        "processor_config": {"image_seq_length": 4, "processor_class": "InternVLProcessor"},
    }
    files["tokenizer_config"]["extra_special_tokens"] = names
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder
