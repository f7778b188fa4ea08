"""The language model's causal attention in batched matrix products, for training on a CPU.

There torch's fused attention has no fast backward pass: in AbVLM-Q's demo it is a fifth of a step, and twice
what the plain products take, whose scores are small enough to keep. The softmax is in the precision of the
step, as in `training.even_tower`, not in float32 as in the library's own plain attention.

Knows nothing of what is learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "batched_products"


@contextmanager
def batched_products(language_model: PreTrainedModel) -> Iterator[None]:
    """Within, `language_model` attends so on a CPU; elsewhere as before."""
    config = language_model.config
    before = config._attn_implementation
    if next(language_model.parameters()).device.type == "cpu":
        config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """`query` [B, H, T, d], `key` and `value` [B, G, T, d] -> [B, T, H, d], as the library's attentions.

    `attention_mask` bool [B or 1, 1, T, T], true where a word may look; None is causal. ValueError for a
    dropout, which is not done here.
    """
    if dropout:
        raise ValueError("this attention has no dropout")
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary embeddings may have raised them
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    if attention_mask is None:
        attention_mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()[None, None]
    hidden = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill(~attention_mask, -torch.inf)
    with torch.autocast(query.device.type, enabled=False):  # its softmax would be float32
        grouped = (query * scaling).reshape(batch, groups, -1, width)  # the heads that share a key
        scores = (grouped @ key.transpose(-1, -2)).view(batch, heads, length, length) + hidden
        shares = scores.softmax(-1).view(batch, groups, -1, length)
        read = (shares @ value).view(batch, heads, length, width)
    return read.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
