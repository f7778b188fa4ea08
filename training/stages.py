"""What each stage teaches and what it leaves alone.

| kind | learns | source |
|---|---|---|
| vision_warmup | vision tower and merger, on the label maps | ours, in place of Qwen2-VL's pre-training |
| captions | the dense language model; the tower is frozen | ours; likewise |
| moe | router, experts and mixing only; every Qwen2-VL parameter is frozen | EchoVLM, stage I |
| instruct | LoRA on vision, projector and attention; the mixture in full | EchoVLM, stage II and Table 8 |
"""

from __future__ import annotations

import re

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from training.recipe import Lora

MIXTURE = re.compile(r"\.mlp\.(?!ffn\.)")  # all of a DualPathMoE but its static expert


def freeze(model: nn.Module, learns: re.Pattern | None) -> int:
    """Let only the parameters learn whose name matches; returns how many numbers learn."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(bool(learns and learns.search(name)))
    return learning(model)


def learning(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def with_lora(model: nn.Module, lora: Lora, seed: int) -> PeftModel:
    """LoRA on the linear layers whose full name matches `lora.targets`; the mixture of experts learns in
    full."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        bias="none",
    )
    wrapped = get_peft_model(model, config)
    for name, parameter in wrapped.named_parameters():
        if MIXTURE.search(name) and "lora_" not in name:
            parameter.requires_grad_(True)
    return wrapped
