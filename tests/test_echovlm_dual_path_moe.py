"""The dual-path mixture of experts by itself: equations, sparsity, balance."""

import pytest
import torch
from torch import nn
from torch.nn.functional import silu, softmax

from assistants.echovlm.configuration import EchoVLMTextConfig
from assistants.echovlm.dual_path_moe import FORMS, load_balancing_loss

D, TOKENS = 32, 40


def block(mixing: str, experts: str = "eager", **fields):
    torch.manual_seed(0)
    config = EchoVLMTextConfig(
        mixing=mixing,
        hidden_size=D,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=24,
        num_attention_heads=4,
        num_key_value_heads=4,
        **fields,
    )
    config._experts_implementation = experts
    module = FORMS[mixing](config, ffn=nn.Linear(D, D))
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def evaluate(module, expert: int, x):
    gate, up = module.experts.gate_up_proj[expert].chunk(2)
    return (silu(x @ gate.T) * (x @ up.T)) @ module.experts.down_proj[expert].T


def released(module, x):
    p = softmax(x @ module.gate.weight.T, -1)
    kept = torch.where(p >= p.topk(module.gate.top_k).values[:, -1:], p, 0)
    if module.gate.norm_topk_prob:
        kept = kept / kept.sum(-1, keepdim=True)
    mixture = sum(kept[:, e, None] * evaluate(module, e, x) for e in range(p.shape[-1]))
    mixture = mixture + torch.sigmoid(x @ module.shared_expert_gate.weight.T) * module.shared_expert(x)
    c = softmax(module.coefficient(x), -1)
    return c[:, :1] * mixture + c[:, 1:] * module.ffn(x)


def paper(module, x):
    f = x @ module.gate.weight.T
    chosen = f.topk(module.gate.top_k).indices
    alpha, lambda_ = torch.sigmoid(module.alpha_logit), torch.sigmoid(module.lambda_logit)
    rows = []
    for token, experts in zip(x, chosen, strict=True):
        g = softmax(f[len(rows)][experts], -1)  # Eq. 4: over the chosen k alone
        rows.append(sum(g[i] * evaluate(module, e, token) for i, e in enumerate(experts.tolist())))
    return alpha * module.ffn(x) + (1 - alpha) * (
        lambda_ * module.shared_expert(x) + torch.stack(rows)
    )  # Eq. 3


EQUATIONS = {"released": released, "paper": paper}


@pytest.mark.parametrize("kernel", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize(
    "fields", [{}, {"norm_topk_prob": True}, {"num_experts": 7, "num_experts_per_tok": 3}]
)
@pytest.mark.parametrize("mixing", EQUATIONS)
@torch.no_grad()
def test_sparse_experts_equal_the_equations(mixing, fields, kernel):
    module = block(mixing, kernel, **fields)
    x = torch.randn(TOKENS, D)
    expected = EQUATIONS[mixing](module, x)
    assert (module(x.view(2, -1, D)).view(-1, D) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("kernel", ["eager", "grouped_mm"])
@pytest.mark.parametrize("tokens", [1, TOKENS])
@torch.no_grad()
def test_experts_that_nobody_chose_are_not_evaluated(kernel, tokens):
    module = block("released", kernel, num_experts=6, num_experts_per_tok=2)
    x = torch.randn(1, 1, D).expand(1, tokens, D)  # the same token again and again: two experts for all
    expected = module(x)
    unused = sorted({*range(6)} - set(module.gate(x)[2].flatten().tolist()))
    assert len(unused) == 4
    module.experts.gate_up_proj[unused] = float("nan")
    module.experts.down_proj[unused] = float("nan")
    assert torch.equal(module(x), expected)


@torch.no_grad()
def test_narrow_experts_take_the_loop_where_grouped_products_cannot(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a grouped product on rows that are not whole 16-byte words")

    module = block("released", "grouped_mm")
    x = torch.randn(1, TOKENS, D)
    expected = module(x)
    monkeypatch.setattr(torch.nn.functional, "grouped_mm", refuse)
    with pytest.raises(AssertionError, match="16-byte"):
        module(x)
    narrow = block("released", "grouped_mm")
    for name in ("gate_up_proj", "down_proj"):  # the same experts, with three idle units more: 19 wide
        weight = getattr(narrow.experts, name).data
        pad = (0, 3) if name == "down_proj" else (0, 0, 0, 3)
        halves = weight.chunk(2, 1) if name == "gate_up_proj" else (weight,)
        padded = torch.cat([nn.functional.pad(half, pad) for half in halves], 1)
        setattr(narrow.experts, name, nn.Parameter(padded))
    narrow.experts.intermediate_dim = 19
    assert torch.allclose(narrow(x), expected, atol=1e-4)


@pytest.mark.parametrize("mixing", EQUATIONS)
@torch.no_grad()
def test_favouring_the_static_expert(mixing):
    module = block(mixing)
    x = torch.randn(1, TOKENS, D)
    module.favour_ffn(0.75)
    a = module(x)
    module.favour_ffn(0.25)
    b = module(x)
    # Y = share FFN + (1 - share) mixture, so the two answers add up to FFN + mixture
    module.favour_ffn(1 - 1e-7)
    assert torch.allclose(module(x), module.ffn(x), atol=1e-3)
    module.favour_ffn(1e-7)
    assert torch.allclose(a + b, module.ffn(x) + module(x), atol=1e-3)


@pytest.mark.parametrize("k", [1, 2])
def test_balance_is_k_when_even_and_n_k_at_worst(k):
    even = torch.eye(4).repeat(8, 1) * 1e-6  # nearly uniform probabilities, each expert chosen as often
    even = even + torch.roll(even, 1, dims=1) * 0.5
    assert load_balancing_loss((even, even), k).item() == pytest.approx(k, rel=1e-4)
    crowded = torch.tensor([[50.0, 49.0, 0.0, 0.0]]).repeat(8, 1)
    p = softmax(crowded[0], -1)
    assert load_balancing_loss((crowded,), k).item() == pytest.approx(4 * p[:k].sum().item(), rel=1e-4)


def test_padding_does_not_count_in_the_balance():
    logits = torch.randn(12, 4)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    real = logits[mask.flatten().bool()]
    expected = load_balancing_loss((real, real), 2)
    assert load_balancing_loss((logits, logits), 2, mask).item() == pytest.approx(expected.item(), abs=1e-6)
