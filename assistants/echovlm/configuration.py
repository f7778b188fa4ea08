"""What an EchoVLM is made of: Qwen2-VL's configuration and the sizes of its dual-path mixture of experts.

Defaults come from EchoVLM's Table 8: four experts of 1408, top 2, one shared expert of 5632, gamma 0.001.
A config.json of the published layout (model_type "qwen2_vl") is read too, see `published.py`.

Knows nothing of weights beyond the number of experts that a published folder has.
"""

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from transformers import Qwen2VLConfig
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig, Qwen2VLVisionConfig

from assistants.echovlm.published import as_echovlm

MIXINGS = ("released", "paper")


@strict
class EchoVLMTextConfig(Qwen2VLTextConfig):
    """The language model. Beside Qwen2-VL's fields:

    mixing: how the plain feed-forward and the mixture of experts are added: "released" (the authors' code) or
        "paper" (Eq. 3-4). The equations stand in `dual_path_moe.py`.
    num_experts, num_experts_per_tok: routed experts, and how many of them a token visits (k).
    moe_intermediate_size, shared_expert_intermediate_size: width of one routed expert, and of the shared one.
    norm_topk_prob: whether a token's k gates are divided by their sum. Always true for "paper": Eq. 4 is a
        softmax over the k chosen logits alone, which is the same thing.
    router_aux_loss_coef: gamma of Eq. 9.
    output_router_logits: whether training steps return router logits and add the load-balancing loss. Not
        looked at in evaluation mode; there, give `output_router_logits=True` to `forward`.
    """

    model_type = "echovlm_text"
    base_model_tp_plan = {
        name.replace(".mlp.", ".mlp.ffn."): plan
        for name, plan in Qwen2VLTextConfig.base_model_tp_plan.items()
    }

    mixing: str = "released"
    num_experts: int = 4
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 1408
    shared_expert_intermediate_size: int = 5632
    norm_topk_prob: bool = False
    router_aux_loss_coef: float = 0.001
    output_router_logits: bool = False

    def __post_init__(self, **kwargs):
        if self.mixing not in MIXINGS:
            raise ValueError(f"mixing is {self.mixing!r}, not one of {', '.join(MIXINGS)}")
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"num_experts_per_tok is {self.num_experts_per_tok}, not between 1 and num_experts "
                f"({self.num_experts}). Without experts, use transformers.Qwen2VLForConditionalGeneration."
            )
        self.norm_topk_prob = self.norm_topk_prob or self.mixing == "paper"
        super().__post_init__(**kwargs)


MIXTURE_FIELDS = tuple(EchoVLMTextConfig.__annotations__)


@strict
class EchoVLMConfig(Qwen2VLConfig):
    """Vision tower and language model.

    The language model's fields come nested in `text_config`, or flat beside `vision_config` as in the
    authors' config.json. The mixture's own fields may also stand flat beside a `text_config`.
    """

    model_type = "echovlm"
    sub_configs_defaults = {"vision_config": Qwen2VLVisionConfig, "text_config": EchoVLMTextConfig}

    def __post_init__(self, **kwargs):
        if isinstance(self.text_config, dict):
            mixture = {field: kwargs.pop(field) for field in MIXTURE_FIELDS if field in kwargs}
            self.text_config = {**self.text_config, **mixture, "model_type": EchoVLMTextConfig.model_type}
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """The library's, with a published config.json translated. CheckpointError for another model's."""
        config, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        return as_echovlm(config, pretrained_model_name_or_path), kwargs
