"""EchoVLM against a plain reference, on other configurations than the authors' fixtures have; generation;
training.
"""

import published
import pytest
import torch
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForImageTextToText,
    StaticCache,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from assistants.echovlm import EchoVLMConfig, EchoVLMForConditionalGeneration
from assistants.echovlm.dual_path_moe import DualPathMoE
from models.checkpoint import CheckpointError

CONFIGS = {
    "tied, 6 experts, top 3, normalised": {
        "tie_word_embeddings": True,
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
    },
    "every head its own key": {"num_key_value_heads": 4, "moe_intermediate_size": 24},
    "one key for six heads": {
        "hidden_size": 96,
        "num_attention_heads": 6,
        "num_key_value_heads": 1,
        "shared_expert_intermediate_size": 8,
        "vision_config": {"hidden_size": 96, "embed_dim": 48, "num_heads": 3, "mlp_ratio": 4, "depth": 2},
    },
    "one of two experts": {"num_experts": 2, "num_experts_per_tok": 1, "num_hidden_layers": 3},
    "all of three experts, 12 wide": {
        "num_experts": 3,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 12,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [4, 2, 2]},
    },
}
ROWS = {
    "several images, left padded": ((4, (2, 4), 3, (6, 4), 5), (7, (4, 4), 9)),
    "text only, left padded": ((12,), (5,), (9,)),
    "an image and a text": ((3, (4, 6), 4), (6,)),
}


@pytest.fixture
def pair(tmp_path):
    """A function from a config to our model, opened from a published folder, and the reference."""

    def build(config, **options):
        tensors = published.weights(config)
        folder = published.save(tmp_path / "published", config, tensors)
        ours = EchoVLMForConditionalGeneration.from_pretrained(folder, **options)
        return ours, published.reference(config, tensors)

    return build


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = published.config()
    folder = published.save(tmp_path_factory.mktemp("published"), config, published.weights(config))
    return EchoVLMForConditionalGeneration.from_pretrained(folder)


def token_types(batch):
    return (batch["input_ids"] == published.IMAGE).long()


def mixtures(model) -> list[DualPathMoE]:
    return [module for module in model.modules() if isinstance(module, DualPathMoE)]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_a_dense_masked_sum(pair, name, rows, attention):
    ours, reference = pair(published.config(**CONFIGS[name]), attn_implementation=attention)
    batch = published.inputs(*ROWS[rows])
    real = batch["attention_mask"].bool()
    expected = reference(**batch, mm_token_type_ids=token_types(batch)).logits[real]
    assert expected.std() > 0.5
    assert (ours(**batch).logits[real] - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_writes_the_same_words(pair, name):
    ours, reference = pair(published.config(**CONFIGS[name]))
    batch = published.inputs(*ROWS["several images, left padded"])
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": published.PAD}
    expected = reference.generate(**batch, **options, mm_token_type_ids=token_types(batch))
    assert torch.equal(ours.generate(**batch, **options), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(pair, dtype):
    ours, reference = pair(published.config(), dtype=dtype)
    assert {parameter.dtype for parameter in ours.parameters()} == {dtype}
    assert ours.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
    batch = published.inputs((6, (4, 4), 6))
    expected = reference(**batch, mm_token_type_ids=token_types(batch)).logits
    logits = ours(**batch).logits
    assert logits.dtype == dtype
    assert (logits - expected).abs().mean() < 0.1 * expected.std()


@torch.no_grad()
def test_cached_steps_equal_one_pass(model):
    batch = published.inputs((4, (4, 4), 6), (3, (2, 2), 6))
    whole = model(**batch).logits
    model(**published.inputs((3, (8, 8), 4)))  # another prompt in between leaves nothing behind
    prompt = {
        **batch,
        "input_ids": batch["input_ids"][:, :-4],
        "attention_mask": batch["attention_mask"][:, :-4],
    }
    result = model(**prompt)
    for step in range(-4, 0):
        end = whole.shape[1] + step + 1
        result = model(
            input_ids=batch["input_ids"][:, end - 1 : end],
            attention_mask=batch["attention_mask"][:, :end],
            past_key_values=result.past_key_values,
        )
        assert (result.logits[:, -1] - whole[:, step]).abs().max() <= 1e-4


@torch.no_grad()
def test_text_after_an_image_prompt_starts_afresh(model):
    text = published.inputs((10,))
    alone = model(**text).logits
    model(**published.inputs((3, (8, 8), 4)))
    result = model(**{name: tensor[:, :-1] for name, tensor in text.items()})
    last = model(input_ids=text["input_ids"][:, -1:], past_key_values=result.past_key_values).logits
    assert (last[:, -1] - alone[:, -1]).abs().max() <= 1e-4


def test_generation_ignores_the_router_logits_of_the_config(model):
    assert model.config.text_config.output_router_logits
    batch = published.inputs((4, (4, 4), 6), (3, (2, 2), 6))
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": published.PAD}
    plain = model.generate(**batch, **options, return_dict_in_generate=True)
    assert "router_logits" not in plain and "aux_loss" not in plain
    asked = model.generate(**batch, **options, output_router_logits=True)
    assert torch.equal(plain.sequences, asked)


def test_static_cache(model):
    batch = published.inputs((4, (4, 4), 6), (3, (2, 2), 6))
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": published.PAD}
    cache = StaticCache(model.config.text_config, max_cache_len=64)
    expected = model.generate(**batch, **options)
    assert torch.equal(model.generate(**batch, **options, past_key_values=cache), expected)


def test_expert_kernels_do_not_depend_on_what_was_loaded_before(tmp_path):
    config = published.config()
    tensors = published.weights(config)
    published.dense(config, tensors)
    folder = published.save(tmp_path, config, tensors)
    loaded = EchoVLMForConditionalGeneration.from_pretrained(folder)
    assert loaded.config.text_config._experts_implementation == "grouped_mm"
    with pytest.raises(ValueError, match="experts_implementation"):
        EchoVLMForConditionalGeneration.from_pretrained(folder, experts_implementation="no such kernel")


@torch.no_grad()
def test_attention_goes_through_the_librarys_interface(tmp_path):
    """A kernel that somebody registers is the one that is called; flash-attn itself needs a GPU."""
    called = []

    def kernel(module, *arguments, **options):
        called.append(type(module).__name__)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, *arguments, **options)

    config = published.config()
    folder = published.save(tmp_path, config, published.weights(config))
    model = EchoVLMForConditionalGeneration.from_pretrained(folder)
    batch = published.inputs((4, (4, 4), 6))
    expected = model(**batch).logits
    AttentionInterface.register("kernel of a test", kernel)
    AttentionMaskInterface.register("kernel of a test", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation("kernel of a test")
    assert torch.equal(model(**batch).logits, expected)
    assert sorted(called) == ["Qwen2VLAttention"] * 2 + ["VisionAttention"]
    assert model._supports_flash_attn and model._supports_attention_backend


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("mixing", ["released", "paper"])
def test_gradients_reach_every_part_of_the_mixture(mixing, checkpointing):
    model = EchoVLMForConditionalGeneration(EchoVLMConfig(**published.config(mixing=mixing))).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    batch = published.inputs((4, (4, 4), 20))
    model(**batch, labels=batch["input_ids"], use_cache=False).loss.backward()
    for mixture in mixtures(model):
        for name, parameter in mixture.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_auxiliary_loss_alone_moves_the_routers(model, checkpointing):
    if checkpointing:
        model.activation_checkpointing_enable()
    model.train()
    batch = published.inputs((4, (4, 4), 20))
    gradients = []
    for asked in (True, False):
        model.zero_grad()
        model(**batch, labels=batch["input_ids"], use_cache=False, output_router_logits=asked).loss.backward()
        gradients.append(mixtures(model)[0].gate.weight.grad.clone())
    model.zero_grad()
    model(**batch, use_cache=False, output_router_logits=True).aux_loss.backward()
    alone = mixtures(model)[0].gate.weight.grad
    model.eval().activation_checkpointing_disable()
    assert alone.abs().max() > 0
    assert torch.allclose(gradients[0] - gradients[1], 0.001 * alone, atol=1e-7)  # Eq. 9


def test_checkpointing_that_would_silence_the_auxiliary_loss_is_refused(model):
    batch = published.inputs((20,))
    model.train().enable_input_require_grads()
    model.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(RuntimeError, match="use_reentrant"):
        model(**batch, labels=batch["input_ids"], use_cache=False, output_router_logits=True)
    model.requires_grad_(False)  # frozen routers have nothing to lose
    model(**batch, labels=batch["input_ids"], use_cache=False, output_router_logits=True)
    model.requires_grad_(True).disable_input_require_grads()
    model.eval().activation_checkpointing_disable()


def test_the_config_decides_in_training_only(model):
    batch = published.inputs((20,))
    assert model(**batch).aux_loss is None
    assert model.train()(**batch).aux_loss is not None
    assert model(**batch, output_router_logits=False).aux_loss is None
    model.eval()


@pytest.fixture(scope="module")
def dense():
    config = published.config()
    return published.dense(config, published.weights(config))


def dense_inputs():
    batch = published.inputs((4, (4, 4), 20))
    return batch | {"mm_token_type_ids": token_types(batch)}


SIZES = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 24}


@torch.no_grad()
def test_alpha_one_is_the_dense_model(dense):
    model = EchoVLMForConditionalGeneration.from_dense(dense, mixing="paper", **SIZES).eval()
    for mixture in mixtures(model):
        mixture.alpha_logit.fill_(float("inf"))
    batch = dense_inputs()
    assert torch.equal(model(**batch).logits, dense(**batch).logits)


@pytest.mark.parametrize("mixing", ["released", "paper"])
@torch.no_grad()
def test_from_dense_starts_close_to_the_dense_model(dense, mixing):
    model = EchoVLMForConditionalGeneration.from_dense(dense, mixing=mixing, **SIZES).eval()
    batch = dense_inputs()
    expected = dense(**batch).logits
    assert (model(**batch).logits - expected).abs().max() < 0.1 * expected.std()
    mine, theirs = model.lm_head.weight, dense.lm_head.weight
    assert torch.equal(mine, theirs) and mine.data_ptr() != theirs.data_ptr()


def test_from_dense_says_what_does_not_fit(dense):
    with pytest.raises(ValueError, match="num_expert: the fields are"):
        EchoVLMForConditionalGeneration.from_dense(dense, num_expert=3)
    with pytest.raises(ValueError, match="sizes"):
        EchoVLMForConditionalGeneration.from_dense(
            dense, EchoVLMConfig(**published.config(intermediate_size=88))
        )
    deeper = EchoVLMConfig(**{**dense.config.to_dict(), "model_type": "echovlm"}, **SIZES)
    deeper.text_config.num_hidden_layers += 1
    deeper.text_config.layer_types.append("full_attention")
    with pytest.raises(ValueError, match="layers.2"):
        EchoVLMForConditionalGeneration.from_dense(dense, deeper)


@pytest.mark.parametrize("mixing", ["released", "paper"])
def test_opens_what_it_saved(tmp_path, dense, mixing):
    model = EchoVLMForConditionalGeneration.from_dense(dense, mixing=mixing, num_experts=3, **SIZES)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    for opened in (
        EchoVLMForConditionalGeneration.from_pretrained(tmp_path),
        AutoModelForImageTextToText.from_pretrained(tmp_path),
    ):
        assert type(opened) is EchoVLMForConditionalGeneration
        assert opened.config.text_config.mixing == mixing
        state = opened.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert AutoConfig.from_pretrained(tmp_path).model_type == "echovlm"


def test_a_changed_configuration_cannot_leave_tensors_unfilled(tmp_path, dense):
    EchoVLMForConditionalGeneration.from_dense(dense, **SIZES).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="alpha_logit"):
        EchoVLMForConditionalGeneration.from_pretrained(
            tmp_path, config=EchoVLMConfig.from_pretrained(tmp_path, text_config={**SIZES, "mixing": "paper"})
        )


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"mixing": "both"}, "released, paper"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok"),
        ({"num_experts": 0}, "Qwen2VL"),
    ],
)
def test_a_wrong_configuration_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        EchoVLMConfig(**published.config(**fields))


@pytest.mark.parametrize("mixing", ["released", "paper"])
@torch.no_grad()
def test_paper_gates_are_a_softmax_over_the_chosen_and_released_ones_over_all(dense, mixing):
    model = EchoVLMForConditionalGeneration.from_dense(dense, mixing=mixing, **SIZES)
    tokens = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    assert len(mixtures(model)) == 2
    for mixture in mixtures(model):
        logits = tokens @ mixture.gate.weight.T  # [5, N]
        _, gates, chosen = mixture.gate(tokens)
        over_all = logits.softmax(-1).gather(1, chosen)
        over_chosen = logits.gather(1, chosen).softmax(-1)
        assert torch.allclose(gates, over_chosen if mixing == "paper" else over_all)
        assert not torch.allclose(over_chosen, over_all)
