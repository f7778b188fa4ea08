"""EchoVLM: Qwen2-VL whose every decoder layer's feed-forward is a dual-path mixture of experts.

EchoVLM (2025), "Architecture of EchoVLM" and "Training Strategy". Vision tower, patch merger, M-RoPE,
attention and generation are the library's. Written here are the differences: the feed-forward
(`dual_path_moe.py`), router logits and their loss, image positions that cannot silently become those of
plain text, and weights that load whole or not at all.

The authors' eager and SDPA attention cut prompts at `sliding_window` even with `use_sliding_window` false;
this model does not (nor does their flash attention). It only shows in prompts longer than that, 32,768
tokens for the published weights.

Knows nothing of prompts, tokenizers or images beyond their patches.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

import torch
from torch import nn
from transformers import Cache, Qwen2VLForConditionalGeneration, Qwen2VLModel
from transformers.modeling_outputs import MoeCausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeTopKRouter
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VisionTransformerPretrainedModel,
    Qwen2VLPreTrainedModel,
    Qwen2VLTextModel,
)
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder

from assistants.echovlm import published
from assistants.echovlm.configuration import MIXTURE_FIELDS, EchoVLMConfig, EchoVLMTextConfig
from assistants.echovlm.dual_path_moe import FORMS, DualPathMoE, initialise, load_balancing_loss
from models.checkpoint import CheckpointError, inspect, resolve

# The static expert's weight when an EchoVLM starts from a dense model (chosen; not tuned): near enough to 1
# that the dense model's answers survive the untrained experts, far enough that gradients reach these from
# the start.
DENSE_SHARE = 0.98

_LAYER_MLP = re.compile(r"(language_model\.layers\.\d+\.mlp)\.")
_NOT_INHERITED = ("model_type", "architectures", "transformers_version")


class _Part:
    """What all four models below have in common."""

    # The library looks for a decorator's name in the text of this file and keeps the answer on the class;
    # stock Qwen2-VL's "no" would be inherited, and `experts_implementation` silently be "eager".
    _can_set_experts_implementation_cached_value = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        initialise(module, std=self.config.get_text_config().initializer_range)


class EchoVLMVisionModel(_Part, Qwen2VisionTransformerPretrainedModel):
    """Qwen2-VL's vision tower, unchanged."""


class EchoVLMTextModel(_Part, Qwen2VLTextModel):
    """Qwen2-VL's decoder with the mixture in every layer."""

    config_class = EchoVLMTextConfig
    _can_record_outputs = {
        **Qwen2VLTextModel._can_record_outputs,
        "router_logits": OutputRecorder(Qwen2MoeTopKRouter, index=0),
    }

    def __init__(self, config: EchoVLMTextConfig):
        super().__init__(config)
        for layer in self.layers:
            layer.mlp = FORMS[config.mixing](config, ffn=layer.mlp)
        self.post_init()


class EchoVLMModel(_Part, Qwen2VLModel):
    """Vision tower and decoder."""

    config_class = EchoVLMConfig

    def __init__(self, config: EchoVLMConfig):
        # Past Qwen2VLModel's own, which would build a dense decoder first.
        Qwen2VLPreTrainedModel.__init__(self, config)
        self.visual = EchoVLMVisionModel._from_config(config.vision_config)
        self.language_model = EchoVLMTextModel._from_config(config.text_config)
        self.rope_deltas = None
        self.post_init()

    def token_types(self, input_ids: torch.Tensor) -> torch.Tensor:
        """What M-RoPE needs to know of `input_ids` [B, T]: 0 for text, 1 for an image token, 2 for video."""
        types = torch.zeros_like(input_ids)
        types[input_ids == self.config.image_token_id] = 1
        types[input_ids == self.config.video_token_id] = 2
        return types

    def compute_3d_position_ids(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """Positions [3, B, T], or None for plain text. The library's, with the token types filled in,
        nothing left over from the last prompt, and after a cache only the columns of the new tokens."""
        begins = past_key_values is None or past_key_values.get_seq_length() == 0
        if begins and image_grid_thw is None and video_grid_thw is None:
            self.rope_deltas = None
        if input_ids is not None and mm_token_type_ids is None:
            mm_token_type_ids = self.token_types(input_ids)
        positions = super().compute_3d_position_ids(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            mm_token_type_ids=mm_token_type_ids,
        )
        return None if positions is None else positions[..., -inputs_embeds.shape[1] :]


class EchoVLMForConditionalGeneration(_Part, Qwen2VLForConditionalGeneration):
    """EchoVLM with its language-model head: `from_pretrained`, `from_dense`, `generate`, `forward`."""

    config_class = EchoVLMConfig

    def __init__(self, config: EchoVLMConfig):
        Qwen2VLPreTrainedModel.__init__(self, config)
        self.model = EchoVLMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path | None, *args, **kwargs):
        """Open a folder that this class saved, one of the published layout, or a Hugging Face id of either.

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

    @classmethod
    def from_dense(
        cls, dense: Qwen2VLForConditionalGeneration, config: EchoVLMConfig | None = None, **mixture
    ) -> EchoVLMForConditionalGeneration:
        """An untrained EchoVLM around a dense Qwen2-VL, where the paper's stage I begins.

        Every weight of `dense` is copied; its feed-forwards become the static experts. `mixture` holds
        fields of `EchoVLMTextConfig` (`num_experts=4`, `mixing="paper"` …), or `config` the whole
        configuration. Router and experts start from the library's normal initialisation. The mixing starts
        at `DENSE_SHARE` for the static expert, equal for all tokens, so that the first answers are close to
        the dense model's and stage I learns a correction to them; the authors' own start is not published.

        Raises ValueError for a model that is not a dense Qwen2-VL of the configuration's sizes.
        """
        if config is None:
            strangers = mixture.keys() - set(MIXTURE_FIELDS)
            if strangers:
                raise ValueError(
                    f"{', '.join(sorted(strangers))}: the fields are {', '.join(MIXTURE_FIELDS)}"
                )
            own = {key: value for key, value in dense.config.to_dict().items() if key not in _NOT_INHERITED}
            config = EchoVLMConfig(**own, **mixture)
        elif mixture:
            raise ValueError(f"give a config or its fields, not both: {', '.join(mixture)}")
        model = cls._from_config(config, dtype=dense.dtype).to(dense.device)
        _copy_dense(dense, model)
        for module in model.modules():
            if isinstance(module, DualPathMoE):
                module.favour_ffn(DENSE_SHARE)
        return model

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        output_router_logits: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> MoeCausalLMOutputWithPast:
        """Qwen2-VL's forward, and what the routers decided when asked.

        input_ids [B, T], padded on the left; pixel_values [patches, 3*2*14*14] and image_grid_thw [images,
        3] of all images in the order of their tokens. `mm_token_type_ids` is filled in from `input_ids` when
        absent.

        With `output_router_logits` the result has `router_logits`, [B*T, N] a layer, and `aux_loss`, and
        `loss` includes gamma * aux_loss (Eq. 9). When it is not given, the config decides in training mode;
        in evaluation mode it is off, whatever config.json says (the published one says on, and generation
        has no use for it).
        """
        if output_router_logits is None:
            output_router_logits = self.training and self.config.text_config.output_router_logits
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            mm_token_type_ids=mm_token_type_ids,
            output_router_logits=output_router_logits,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        logits = self.lm_head(slice_logits_to_keep(hidden_states, logits_to_keep))
        router_logits = outputs.router_logits if output_router_logits else None
        aux_loss = None
        if router_logits is not None:
            aux_loss = self._aux_loss(router_logits, attention_mask, hidden_states.shape[1])
        loss = None
        if labels is not None:
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
            if aux_loss is not None:
                loss = loss + self.config.text_config.router_aux_loss_coef * aux_loss.to(loss.device)  # Eq. 9
        return MoeCausalLMOutputWithPast(
            loss=loss,
            aux_loss=aux_loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=router_logits,
        )

    def _aux_loss(self, router_logits, attention_mask, new_tokens: int) -> torch.Tensor:
        """The load-balancing loss of the tokens just seen: after a cache, the last columns of the mask."""
        if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
            attention_mask = attention_mask[:, -new_tokens:]
        else:
            attention_mask = None  # generation's prepared 4-D masks do not say which tokens are padding
        top_k = self.config.text_config.num_experts_per_tok
        loss = load_balancing_loss(router_logits, top_k, attention_mask)
        if torch.is_grad_enabled() and not loss.requires_grad and self._routers_learn():
            raise RuntimeError(
                "Reentrant checkpointing cuts the routers off from the load-balancing loss. Enable it with "
                'activation_checkpointing_enable({"use_reentrant": False}), the default.'
            )
        return loss

    def _routers_learn(self) -> bool:
        routers = (module for module in self.modules() if isinstance(module, Qwen2MoeTopKRouter))
        return any(router.weight.requires_grad for router in routers)

    def _prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs):
        """The library's, which without token types would silently give images the positions of plain text."""
        input_ids = model_kwargs.get("input_ids", inputs_tensor)
        if model_kwargs.get("mm_token_type_ids") is None and input_ids.ndim == 2:
            model_kwargs = {**model_kwargs, "mm_token_type_ids": self.model.token_types(input_ids)}
        return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)


def _copy_dense(dense: Qwen2VLForConditionalGeneration, model: EchoVLMForConditionalGeneration) -> None:
    weights = {_LAYER_MLP.sub(r"\1.ffn.", name): tensor for name, tensor in dense.state_dict().items()}
    try:
        missing, left_over = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"the dense model does not have the configuration's sizes: {error}") from error
    new = {
        f"{place}.{name}"
        for place, module in model.named_modules()
        if isinstance(module, DualPathMoE)
        for name in module.state_dict()
        if not name.startswith("ffn.")
    }
    if wrong := [*left_over, *(set(missing) - new)]:
        raise ValueError(f"not a dense Qwen2-VL of the configuration's sizes: {', '.join(sorted(wrong))}")
    model.generation_config = copy.deepcopy(dense.generation_config)


published.register(EchoVLMForConditionalGeneration.__name__)
