"""EchoVLM: ultrasound reports, diagnoses and answers from a Qwen2-VL with a dual-path mixture of experts.

Importing the package registers the model with the library's Auto classes, under model_type "echovlm".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    Qwen2VLProcessor,
)

from assistants.echovlm.configuration import EchoVLMConfig, EchoVLMTextConfig
from assistants.echovlm.model import EchoVLMForConditionalGeneration, EchoVLMModel, EchoVLMTextModel

if TYPE_CHECKING:
    from assistants.echovlm.assistant import EchoVLMAssistant

__all__ = ["EchoVLMConfig", "EchoVLMForConditionalGeneration", "open"]

AutoConfig.register(EchoVLMConfig.model_type, EchoVLMConfig, exist_ok=True)
AutoConfig.register(EchoVLMTextConfig.model_type, EchoVLMTextConfig, exist_ok=True)
AutoModel.register(EchoVLMConfig, EchoVLMModel, exist_ok=True)
AutoModel.register(EchoVLMTextConfig, EchoVLMTextModel, exist_ok=True)
AutoModelForImageTextToText.register(EchoVLMConfig, EchoVLMForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(EchoVLMConfig, EchoVLMForConditionalGeneration, exist_ok=True)
AutoProcessor.register(EchoVLMConfig, Qwen2VLProcessor, exist_ok=True)


def open(
    weights: str | None = None, *, device: str = "auto", dtype: str = "auto", quantize: str | None = None
) -> EchoVLMAssistant:
    """The assistant on `weights`: the demo set (None), a folder or a Hugging Face id (`assistants.base`)."""
    from assistants.echovlm.assistant import EchoVLMAssistant

    return EchoVLMAssistant.open(weights, device=device, dtype=dtype, quantize=quantize)
