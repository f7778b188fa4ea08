"""AbVLM-Q: abdominal standard planes with boxes, deductions and a score of ten points, on a Qwen2-VL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assistants.abvlm_q.assistant import AbVLMQAssistant

__all__ = ["open"]


def open(
    weights: str | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    planes: str | Path | None = None,
    merge: bool = True,
) -> AbVLMQAssistant:
    """The assistant on `weights`: the demo set (None), a folder of whole weights or of an adapter, or an id.

    `planes` is the file of a hospital's own protocol; `merge` adds an adapter into its base's weights.
    """
    from assistants.abvlm_q.assistant import AbVLMQAssistant

    return AbVLMQAssistant.open(
        weights, device=device, dtype=dtype, quantize=quantize, planes=planes, merge=merge
    )
