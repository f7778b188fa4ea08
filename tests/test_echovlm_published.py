"""Published folders open whole or not at all."""

import json

import published
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, Qwen2VLForConditionalGeneration

from assistants.echovlm import EchoVLMConfig, EchoVLMForConditionalGeneration
from models.checkpoint import CheckpointError, tensors_of

GATE = "model.layers.0.moe.gate.weight"
EXPERT = "model.layers.1.moe.experts.{}.{}_proj.weight"


@pytest.fixture(scope="module")
def config():
    return published.config()


@pytest.fixture
def tensors(config):
    return published.weights(config)


def opened(folder):
    return EchoVLMForConditionalGeneration.from_pretrained(folder)


def test_every_number_arrives(tmp_path, config, tensors):
    state = opened(published.save(tmp_path, config, tensors)).state_dict()
    layer = "model.language_model.layers.1.mlp."
    assert torch.equal(state[f"{layer}ffn.up_proj.weight"], tensors["model.layers.1.mlp.up_proj.weight"])
    assert torch.equal(state[f"{layer}coefficient.bias"], tensors["model.layers.1.coefficient.bias"])
    for expert in range(4):
        gate_up = torch.cat([tensors[EXPERT.format(expert, part)] for part in ("gate", "up")])
        assert torch.equal(state[f"{layer}experts.gate_up_proj"][expert], gate_up)
        assert torch.equal(state[f"{layer}experts.down_proj"][expert], tensors[EXPERT.format(expert, "down")])
    assert sum(tensor.numel() for tensor in state.values()) == sum(map(torch.numel, tensors.values()))


@pytest.mark.parametrize("shards", [1, 5])
@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_one_file_or_shards_and_tied_or_untied_heads(tmp_path, shards, tied):
    config = published.config(tie_word_embeddings=tied)
    tensors = published.weights(config)
    model = opened(published.save(tmp_path, config, tensors, shards=shards))
    head = "model.embed_tokens.weight" if tied else "lm_head.weight"
    assert torch.equal(model.lm_head.weight, tensors[head])
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied
    batch = published.inputs((9,))
    expected = published.reference(config, tensors)(**batch).logits
    assert (model(**batch).logits - expected).abs().max() <= 1e-4


def test_a_tied_head_may_be_in_the_file_as_well(tmp_path):
    config = published.config(tie_word_embeddings=True)
    tensors = published.weights(config)
    head = tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    assert torch.equal(opened(published.save(tmp_path, config, tensors)).lm_head.weight, head)
    del tensors["model.embed_tokens.weight"]
    alone = opened(published.save(tmp_path, config, tensors))
    assert torch.equal(alone.get_input_embeddings().weight, head)
    assert alone.lm_head.weight is alone.get_input_embeddings().weight
    del tensors["lm_head.weight"]
    with pytest.raises(CheckpointError, match="model.embed_tokens.weight"):
        opened(published.save(tmp_path, config, tensors))


def test_saved_again_it_has_the_published_names(tmp_path, config, tensors):
    opened(published.save(tmp_path / "a", config, tensors)).save_pretrained(tmp_path / "b")
    assert tensors_of(tmp_path / "b").keys() == tensors.keys()
    assert json.loads((tmp_path / "b" / "config.json").read_text())["model_type"] == "echovlm"
    again = opened(tmp_path / "b").state_dict()
    first = opened(tmp_path / "a").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


@pytest.mark.parametrize("claimed", [2, 8])
def test_the_tensors_decide_how_many_experts_there_are(tmp_path, config, tensors, claimed):
    folder = published.save(tmp_path, {**config, "num_experts": claimed}, tensors)
    assert EchoVLMConfig.from_pretrained(folder).text_config.num_experts == 4
    assert opened(folder).config.text_config.num_experts == 4


def test_any_number_of_experts(tmp_path):
    config = published.config(num_experts=11)
    folder = published.save(tmp_path, {**config, "num_experts": 4}, published.weights(config))
    assert opened(folder).config.text_config.num_experts == 11


DAMAGE = {
    "an expert's matrix is missing": ({EXPERT.format(2, "up"): None}, [EXPERT.format(2, "up")]),
    "a whole expert is missing": (
        {EXPERT.format(3, part): None for part in ("gate", "up", "down")},
        [EXPERT.format(3, part) for part in ("gate", "up", "down")],
    ),
    "an expert is called 4 instead of 2": (
        {
            **{EXPERT.format(2, part): None for part in ("gate", "up")},
            **{EXPERT.format(4, part): (16, 64) for part in ("gate", "up")},
            EXPERT.format(2, "down"): None,
            EXPERT.format(4, "down"): (64, 16),
        },
        [EXPERT.format(2, "down"), EXPERT.format(4, "down")],
    ),
    "gate and up of other widths that add up": (
        {EXPERT.format(e, part): (width, 64) for e in range(4) for part, width in (("gate", 15), ("up", 17))},
        [EXPERT.format(0, "gate") + " (15, 64), needed (16, 64)", EXPERT.format(3, "up")],
    ),
    "one router is too short": ({GATE: (3, 64)}, [GATE + " (3, 64), needed (4, 64)"]),
    "no coefficient": (
        {"model.layers.0.coefficient.bias": None},
        ["missing      model.layers.0.coefficient.bias"],
    ),
    "no head, and not tied": ({"lm_head.weight": None}, ["missing      lm_head.weight"]),
    "another vocabulary": (
        {"model.embed_tokens.weight": (90, 64)},
        ["reshaped     model.embed_tokens.weight"],
    ),
    "a stranger": (
        {"model.layers.2.mlp.up_proj.weight": (80, 64)},
        ["unexpected   model.layers.2.mlp.up_proj"],
    ),
    "half of the vision tower": (
        {"visual.blocks.0.attn.qkv.weight": None, "visual.merger.mlp.2.bias": None},
        ["visual.blocks.0.attn.qkv.weight", "visual.merger.mlp.2.bias"],
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_any_fault_is_listed_and_nothing_is_loaded(tmp_path, config, tensors, what, monkeypatch):
    changes, listed = DAMAGE[what]
    for name, shape in changes.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = torch.zeros(shape)
    folder = published.save(tmp_path, config, tensors)
    monkeypatch.setattr(Qwen2VLForConditionalGeneration, "_load_pretrained_model", None)
    with pytest.raises(CheckpointError) as error:
        opened(folder)
    for name in listed:
        assert name in str(error.value)
        assert name in error.value.message("zh")


def test_a_dense_model_is_not_an_echovlm(tmp_path, config, tensors):
    published.dense(config, tensors).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="dense Qwen2-VL.*from_dense") as error:
        opened(tmp_path)
    assert "Qwen2-VL" in error.value.message("zh")


def test_a_published_config_over_dense_tensors(tmp_path, config, tensors):
    dense = {name: tensor for name, tensor in tensors.items() if ".moe." not in name}
    with pytest.raises(CheckpointError, match=r"missing      model.layers.0.moe.experts.0.gate_proj.weight"):
        opened(published.save(tmp_path, config, dense))


def test_another_model_altogether(tmp_path, config, tensors):
    folder = published.save(tmp_path, {"model_type": "bert", "architectures": ["BertModel"]}, tensors)
    with pytest.raises(CheckpointError, match="not hold an EchoVLM.*'bert'"):
        opened(folder)


def test_a_config_that_names_no_known_form(tmp_path, config, tensors):
    folder = published.save(tmp_path, {**config, "mixing": "both"}, tensors)
    with pytest.raises(CheckpointError, match="released, paper"):
        opened(folder)


def test_pickles_are_not_opened(tmp_path, config, tensors):
    published.save(tmp_path, config, tensors)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="safetensors only.*pytorch_model.bin"):
        opened(tmp_path)


def test_a_nested_config_with_the_mixture_beside_it(tmp_path, config, tensors):
    """As newer versions of the library write the authors' class."""
    outer = (
        "vision_config",
        "architectures",
        "model_type",
        "image_token_id",
        *published.MIXTURE,
        "norm_topk_prob",
    )
    inner = {key: value for key, value in config.items() if key not in outer}
    nested = {key: config[key] for key in outer} | {"text_config": {**inner, "model_type": "qwen2_vl_text"}}
    model = opened(published.save(tmp_path, nested, tensors))
    assert model.config.text_config.moe_intermediate_size == config["moe_intermediate_size"]
    assert model.config.text_config.model_type == "echovlm_text"


def test_newer_tensor_names_of_the_base_model(tmp_path, config, tensors):
    """Newer versions of the library may write model.language_model.… and model.visual.…"""
    renamed = {published.newer_name(name): tensor for name, tensor in tensors.items()}
    model = opened(published.save(tmp_path, config, renamed))
    assert torch.equal(model.model.language_model.norm.weight, tensors["model.norm.weight"])


def test_the_librarys_auto_class_would_drop_the_mixture(tmp_path, config, tensors):
    """Why a published folder is opened by `models.checkpoint` or by our class, never by an Auto class."""
    folder = published.save(tmp_path, config, tensors)
    assert type(AutoModelForImageTextToText.from_pretrained(folder)) is Qwen2VLForConditionalGeneration


def test_a_truncated_file(tmp_path, config, tensors):
    file = published.save(tmp_path, config, tensors) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="broken"):
        opened(tmp_path)


def test_a_missing_shard(tmp_path, config, tensors):
    published.save(tmp_path, config, tensors, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks files.*model-00002-of-00003.safetensors"):
        opened(tmp_path)


def test_an_index_cannot_point_outside_the_folder(tmp_path, config, tensors):
    save_file(tensors, tmp_path / "elsewhere.safetensors")
    folder = published.save(tmp_path / "inside", config, tensors)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(tensors, "../elsewhere.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="lacks files"):
        opened(folder)
