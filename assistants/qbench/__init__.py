"""Ultrasound-QBench: rate the quality of ultrasound images with any vision-language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assistants.qbench.assistant import QBenchAssistant

__all__ = ["open"]


def open(
    weights: str | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    strategy: str = "softmax",
) -> QBenchAssistant:
    """The rater on `weights`: the demo set (None), a folder of whole weights or of an adapter, a Hugging Face
    id, or a chat service as "http://host/v1#model". `strategy` is softmax, raw or both; ValueError for any
    other."""
    from assistants.qbench.assistant import QBenchAssistant

    return QBenchAssistant.open(weights, device=device, dtype=dtype, quantize=quantize, strategy=strategy)
