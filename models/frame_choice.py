"""Choose the frames of an examination that the language model will read.

LLaVA-Ultra (2024), section 3.3. One report often comes with k frames of which few show the finding. What
several assistants share stands here: the attention score of Eq. 4, which needs no training and so serves any
multimodal model whose decoder is built like Llama's, the choice itself, and a person's right to overrule it.

Near-identical frames are recognised by their pixels. That is for a person's eyes only and leaves none out.

Knows nothing of prompts, pages or any one assistant: features or pixels in, indices out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.masking_utils import create_causal_mask
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from imaging.frame import Frame
from models.errors import ContextOverflow

HOW = ("feature", "attention", "person")
THUMBNAIL = 32  # pixels a side
# Correlation of two thumbnails; chosen, not tuned: neighbours in a simulated cine have 0.93 to 0.999,
# different frames of one simulated report 0.97 and less.
REDUNDANT_FROM = 0.99
_FLAT = 1.0  # grey levels; a thumbnail that varies less has no correlation with anything


@dataclass(frozen=True)
class Selection:
    """Which frames of a case were kept, and why.

    `kept` holds indices in the frames' own order. `scores` has one number for every frame, a share of 1:
    they compare the frames of this case and mean nothing beside another's. `how` is "feature" (Eq. 3, a
    trained score), "attention" (Eq. 4 between question and frames, untrained) or "person".
    """

    kept: tuple[int, ...]
    scores: tuple[float, ...]
    how: str


class Decoder(Protocol):
    """What Eq. 4 needs of a language model: Llama, Mistral and Qwen2-VL decoders of the library have it.

    Each of `layers` has `input_layernorm` and `self_attn` with `q_proj`, `k_proj`, `head_dim`, `scaling`.
    """

    config: PreTrainedConfig
    layers: nn.ModuleList
    rotary_emb: nn.Module


def choose(scores: Tensor | Sequence[float], keep: int, how: str) -> Selection:
    """The `keep` frames of highest score; all, where there are no more. Of equals the earlier frame wins.

    scores [k] of any scale. Raises ValueError for no frame, a score that is not a number, or keep < 1.
    """
    raw = torch.as_tensor(scores).detach().float().cpu()
    if raw.ndim != 1 or not len(raw) or not raw.isfinite().all():
        raise ValueError(f"scores must be one finite number a frame, not {raw.tolist()}")
    if keep < 1:
        raise ValueError(f"keep is {keep}; at least one frame must be kept")
    if how not in HOW:
        raise ValueError(f"how is {how!r}, not one of {', '.join(HOW)}")
    ranked = sorted(range(len(raw)), key=lambda frame: (-raw[frame].item(), frame))
    return Selection(tuple(sorted(ranked[:keep])), tuple(normalise(raw).tolist()), how)


def overrule(selection: Selection, kept: Sequence[int]) -> Selection:
    """A person's own choice of frames for the same case. ValueError for none, or one that is not there."""
    count = len(selection.scores)
    if not kept or not all(0 <= frame < count for frame in kept):
        raise ValueError(f"choose among frames 0 to {count - 1}, at least one; not {list(kept)}")
    return replace(selection, kept=tuple(sorted(set(kept))), how="person")


def normalise(scores: Tensor) -> Tensor:
    """Norm of Eq. 5: the frames of one case [k] share 1 (softmax)."""
    return scores.softmax(dim=0)


def attention_scores(features: Sequence[Tensor], text: Tensor, decoder: Decoder, layers: int) -> Tensor:
    """How much attention a text pays to each frame of a case: float32 [k] (Eq. 4).

    features: each frame's projected tokens, [k, T, D] or k tensors [T_i, D]; text: embedded tokens [L, D] of
    findings or question; layers: N, the decoder's first layers that are asked. All frames go through these
    in one batch, frame first, then text.

    The paper writes Attn(H_v, H_t) and no more. Read here as an attention in which the frames compete: a
    head's weight for a frame is the mean over its tokens of exp(q . k / sqrt(d)), q from a text token and k
    from an image token, both as the layer itself makes them, divided by the sum of this over all frames. The
    mean over text tokens, heads and layers is the frame's share of 1, and the score its logarithm, so that
    `normalise` gives the share. (Attention within one frame's own row would not do: its softmax is 1 for
    every frame.) Only [k, heads, L, T] numbers of one layer exist at a time, whatever kernel the model uses.

    Image tokens have the positions of plain text here, also before a Qwen2-VL. Raises ContextOverflow when
    frame and text together are longer than the decoder's context, ValueError for no frame or no text.
    """
    if not len(features) or not len(text):
        raise ValueError(f"{len(features)} frames and {len(text)} tokens of text: there must be some of both")
    if not 1 <= layers <= len(decoder.layers):
        raise ValueError(f"layers is {layers}, not between 1 and {len(decoder.layers)}")
    image = max(len(frame) for frame in features)
    _check_length(image, len(text), decoder.config.max_position_embeddings)
    present, hidden = _rows(features, text, image)
    shares = [
        _log_shares(attention, normed, rotary, present[:, :image])
        for attention, normed, rotary in _first_layers(decoder, hidden, present, layers)
    ]
    return torch.stack(shares).logsumexp(dim=0) - math.log(layers)


def _rows(features: Sequence[Tensor], text: Tensor, image: int) -> tuple[Tensor, Tensor]:
    """One row a frame: its tokens, padded on the left to `image`, then the text.

    Returns which places are not padding, bool [k, image + L], and the embeddings [k, image + L, D].
    """
    rows = [torch.cat([text.new_zeros(image - len(f), text.shape[-1]), f.to(text), text]) for f in features]
    lengths = torch.tensor([len(frame) for frame in features], device=text.device)
    places = torch.arange(image + len(text), device=text.device)
    return places >= image - lengths[:, None], torch.stack(rows)


def _first_layers(decoder: Decoder, hidden: Tensor, present: Tensor, count: int) -> Iterator[tuple]:
    """(attention module, its normed input, rotary cos and sin) of the first `count` layers."""
    positions = torch.arange(hidden.shape[1], device=hidden.device)[None]  # [1, T + L]
    mask = create_causal_mask(decoder.config, hidden, present.long(), past_key_values=None)
    rotary = decoder.rotary_emb(hidden, positions)
    for index, layer in enumerate(decoder.layers[:count]):
        yield layer.self_attn, layer.input_layernorm(hidden), rotary
        if index + 1 < count:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)


def _log_shares(
    attention: nn.Module, normed: Tensor, rotary: tuple[Tensor, Tensor], present: Tensor
) -> Tensor:
    """Logarithm of each frame's share [k] of one layer's attention; `present` [k, T] marks image tokens."""
    shape = (*normed.shape[:2], -1, attention.head_dim)
    queries = attention.q_proj(normed).view(shape).transpose(1, 2)  # [k, heads, T + L, d]
    keys = attention.k_proj(normed).view(shape).transpose(1, 2)  # [k, key heads, T + L, d]
    queries, keys = apply_rotary_pos_emb(queries, keys, *rotary)
    tokens = present.shape[1]
    keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)[:, :, :tokens]
    logits = (queries[:, :, tokens:] @ keys.transpose(2, 3)).float() * attention.scaling  # [k, heads, L, T]
    logits = logits.masked_fill(~present[:, None, None], -math.inf)
    strength = logits.logsumexp(dim=-1) - present.sum(dim=1).float().log()[:, None, None]  # [k, heads, L]
    shares = strength.log_softmax(dim=0)
    return shares.logsumexp(dim=(1, 2)) - math.log(shares[0].numel())


def _check_length(image: int, text: int, limit: int) -> None:
    if image + text > limit:
        raise ContextOverflow(
            f"The text has {text} tokens and a frame {image}, together {image + text}; this model reads at "
            f"most {limit}. Shorten the text.",
            f"文本有 {text} 个 token，每帧图像 {image} 个，共 {image + text} 个；"
            f"该模型最多处理 {limit} 个。请缩短文本。",
        )


def redundant(frames: Sequence[Frame], threshold: float = REDUNDANT_FROM) -> tuple[tuple[int, ...], ...]:
    """Groups of two or more near-identical frames, each in order; frames that stand alone are not named.

    A frame joins the first group whose first member its grey thumbnail (32 x 32, stretched) correlates with
    at `threshold` or above; brightness and contrast do not count. Frames without any contrast are alike when
    equally bright. So small a picture cannot show a lesion of a few pixels: near-identical frames may differ
    in just the finding, and must be marked, not dropped.
    """
    thumbnails = [_thumbnail(frame) for frame in frames]
    groups: list[list[int]] = []
    for index, thumbnail in enumerate(thumbnails):
        alike = (group for group in groups if _alike(thumbnails[group[0]], thumbnail, threshold))
        group = next(alike, None)
        if group is None:
            groups.append([index])
        else:
            group.append(index)
    return tuple(tuple(group) for group in groups if len(group) > 1)


def _thumbnail(frame: Frame) -> np.ndarray:
    grey = Image.fromarray(frame.pixels).convert("L")
    return np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), dtype=np.float64)


def _alike(first: np.ndarray, second: np.ndarray, threshold: float) -> bool:
    deviations = first.std(), second.std()
    if min(deviations) < _FLAT:
        return max(deviations) < _FLAT and abs(first.mean() - second.mean()) < _FLAT
    covariance = ((first - first.mean()) * (second - second.mean())).mean()
    return covariance / (deviations[0] * deviations[1]) >= threshold
