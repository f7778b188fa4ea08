"""training.folded_lora and training.text_attention: the numbers and gradients of the libraries."""

from __future__ import annotations

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from training.folded_lora import folded
from training.text_attention import NAME, attend, batched_products


def adapted(dropout: float = 0.0) -> nn.Module:
    """Two layers, of which one has a LoRA that says something."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5))
    config = LoraConfig(r=2, lora_alpha=6, lora_dropout=dropout, target_modules=["0"])
    model = get_peft_model(layers, config)
    nn.init.normal_(model.base_model.model[0].lora_B["default"].weight)
    return model


def answer_and_gradients(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    out = model(x)
    out.square().sum().backward()
    return out, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_a_folded_lora_says_and_learns_the_same():
    model, x = adapted(), torch.randn(3, 4, 6)
    theirs, wanted = answer_and_gradients(model, x)
    calls = []
    model.base_model.model[0].lora_A["default"].register_forward_hook(lambda *_: calls.append(1))
    with folded(model):
        ours, found = answer_and_gradients(model, x)
    assert not calls, "peft's own way was taken"
    torch.testing.assert_close(ours, theirs)
    assert found.keys() == wanted.keys() and len(found) == 2
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])
    model(x)
    assert calls, "afterwards the layer is peft's again"


def test_a_lora_with_dropout_is_not_folded_while_it_learns():
    model, x = adapted(dropout=0.5), torch.randn(64, 6)
    with folded(model.train()):
        assert not torch.equal(model(x), model(x))
    with folded(model.eval()):
        folded_answer = model(x)
    torch.testing.assert_close(folded_answer, model(x))


def test_a_merged_or_sleeping_lora_is_left_alone():
    model, x = adapted(), torch.randn(2, 6)
    with model.disable_adapter(), folded(model):
        torch.testing.assert_close(model(x), model.base_model.model(x))
        without = model(x)
    awake = model(x)
    assert not torch.allclose(without, awake)
    model.merge_adapter()
    with folded(model):
        torch.testing.assert_close(model(x), awake)


def test_what_is_no_plain_lora_is_left_to_peft():
    layers = nn.Sequential(nn.Linear(6, 8))
    config = LoraConfig(r=2, lora_alpha=6, lora_bias=True, target_modules=["0"])
    model, x = get_peft_model(layers, config), torch.randn(2, 6)
    nn.init.normal_(model.base_model.model[0].lora_B["default"].bias)
    wanted = model(x)
    with folded(model):
        assert torch.equal(model(x), wanted)


def test_a_step_in_half_precision_folds_before_it_rounds():
    model, x = adapted(), torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16), folded(model):
        near = model(x)
    assert near.dtype == torch.bfloat16
    torch.testing.assert_close(near.float(), model(x), atol=0.1, rtol=0.05)


@pytest.fixture
def language_model():
    torch.manual_seed(0)
    return tiny.model(tiny.tokenizer(), "qwen2_vl").model.language_model


@pytest.mark.parametrize("padded", [0, 3])
def test_attention_says_and_learns_as_the_librarys(language_model, padded):
    words = torch.randn(2, 9, 32)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 9 - padded :] = 0
    seen = mask[..., None].bool()

    def run() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        language_model.zero_grad()
        out = language_model(inputs_embeds=words, attention_mask=mask).last_hidden_state.masked_fill(~seen, 0)
        out.pow(3).sum().backward()
        return out, {n: p.grad.clone() for n, p in language_model.named_parameters() if p.grad is not None}

    theirs, wanted = run()
    with batched_products(language_model):
        assert language_model.config._attn_implementation == NAME
        ours, found = run()
    assert language_model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-4, rtol=1e-3, msg=name)


def test_no_word_looks_ahead():
    torch.manual_seed(0)
    module, (q, k, v) = nn.Module(), torch.randn(3, 1, 2, 5, 4)
    whole, _ = attend(module, q, k, v, None, scaling=0.5)
    begun, _ = attend(module, q[:, :, :3], k[:, :, :3], v[:, :, :3], None, scaling=0.5)
    torch.testing.assert_close(whole[:, :3], begun)
    with pytest.raises(ValueError, match="no dropout"):
        attend(module, q, k, v, None, scaling=0.5, dropout=0.1)
