"""EchoVLM's feed-forward: a plain one beside a mixture of experts, added in one of two forms.

EchoVLM (2025), "Dual-path MoE", Eq. 3-9. X is the normalised hidden state, FFN the static expert (Qwen2's own
feed-forward, frozen in stage I), S the shared expert, E_1 … E_N the routed ones, f the router's N logits.

"released", what the authors' code and weights compute, different for every token:

    Y = c_0 [ s S(X) + sum over the top k of p_i E_i(X) ] + c_1 FFN(X)
    (c_0, c_1) = softmax(W X + b)   `coefficient`
    s = sigmoid(v X)                `shared_expert_gate`
    p = softmax(f) over all N experts; the k chosen ones are divided by their sum only with `norm_topk_prob`

"paper", Eq. 3-4 as printed, with two learned scalars in every layer:

    Y = alpha FFN(X) + (1 - alpha) [ lambda S(X) + sum over the top k of g_i E_i(X) ]
    g = softmax(f) over the k chosen experts only
    alpha = sigmoid(`alpha_logit`), lambda = sigmoid(`lambda_logit`)

The paper bounds lambda to [0, 1] and calls alpha a balance; as sigmoids both stay in there while they learn.
alpha = 1 (a logit of infinity) is the plain feed-forward exactly.

Experts are sparse: tokens are grouped by expert and each group goes through its expert once, by the
library's expert kernels (`experts_implementation`, "grouped_mm" by default). An expert that no token chose
costs nothing.

Knows nothing of attention, images or checkpoints.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts, Qwen2MoeMLP, Qwen2MoeTopKRouter

from assistants.echovlm.configuration import EchoVLMTextConfig


class Experts(Qwen2MoeExperts):
    """The routed experts. Grouped matrix products on a GPU want rows of whole 16-byte words; experts of
    another width take the library's loop over the experts that were chosen, which gives the same numbers."""

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """hidden_states [M, D]; top_k_index, top_k_weights [M, k]; returns [M, D]."""
        widths = (self.hidden_dim, self.intermediate_dim)
        aligned = all(width * self.down_proj.element_size() % 16 == 0 for width in widths)
        if self.config._experts_implementation == "grouped_mm" and not aligned:
            loop = Qwen2MoeExperts.forward.__wrapped__
            return loop(self, hidden_states, top_k_index, top_k_weights)
        return super().forward(hidden_states, top_k_index, top_k_weights)


class DualPathMoE(nn.Module):
    """What both forms share: the static expert, the router, the routed experts and the shared one."""

    def __init__(self, config: EchoVLMTextConfig, ffn: nn.Module):
        super().__init__()
        self.ffn = ffn
        self.gate = Qwen2MoeTopKRouter(config)
        self.experts = Experts(config)
        self.shared_expert = Qwen2MoeMLP(config, config.shared_expert_intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D], already normalised, to Y [B, T, D]."""
        tokens = x.reshape(-1, x.shape[-1])  # [B*T, D]
        _, gates, chosen = self.gate(tokens)  # [B*T, k] each
        routed = self.experts(tokens, chosen, gates).view_as(x)
        return self.mix(x, self.ffn(x), self.shared_expert(x), routed)

    def mix(self, x: Tensor, ffn: Tensor, shared: Tensor, routed: Tensor) -> Tensor:
        """Add what the static expert, the shared one and the routed ones made of x; all [B, T, D]."""
        raise NotImplementedError

    def favour_ffn(self, share: float) -> None:
        """Set the mixing so that the static expert counts `share` for every token, and the rest 1 - share."""
        raise NotImplementedError


class ReleasedMoE(DualPathMoE):
    """The form of the authors' code and weights."""

    def __init__(self, config: EchoVLMTextConfig, ffn: nn.Module):
        super().__init__(config, ffn)
        self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)
        self.coefficient = nn.Linear(config.hidden_size, 2)

    def mix(self, x: Tensor, ffn: Tensor, shared: Tensor, routed: Tensor) -> Tensor:
        mixture = routed + self.shared_expert_gate(x).sigmoid() * shared
        coefficient = self.coefficient(x).softmax(-1)  # [B, T, 2]
        return coefficient[..., :1] * mixture + coefficient[..., 1:] * ffn

    @torch.no_grad()
    def favour_ffn(self, share: float) -> None:
        self.coefficient.weight.zero_()
        self.coefficient.bias.copy_(torch.tensor([0.0, _logit(share)]))


class PaperMoE(DualPathMoE):
    """The form of Eq. 3-4."""

    def __init__(self, config: EchoVLMTextConfig, ffn: nn.Module):
        super().__init__(config, ffn)
        self.alpha_logit = nn.Parameter(torch.zeros(1))
        self.lambda_logit = nn.Parameter(torch.zeros(1))

    def mix(self, x: Tensor, ffn: Tensor, shared: Tensor, routed: Tensor) -> Tensor:
        alpha, lambda_ = self.alpha_logit.sigmoid(), self.lambda_logit.sigmoid()
        return alpha * ffn + (1 - alpha) * (lambda_ * shared + routed)  # Eq. 3

    @torch.no_grad()
    def favour_ffn(self, share: float) -> None:
        self.alpha_logit.fill_(_logit(share))


FORMS = {"released": ReleasedMoE, "paper": PaperMoE}


@torch.no_grad()
def initialise(module: nn.Module, std: float) -> None:
    """First values of the parameters that the library cannot know: alpha = lambda = 1/2, the rest normal."""
    if isinstance(module, Qwen2MoeExperts):
        init.normal_(module.gate_up_proj, std=std)
        init.normal_(module.down_proj, std=std)
    elif isinstance(module, Qwen2MoeTopKRouter):
        init.normal_(module.weight, std=std)
    elif isinstance(module, PaperMoE):
        init.zeros_(module.alpha_logit)
        init.zeros_(module.lambda_logit)


def load_balancing_loss(
    router_logits: tuple[Tensor, ...], experts_per_token: int, attention_mask: Tensor | None = None
) -> Tensor:
    """N times Eq. 8 over all layers: a scalar, equal to k where the load is perfectly even.

    `router_logits` are [B*T, N] a layer. F_e (Eq. 6) counts the tokens of all layers with e among their top
    k, G_e (Eq. 7) is the mean of softmax(f)_e. The factor N is not in Eq. 8 but in the authors' code, as in
    Switch Transformer, and gamma = 0.001 goes with it. Tokens whose `attention_mask` [B, T] is 0 do not
    count.
    """
    num_experts = router_logits[0].shape[-1]
    return load_balancing_loss_func(router_logits, num_experts, experts_per_token, attention_mask)


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
