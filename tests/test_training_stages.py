"""Stages: what learns, to the last number, at the published sizes and in a real backward pass; samples keep
to their length and count their words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from assistants.echovlm import EchoVLMConfig, EchoVLMForConditionalGeneration
from imaging.case import Case
from models.encoding import IGNORED, Encoder
from training.recipe import Lora, read_recipe
from training.stages import MIXTURE, Instructions, changed_by, describe, freeze, learning, with_lora

RECIPES = Path(__file__).parents[1] / "training/recipes"
EVERY_LINEAR = read_recipe(RECIPES / "abvlm_q_lora.yaml").stages[0].lora
STAGE_TWO = read_recipe(RECIPES / "echovlm_stage2.yaml").stages[0].lora

# Qwen2-VL's config.json files as published.
SEVEN_B = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064} | {
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
TWO_B = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "vocab_size": 151936} | {
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}


def on_meta(model_class, config_class, text: dict, tied: bool):
    """A model of published sizes that takes no memory."""
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
    vision = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "hidden_size": text["hidden_size"]}
    text = text | {"rope_parameters": rope}
    config = config_class(text_config=text, vision_config=vision, tie_word_embeddings=tied)
    with torch.device("meta"):
        return model_class(config)


@pytest.fixture
def eleven_b():
    return on_meta(EchoVLMForConditionalGeneration, EchoVLMConfig, SEVEN_B, tied=False)


def test_stage_one_of_the_published_size_learns_3_391_797_304_numbers(eleven_b):
    assert freeze(eleven_b, MIXTURE) == 3_391_797_304 == 28 * 121_135_618
    said = describe(eleven_b)
    assert said.startswith("3,391,797,304 of 11,683,") and "vision" not in said and "language" not in said
    expert, shared = 3 * 3584 * 1408, 3 * 3584 * 5632
    routing = 4 * 3584 + 3584 + 2 * 3584 + 2  # router, the shared expert's gate, the mixing and its bias
    for part, count in (("routed experts", 4 * expert), ("shared experts", shared), ("routers and", routing)):
        assert f"{28 * count:,}" in said.split(part)[1].split(",  ")[0], part
    assert 28 * (4 * expert + shared + routing) == 3_391_797_304


def test_stage_two_of_the_published_size_learns_3_40_billion(eleven_b):
    wrapped = with_lora(eleven_b, STAGE_TWO, seed=0)
    attention = 28 * 8 * ((3584 + 3584) * 2 + (3584 + 512) * 2)
    vision = 32 * 8 * ((1280 + 3840) + (1280 + 1280) + (1280 + 5120) * 2)
    projector = 8 * ((5120 + 5120) + (5120 + 3584))
    assert learning(wrapped) == 3_391_797_304 + attention + vision + projector
    assert f"{learning(wrapped) / 1e9:.1f}" == "3.4"  # Table 8: 3.4B
    for part, count in (("vision tower", vision), ("projector", projector), ("language model", attention)):
        assert f"LoRA on the {part} {count:,}" in describe(wrapped)


def test_abvlm_q_of_the_published_size_has_lora_on_every_linear_layer_but_the_merger_and_the_head():
    model = on_meta(Qwen2VLForConditionalGeneration, Qwen2VLConfig, TWO_B, tied=True)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    wrapped = with_lora(model, EVERY_LINEAR, seed=0, also=None)
    changed = {name.removesuffix(".weight") for name in changed_by(wrapped)}
    assert linear - changed == {"model.visual.merger.mlp.0", "model.visual.merger.mlp.2", "lm_head"}
    assert changed < linear
    language = 28 * 16 * ((1536 + 1536) * 2 + (1536 + 256) * 2 + (1536 + 8960) * 3)
    vision = 32 * 16 * ((1280 + 3840) + (1280 + 1280) + (1280 + 5120) * 2)
    assert learning(wrapped) == language + vision
    assert not any("bias" in name for name, p in wrapped.named_parameters() if p.requires_grad)


def test_a_dense_feed_forward_network_is_the_language_model(cases):
    model = tiny.model(tiny.tokenizer(), "qwen2_vl")
    freeze(model, re.compile(r"language_model\.layers\.\d+\.mlp\."))
    said = describe(model)
    assert said.endswith(f"parameters learn: language model {learning(model):,}"), said


def test_what_stands_aside_counts_among_all_parameters(eleven_b):
    freeze(eleven_b, MIXTURE)
    whole, tower = describe(eleven_b), eleven_b.model.visual
    eleven_b.model.visual = torch.nn.Identity()
    assert describe(eleven_b) != whole == describe(eleven_b, [tower])


# --- in a real backward pass -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> list[Case]:
    folder = tmp_path_factory.mktemp("cases")
    found = []
    for i in range(3):
        Image.fromarray(tiny.frame(seed=i).pixels).save(folder / f"{i}.png")
        for k, answer in enumerate(("左叶回声均匀。", "A nodule of 7 mm.")):
            question, language = (("所见？", "zh"), ("Findings?", "en"))[k]
            found.append(Case(f"{i}-{k}", (folder / f"{i}.png",), question, answer, None, language))
    return found


def encoder() -> Encoder:
    vocabulary = tiny.tokenizer()
    return Encoder(vocabulary, tiny.image_processor(), vocabulary.convert_tokens_to_ids("<|image_pad|>"))


def learned(model, cases) -> set[str]:
    """Names of the parameters that a backward pass gives a gradient."""
    made = encoder()
    task = Instructions("t", model, made, cases)
    model.train()
    task.loss(task.batch([0, 1], np.random.default_rng(0)))[0].backward()
    return {name for name, p in model.named_parameters() if p.grad is not None}


TINY_LORA = {"rank": 2, "alpha": 4, "dropout": 0.0}


def test_stage_one_teaches_the_mixture_alone(cases):
    torch.manual_seed(0)
    model = tiny.model(tiny.tokenizer(), "echovlm")
    freeze(model, MIXTURE)
    names = learned(model, cases)
    assert names == {name for name, p in model.named_parameters() if p.requires_grad}
    parts = {name.split(".mlp.")[1].split(".")[0] for name in names}
    assert parts == {"gate", "experts", "shared_expert", "shared_expert_gate", "coefficient"}
    assert all(name.startswith("model.language_model.layers.") for name in names)  # not the tower's mlp


def test_stage_two_teaches_lora_and_the_mixture(cases):
    torch.manual_seed(0)
    model = tiny.model(tiny.tokenizer(), "echovlm")
    mixture = {name for name, _ in model.named_parameters() if MIXTURE.search(name)}
    wrapped = with_lora(model, Lora(**TINY_LORA, targets=STAGE_TWO.targets), seed=0)
    names = learned(wrapped, cases)
    assert {name.removeprefix("base_model.model.") for name in names if "lora_" not in name} == mixture
    adapted = {name.split(".lora_")[0] for name in names if "lora_" in name}
    for part in (
        "visual.blocks.0.attn.qkv",
        "visual.blocks.0.mlp.fc1",
        "visual.merger.mlp.2",
        "self_attn.o_proj",
    ):
        assert any(part in name for name in adapted), part
    assert not any("patch_embed" in name or "embed_tokens" in name or "lm_head" in name for name in names)


def test_abvlm_q_teaches_lora_alone(cases):
    torch.manual_seed(0)
    model = tiny.model(tiny.tokenizer(), "qwen2_vl")
    wrapped = with_lora(model, Lora(**TINY_LORA, targets=EVERY_LINEAR.targets), seed=0, also=None)
    names = learned(wrapped, cases)
    assert names and all(".lora_" in name for name in names)
    assert any("visual.blocks" in name for name in names) and any("mlp.down_proj" in name for name in names)


def test_lora_that_meets_no_layer_is_refused():
    model = tiny.model(tiny.tokenizer(), "qwen2_vl")
    with pytest.raises(ValueError, match="nowhere"):
        with_lora(model, Lora(**TINY_LORA, targets="nowhere"), seed=0)


# --- samples -----------------------------------------------------------------------------------------------


def test_the_weight_of_a_batch_is_its_learned_words(cases):
    model = tiny.model(tiny.tokenizer(), "qwen2_vl")
    task = Instructions("t", model, encoder(), cases)
    batches = [task.batch([i], np.random.default_rng(i)) for i in range(3)]
    both = task.encoder.pad(batches[:2], side="right")
    weights = [task.weight(batch) for batch in batches[:2]]
    assert weights[0] == int((batches[0]["labels"] != IGNORED).sum())
    with torch.no_grad():
        losses = [float(task.loss(batch)[0]) for batch in batches[:2]]
        assert float(task.loss(both)[0]) == pytest.approx(np.average(losses, weights=weights), rel=1e-5)


def test_long_conversations_lose_turns_and_never_pixels(cases):
    task = Instructions("t", None, encoder(), cases)
    rng = np.random.default_rng(0)
    free = [task.batch([0], rng)["input_ids"].shape[1] for _ in range(20)]
    bound = (min(free) + max(free)) // 2
    task.max_length = bound
    held = [task.batch([0], rng) for _ in range(20)]
    assert max(free) > bound >= max(batch["input_ids"].shape[1] for batch in held)
    assert len({int(batch["mm_token_type_ids"].sum()) for batch in held}) == 1  # image tokens: all of them
    task.max_length = 10
    with pytest.raises(ValueError, match="case 0-. has .* tokens, more than max_length 10"):
        task.batch([0], rng)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answer": None}, "case x has no answer"),
        ({"question": None, "task": "plane"}, "case x has no question"),
    ],
)
def test_a_case_that_teaches_nothing_is_named(cases, fields, message):
    values = {"question": "Findings?", "answer": "None.", "task": "vqa"} | fields
    with pytest.raises(ValueError, match=message):
        Instructions("t", None, encoder(), [Case("x", cases[0].images, **values)])


@pytest.mark.parametrize("task", ["plane", "quality", None, "report"])
def test_cases_of_every_task_and_without_a_language_are_asked(cases, task):
    case = Case("x", cases[0].images, "切面？" if task != "report" else None, "左叶。", task=task)
    made = Instructions("t", None, encoder(), [case])
    batch = made.batch([0], np.random.default_rng(0))
    text = made.encoder.tokenizer.decode(batch["input_ids"][0])
    assert "左叶。" in text and ("切面？" in text) == (task != "report")
    assert "English" not in text  # asked and answered in Chinese
