"""LLaVA-Ultra: two vision encoders, their fusion, a score for every frame, and a language model.

LLaVA-Ultra (2024), Fig. 2. CLIP, SAM and the decoder are the library's own classes, unchanged. Written here
is how they meet: features of several frames in one batched pass, image tokens put in the place of their
placeholders, and the two scores of section 3.3 (`sampling.py`, `models.frame_choice`). Which frames are kept
is the caller's decision: the model reads the frames it is given.

Knows nothing of prompts, tokenizers or files beyond its own checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    Cache,
    CLIPVisionModel,
    GenerationMixin,
    PreTrainedModel,
    SamVisionModel,
    initialization,
)
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast
from transformers.utils import can_return_tuple

from assistants.llava_ultra.configuration import LlavaUltraConfig
from assistants.llava_ultra.fusion import Fusion
from assistants.llava_ultra.sampling import FeatureScore
from models.checkpoint import CheckpointError, inspect, resolve
from models.frame_choice import attention_scores


class LlavaUltraPreTrainedModel(PreTrainedModel):
    """What both models below have in common."""

    config_class = LlavaUltraConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["CLIPEncoderLayer", "SamVisionLayer", "LlamaDecoderLayer", "MistralDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True  # flash attention is missing: the library's SAM has none

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Fusion) and module.alpha is not None:
            initialization.constant_(module.alpha, module.start)
        elif isinstance(module, FeatureScore):
            initialization.zeros_(module.token_query)
            initialization.zeros_(module.channel_weight)


class ClipTower(CLIPVisionModel):
    """The library's, which can stop at the layer that is read."""

    def tokens(self, pixel_values: Tensor, layer: int) -> Tensor:
        """`hidden_states[layer]` of pixel_values [k, 3, S, S], class token first: [k, 1 + T, C].

        The layers above it, of which nothing would be read, are not run: one of 24 of a CLIP L/14, one of
        four of the demo's.
        """
        hidden = self.pre_layrnorm(self.embeddings(pixel_values))
        for block in self.encoder.layers[: range(len(self.encoder.layers) + 1)[layer]]:
            hidden = block(hidden, None)
        return hidden


class LlavaUltraModel(LlavaUltraPreTrainedModel):
    """Encoders, fusion, frame score and decoder, without the language-model head."""

    def __init__(self, config: LlavaUltraConfig):
        super().__init__(config)
        self.vision_tower = ClipTower._from_config(config.vision_config)
        self.sam_tower = None if config.sam_config is None else SamVisionModel._from_config(config.sam_config)
        self.fusion = Fusion(config)
        self.frame_score = FeatureScore(config.text_config.hidden_size)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def image_features(self, pixel_values: Tensor, sam_pixel_values: Tensor | None = None) -> Tensor:
        """pixel_values [k, 3, S, S] and sam_pixel_values [k, 3, R, R] -> image tokens [k, T, D] (Eq. 2).

        All frames pass each encoder in one batch; SAM is not run where it cannot change the result (alpha =
        1, or off). Raises ValueError when its pixels are needed and missing.
        """
        clip = self.vision_tower.tokens(pixel_values, self.config.vision_feature_layer)
        clip = clip[:, 1:]  # [k, T, C1], the class token left out
        if not self.fusion.needs_sam:
            return self.fusion(clip)
        if sam_pixel_values is None:
            raise ValueError("this model looks with SAM as well: give sam_pixel_values beside pixel_values")
        sam = self.sam_tower(sam_pixel_values.to(self.sam_tower.dtype)).last_hidden_state  # [k, C2, g, g]
        return self.fusion(clip, sam)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        sam_pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """The decoder's hidden states; the arguments are those of `LlavaUltraForConditionalGeneration`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if pixel_values is not None:
            if image_features is not None:
                raise ValueError("give either pixel_values or image_features")
            image_features = self.image_features(pixel_values, sam_pixel_values)
        if inputs_embeds is None:
            inputs_embeds = self._embed(input_ids, image_features)
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )

    def _embed(self, input_ids: Tensor, image_features: Tensor | None) -> Tensor:
        """Embeddings [B, T, D] of the words, with the images' tokens in the place of their placeholders."""
        places = input_ids == self.config.image_token_id
        count = 0 if image_features is None else image_features.shape[0] * image_features.shape[1]
        if places.sum() != count:
            raise ValueError(f"input_ids have {places.sum()} places for image tokens, the images {count}")
        # the placeholder need not be in the vocabulary
        embeddings = self.get_input_embeddings()(input_ids.masked_fill(places, 0))
        if image_features is None:
            return embeddings
        return embeddings.masked_scatter(places[..., None], image_features.to(embeddings))


class LlavaUltraForConditionalGeneration(LlavaUltraPreTrainedModel, GenerationMixin):
    """LLaVA-Ultra with its language-model head: `from_pretrained`, `generate`, `forward`, and the scores."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: LlavaUltraConfig):
        super().__init__(config)
        self.model = LlavaUltraModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path | None, *args, **kwargs):
        """Open a folder that this class saved, or a Hugging Face id of one; `published.py` opens others.

        Every tensor must arrive: CheckpointError lists all that are missing, unexpected or of another shape,
        before any is read. Only safetensors are opened. The other arguments are the library's; with
        `state_dict` and no path, checking is the caller's affair.
        """
        if pretrained_model_name_or_path is None:
            return super().from_pretrained(None, *args, **kwargs)
        folder = resolve(pretrained_model_name_or_path, revision=kwargs.pop("revision", None))
        inspect(cls, folder).require_whole()
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs |= {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
        model, info = super().from_pretrained(folder, *args, **kwargs)
        if info["missing_keys"]:  # the folder is whole, so a changed configuration asked for more than it has
            names = ", ".join(sorted(info["missing_keys"]))
            raise CheckpointError(
                f"{folder} has no weights for what the given configuration adds: {names}",
                f"{folder} 中没有所给配置新增部分的权重：{names}",
            )
        return (model, info) if wants_info else model

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def image_features(self, pixel_values: Tensor, sam_pixel_values: Tensor | None = None) -> Tensor:
        """The image tokens [k, T, D] of k frames (`LlavaUltraModel.image_features`)."""
        return self.model.image_features(pixel_values, sam_pixel_values)

    def feature_scores(self, features: Tensor) -> Tensor:
        """Eq. 3: image tokens [k, T, D] of one case -> scores float32 [k]."""
        return self.model.frame_score(features)

    def attention_scores(self, features: Tensor, text_ids: Tensor) -> Tensor:
        """Eq. 4: image tokens [k, T, D] of one case and token ids [L] of its findings -> float32 [k].

        Raises what `models.frame_choice.attention_scores` does.
        """
        text = self.get_input_embeddings()(text_ids)
        return attention_scores(features, text, self.model.language_model, self.config.attention_layers)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values: Tensor | None = None,
        sam_pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs,
    ) -> LlavaCausalLMOutputWithPast:
        """Next-token logits [B, T, V], and the loss (Eq. 1) when `labels` [B, T] come along.

        input_ids [B, T] hold `config.image_tokens` placeholders for every image. The images of all rows come
        in the order of their placeholders: as pixel_values [images, 3, S, S] with sam_pixel_values [images,
        3, R, R], or, when they are computed already, as image_features [images, T, D]. Raises ValueError
        when placeholders and images disagree.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            sam_pixel_values=sam_pixel_values,
            image_features=image_features,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        return LlavaCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def prepare_inputs_for_generation(self, input_ids: Tensor, is_first_iteration: bool = False, **kwargs):
        """The library's, which drops pixel_values once they are in the cache; the others go with them."""
        if not is_first_iteration and kwargs.get("use_cache", True):
            kwargs |= {"sam_pixel_values": None, "image_features": None}
        return super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, **kwargs
        )
