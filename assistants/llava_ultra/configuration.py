"""What a LLaVA-Ultra is made of: CLIP, SAM, a decoder of the Llama family, and how their features meet.

LLaVA-Ultra (2024), sections 3.1-3.3. Defaults are the paper's where it states them: CLIP ViT-L/14 and SAM
ViT-L, a learnable alpha, one frame kept. What it leaves open is a field here.

Knows nothing of tensors, files or prompts.
"""

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, CLIPVisionConfig, PreTrainedConfig, SamVisionConfig
from transformers.configuration_utils import SubConfigSpec

PROJECTORS = ("linear", "mlp2x_gelu")
POOLINGS = ("average", "convolution")
GEOMETRIES = ("pad",)
DECODERS = ("llama", "mistral")

CLIP_L14 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
}
_SAM_START = 0.02  # the library's own 1e-10 is for weights that arrive; nothing could be learned from it


@strict
class LlavaUltraConfig(PreTrainedConfig):
    """Encoders, fusion, frame choice and language model.

    vision_config: CLIP's vision tower, ViT-L/14 at 224 pixels where not given.
    sam_config: SAM's image encoder, or None: SAM is off, and the model is a LLaVA with a frame choice.
    text_config: a decoder, model_type "llama" or "mistral".
    image_token_id: the placeholder in `input_ids` for one image token. It needs no row in the vocabulary.
    projector_type: form of P1 and P2 in Eq. 2, "linear" (LLaVA-Med v1) or "mlp2x_gelu" (v1.5).
    vision_feature_layer: which of CLIP's hidden states is projected; -2 (penultimate) in LLaVA-Med.
    alpha: where the learnable weight of Eq. 2 starts, in [0, 1]. The paper gives no value; 1/2 is chosen.
    sam_pooling: how SAM's grid becomes CLIP's, "average" or "convolution"; the paper does not say.
    attention_layers: N of Eq. 4, the first layers of the decoder that compare frames with findings.
        The paper gives no number; 2 is chosen.
    keep: how many frames of a case go to the language model; 1 in the paper.
    template: name of the conversation template in the prompts' data. It comes with the weights.
    image_geometry: how a frame becomes a square, "pad" alone: a centre crop would cut the sector's sides.
    """

    model_type = "llava_ultra"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(CLIPVisionConfig, init_kwargs=CLIP_L14),
        "sam_config": SubConfigSpec(SamVisionConfig, optional=True),
        "text_config": SubConfigSpec(AutoConfig, model_type="llama"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    sam_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 32000
    projector_type: str = "mlp2x_gelu"
    vision_feature_layer: int = -2
    alpha: float | int = 0.5
    sam_pooling: str = "average"
    attention_layers: int = 2
    keep: int = 1
    template: str = "vicuna_v1"
    image_geometry: str = "pad"
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        _check("projector_type", self.projector_type, PROJECTORS)
        _check("sam_pooling", self.sam_pooling, POOLINGS)
        _check("image_geometry", self.image_geometry, GEOMETRIES)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}, not between 0 and 1")
        if self.keep < 1:
            raise ValueError(f"keep is {self.keep}; at least one frame must go to the language model")
        if isinstance(self.sam_config, dict):
            self.sam_config = {"initializer_range": _SAM_START, **self.sam_config}
        super().__post_init__(**kwargs)
        _check("text_config.model_type", self.text_config.model_type, DECODERS)
        layers = self.text_config.num_hidden_layers
        if not 1 <= self.attention_layers <= layers:
            raise ValueError(f"attention_layers is {self.attention_layers}, not between 1 and {layers}")
        self.tie_word_embeddings = self.tie_word_embeddings or self.text_config.tie_word_embeddings

    @property
    def image_grid(self) -> int:
        """Tokens along one side of an image: 16 for CLIP L/14 at 224 pixels, 24 at 336."""
        return self.vision_config.image_size // self.vision_config.patch_size

    @property
    def image_tokens(self) -> int:
        """How many tokens one image is: 256 for CLIP L/14 at 224 pixels, 576 at 336."""
        return self.image_grid**2


def _check(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field} is {value!r}, not one of {', '.join(allowed)}")
