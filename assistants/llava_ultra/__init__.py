"""LLaVA-Ultra: answers about ultrasound from CLIP and SAM together, with a choice among many frames.

Importing the package registers the model with the library's Auto classes, under model_type "llava_ultra".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM

from assistants.llava_ultra.configuration import LlavaUltraConfig
from assistants.llava_ultra.model import LlavaUltraForConditionalGeneration, LlavaUltraModel

if TYPE_CHECKING:
    from assistants.llava_ultra.assistant import LlavaUltraAssistant

__all__ = ["LlavaUltraConfig", "LlavaUltraForConditionalGeneration", "open"]

AutoConfig.register(LlavaUltraConfig.model_type, LlavaUltraConfig, exist_ok=True)
AutoModel.register(LlavaUltraConfig, LlavaUltraModel, exist_ok=True)
AutoModelForImageTextToText.register(LlavaUltraConfig, LlavaUltraForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(LlavaUltraConfig, LlavaUltraForConditionalGeneration, exist_ok=True)


def open(
    weights: str | None = None, *, device: str = "auto", dtype: str = "auto", quantize: str | None = None
) -> LlavaUltraAssistant:
    """The assistant on `weights`: the demo set (None), a folder or a Hugging Face id (`assistants.base`)."""
    from assistants.llava_ultra.assistant import LlavaUltraAssistant

    return LlavaUltraAssistant.open(weights, device=device, dtype=dtype, quantize=quantize)
