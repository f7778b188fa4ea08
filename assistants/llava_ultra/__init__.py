"""LLaVA-Ultra: answers about ultrasound from CLIP and SAM together, with a choice among many frames.

Importing the package registers the model with the library's Auto classes, under model_type "llava_ultra".
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM

from assistants.llava_ultra.configuration import LlavaUltraConfig
from assistants.llava_ultra.model import LlavaUltraForConditionalGeneration, LlavaUltraModel

__all__ = ["LlavaUltraConfig", "LlavaUltraForConditionalGeneration"]

AutoConfig.register(LlavaUltraConfig.model_type, LlavaUltraConfig, exist_ok=True)
AutoModel.register(LlavaUltraConfig, LlavaUltraModel, exist_ok=True)
AutoModelForImageTextToText.register(LlavaUltraConfig, LlavaUltraForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(LlavaUltraConfig, LlavaUltraForConditionalGeneration, exist_ok=True)
