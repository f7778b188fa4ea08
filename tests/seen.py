"""Tiny models of other makers' architectures with their processors, for tests of `models.any_model`."""

from __future__ import annotations

from pathlib import Path

import tiny
import torch
from transformers import (
    CLIPVisionConfig,
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
    """Write a whole folder of "llava" (LLaVA-1.5) or "llava_next" with random weights."""
    torch.manual_seed(0)
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
