"""Weights of other makers become a LLaVA-Ultra whole, or not at all."""

import json

import pytest
import torch
import ultra
from peft import LoraConfig, get_peft_model

from assistants.llava_ultra import LlavaUltraForConditionalGeneration
from assistants.llava_ultra.published import open_published
from models.checkpoint import CheckpointError

SCORE = ("model.frame_score.channel_weight", "model.frame_score.token_query")


def logits(model, token=ultra.IMAGE):
    images = ultra.pixels(2)
    if model.config.model_type == "llava":
        del images["sam_pixel_values"]
        token = ultra.WORDS - 1
    with torch.no_grad():
        return model(**ultra.prompt(images=2, token=token), **images).logits


def assert_same(opened, reference):
    assert (logits(opened.model) - logits(reference)).abs().max() <= 1e-4
    assert logits(reference).std() > 0.1  # a model that says nothing would agree with anything


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam")
    ultra.save_sam(folder)
    return folder


def test_llava_med_15(tmp_path, sam):
    source = ultra.reference("mistral")
    folder = ultra.save(tmp_path, *ultra.original("llava_mistral", source))
    opened = open_published(folder, sam=sam, alpha=1.0, fresh=True)
    assert_same(opened, source)
    assert opened.layout == "original"
    assert opened.model.config.text_config.model_type == "mistral"
    assert opened.model.config.template == "mistral_instruct"
    assert opened.fresh[:4] == (*SCORE, "model.fusion.alpha", "model.fusion.sam_projector.0.bias")
    assert len(opened.fresh) == 7


def test_llava_med_1_with_clip_from_its_own_folder(tmp_path, sam):
    source = ultra.reference(projector="linear")
    fields, tensors = ultra.original("llava", source)
    folder = ultra.save(tmp_path / "med", fields, ultra.without_tower(tensors))
    clip = ultra.save_clip(tmp_path / "clip", source)
    opened = open_published(folder, clip=clip, sam=sam, alpha=1, fresh=True)
    assert_same(opened, source)
    assert opened.model.config.template == "llava_med_v1"
    assert opened.model.config.projector_type == "linear"
    named = ultra.save(
        tmp_path / "med", {**fields, "mm_vision_tower": str(clip)}, ultra.without_tower(tensors)
    )
    assert_same(open_published(named, fresh=True), source)


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_converted_by_older_and_newer_versions_of_the_library(tmp_path, sam, kind):
    source = ultra.reference(kind)
    older = ultra.save(tmp_path / "older", *ultra.converted(source))
    source.save_pretrained(tmp_path / "newer")
    for folder in (older, tmp_path / "newer"):
        opened = open_published(folder, sam=sam, alpha=1, fresh=True, image_token_id=ultra.IMAGE)
        assert_same(opened, source)
        assert opened.layout == "converted"
        assert opened.model.config.template == {"llama": "vicuna_v1", "mistral": "mistral_instruct"}[kind]


def test_sam_arrives_and_is_looked_through(tmp_path):
    sam = ultra.save_sam(tmp_path / "sam")
    folder = ultra.save(tmp_path / "med", *ultra.original("llava_mistral", ultra.reference("mistral")))
    model = open_published(folder, sam=tmp_path / "sam", fresh=True).model
    pixels = ultra.pixels(2)
    with torch.no_grad():
        ours = model.model.sam_tower(pixels["sam_pixel_values"]).last_hidden_state
        theirs = sam.vision_encoder(pixels["sam_pixel_values"]).last_hidden_state
    assert torch.equal(ours, theirs)
    assert model.model.fusion.alpha.item() == 0.5
    assert (logits(model) - logits(ultra.reference("mistral"))).abs().max() > 1e-2


def test_a_difference_is_added_to_its_base(tmp_path):
    """LLaVA-Med v1: four rows more than LLaMA, whose 96 come first; the projector is taken as it is."""
    source = ultra.reference(projector="linear")
    fields, whole = ultra.original("llava", source)
    whole = ultra.without_tower(whole)
    torch.manual_seed(9)
    base = {n: t + 0.01 * torch.randn_like(t) for n, t in whole.items() if "mm_projector" not in n}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        base[name] = base[name][:96]
    difference = {name: tensor.clone() for name, tensor in whole.items()}
    for name, tensor in base.items():
        difference[name][: len(tensor)] -= tensor
    delta = ultra.save(tmp_path / "delta", fields, difference)
    llama = ultra.save(tmp_path / "llama", {**fields, "model_type": "llama", "vocab_size": 96}, base)
    clip = ultra.save_clip(tmp_path / "clip", source)
    opened = open_published(delta, base=llama, clip=clip, fresh=True)
    state = opened.model.state_dict()
    for name in ("lm_head.weight", "model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"):
        ours = name.replace("model.", "model.language_model.")
        assert torch.allclose(state[ours], whole[name], atol=1e-6)
    assert torch.equal(
        state["model.language_model.embed_tokens.weight"][96:], whole["model.embed_tokens.weight"][96:]
    )
    assert torch.equal(state["model.fusion.clip_projector.weight"], whole["model.mm_projector.weight"])
    assert_same(opened, source)

    with pytest.raises(CheckpointError, match="holds a difference.*give base="):
        open_published(delta, clip=clip, fresh=True)
    merged = ultra.save(tmp_path / "merged", fields, whole)
    with pytest.raises(CheckpointError, match="whole weights, not a difference"):
        open_published(merged, base=llama, clip=clip, fresh=True)
    base["model.norm.weight"] = torch.ones(7)
    ultra.save(tmp_path / "llama", {**fields, "model_type": "llama"}, base)
    with pytest.raises(
        CheckpointError, match=r"reshaped     model.language_model.norm.weight \(32,\).*\(7,\)"
    ):
        open_published(delta, base=llama, clip=clip, fresh=True)


def test_a_plain_decoder_needs_a_clip_and_gets_a_new_projector(tmp_path):
    """The only way to the paper's 13B: no LLaVA-Med of that size is public."""
    source = ultra.reference(projector="linear")
    fields, tensors = ultra.original("llava", source)
    llama = {n: t for n, t in ultra.without_tower(tensors).items() if "mm_projector" not in n}
    fields = {name: value for name, value in fields.items() if not name.startswith("mm_")}
    folder = ultra.save(tmp_path / "llama", {**fields, "model_type": "llama"}, llama)
    with pytest.raises(CheckpointError, match="names none: give clip="):
        open_published(folder, fresh=True)
    clip = ultra.save_clip(tmp_path / "clip", source)
    opened = open_published(folder, clip=clip, fresh=True, projector_type="mlp2x_gelu")
    assert opened.layout == "decoder"
    assert "model.fusion.clip_projector.2.weight" in opened.fresh
    assert logits(opened.model).isfinite().all()


def test_what_no_source_holds_is_listed_and_not_made_up(tmp_path, sam):
    folder = ultra.save(tmp_path, *ultra.original("llava_mistral", ultra.reference("mistral")))
    with pytest.raises(CheckpointError, match="fresh=True") as error:
        open_published(folder, sam=sam)
    for name in (*SCORE, "model.fusion.alpha", "model.fusion.sam_projector.2.weight"):
        assert name in str(error.value)
        assert name in error.value.message("zh")
    with pytest.raises(CheckpointError, match="model.fusion.sam_grid.first.weight"):
        open_published(folder, sam=sam, sam_pooling="convolution")
    with pytest.raises(CheckpointError) as error:
        open_published(folder)
    assert "sam" not in str(error.value).partition(":")[2]


DAMAGE = {
    "a layer's matrix": (
        {"model.layers.1.mlp.up_proj.weight": None},
        "missing      model.language_model.layers.1",
    ),
    "half of the projector": (
        {"model.mm_projector.2.bias": None},
        "missing      model.fusion.clip_projector.2.bias",
    ),
    "the embeddings": (
        {"model.embed_tokens.weight": None},
        "missing      model.language_model.embed_tokens.weight",
    ),
    "the head": ({"lm_head.weight": None}, "missing      lm_head.weight"),
    "the final norm": ({"model.norm.weight": None}, "missing      model.language_model.norm.weight"),
    "a vision layer's part": (
        {"model.vision_tower.vision_tower.vision_model.encoder.layers.1.mlp.fc2.bias": None},
        "missing      model.vision_tower.encoder.layers.1.mlp.fc2.bias",
    ),
    "a vision tower without positions": (
        {"model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight": None},
        "missing      model.vision_tower.embeddings.position_embedding.weight",
    ),
    "another vocabulary": (
        {"model.embed_tokens.weight": (90, 32)},
        r"reshaped     .*\(90, 32\), needed \(100, 32\)",
    ),
    "a layer too many": (
        {"model.layers.2.mlp.up_proj.weight": (48, 32)},
        "unexpected   model.language_model.layers.2",
    ),
    "a stranger": ({"image_newline": (32,)}, "unexpected   image_newline"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_never_made_good_by_fresh_weights(tmp_path, what):
    changes, listed = DAMAGE[what]
    fields, tensors = ultra.original("llava_mistral", ultra.reference("mistral"))
    for name, shape in changes.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=listed):
        open_published(ultra.save(tmp_path, fields, tensors), fresh=True)


@pytest.mark.parametrize(
    "fields, listed",
    [
        ({"model_type": "bert"}, "model_type 'bert'"),
        ({"mm_projector_type": "mlp3x_gelu"}, "projector_type is 'mlp3x_gelu'"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature is 'cls_patch'"),
    ],
)
def test_what_is_not_opened_is_said(tmp_path, fields, listed):
    config, tensors = ultra.original("llava_mistral", ultra.reference("mistral"), **fields)
    with pytest.raises(CheckpointError, match=listed):
        open_published(ultra.save(tmp_path, config, tensors), fresh=True)


def test_pickles_are_not_opened(tmp_path):
    fields, tensors = ultra.original("llava", ultra.reference(projector="linear"))
    ultra.save(tmp_path, fields, tensors)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pytorch_model.bin.*Convert them to safetensors"):
        open_published(tmp_path, fresh=True)


def test_its_own_weights_need_nothing(tmp_path):
    model = ultra.model()
    model.save_pretrained(tmp_path)
    opened = open_published(tmp_path)
    assert (opened.layout, opened.fresh) == ("own", ())
    assert torch.equal(logits(opened.model), logits(model))
    with pytest.raises(ValueError, match="a LLaVA-Ultra already"):
        open_published(tmp_path, alpha=1)


def adapter(folder, model, base, also=("fusion", "frame_score")):
    """A LoRA adapter in the decoder and whole modules beside it, all different from the base's; the model."""
    where = r".*language_model.*\.(q_proj|down_proj)"
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=where, modules_to_save=list(also))).eval()
    wrapped.peft_config["default"].base_model_name_or_path = str(base)
    torch.manual_seed(5)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    wrapped.save_pretrained(folder)
    return wrapped


def test_an_adapter_is_opened_on_the_base_that_it_names(tmp_path):
    ultra.model(template="mistral_instruct").save_pretrained(tmp_path / "base")
    before = logits(open_published(tmp_path / "base").model)
    wrapped = adapter(tmp_path / "lora", ultra.model(), tmp_path / "base")
    opened = open_published(tmp_path / "lora")
    assert torch.allclose(logits(opened.model), logits(wrapped), atol=1e-4)
    assert (logits(wrapped) - before).abs().max() > 0.1
    assert opened.model.model.frame_score.channel_weight.any()
    assert (opened.layout, opened.fresh) == ("own", ())
    assert opened.folders == (tmp_path / "lora", tmp_path / "base")
    assert opened.model.config.template == "mistral_instruct"
    ultra.model(text_config={"hidden_size": 64}).save_pretrained(tmp_path / "base")
    with pytest.raises(CheckpointError, match="does not fit its base"):
        open_published(tmp_path / "lora")


def test_an_adapter_may_bring_what_its_base_lacks(tmp_path, sam):
    """Trained on a LLaVA-Med: SAM's projector, alpha and the frame score come with the adapter."""
    med = ultra.save(tmp_path / "med", *ultra.original("llava_mistral", ultra.reference("mistral")))
    wrapped = adapter(tmp_path / "lora", open_published(med, sam=sam, fresh=True).model, med)
    opened = open_published(tmp_path / "lora", sam=sam)
    assert opened.fresh == () and torch.allclose(logits(opened.model), logits(wrapped), atol=1e-4)
    adapter(tmp_path / "half", open_published(med, sam=sam, fresh=True).model, med, also=["fusion"])
    with pytest.raises(CheckpointError, match="fresh=True") as error:
        open_published(tmp_path / "half", sam=sam)
    assert "model.frame_score.token_query" in str(error.value) and "alpha" not in str(error.value)


def test_opened_once_and_saved_it_is_its_own(tmp_path, sam):
    folder = ultra.save(tmp_path / "med", *ultra.original("llava_mistral", ultra.reference("mistral")))
    model = open_published(folder, sam=sam, fresh=True).model
    model.save_pretrained(tmp_path / "own")
    again = LlavaUltraForConditionalGeneration.from_pretrained(tmp_path / "own")
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    "fields, added, expected",
    [({}, None, 100), ({"mm_use_im_start_end": True}, None, 97), ({}, '{"<im_patch>": 55}', 55)],
)
def test_the_placeholder_for_image_tokens(tmp_path, fields, added, expected):
    folder = ultra.save(tmp_path, *ultra.original("llava_mistral", ultra.reference("mistral"), **fields))
    if added:
        (tmp_path / "added_tokens.json").write_text(added)
    assert open_published(folder, fresh=True).model.config.image_token_id == expected


def test_fields_of_the_published_v1_config(tmp_path):
    """bos 0, eos 1 and pad -1 as in microsoft/llava-med-7b-delta; the tokenizer has 1 and 2."""
    source = ultra.reference(projector="linear")
    extra = {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": -1,
        "max_sequence_length": 99,
        "rope_theta": 5e5,
    }
    fields, tensors = ultra.original("llava", source, **extra)
    del fields["max_position_embeddings"]
    folder = ultra.save(tmp_path, fields, tensors)
    model = open_published(folder, fresh=True).model
    text = model.config.text_config
    assert (text.bos_token_id, text.eos_token_id, text.pad_token_id) == (1, 2, None)
    assert text.max_position_embeddings == 99
    assert text.rope_parameters["rope_theta"] == 5e5
    assert model.generation_config.eos_token_id == 2
    wrong = {name: extra[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(wrong | {"max_new_tokens": 7}))
    found = open_published(folder, fresh=True).model.generation_config
    assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (1, 2, None)
    assert found.max_new_tokens == 7


def test_the_template_comes_from_the_config(tmp_path):
    fields, tensors = ultra.original("llava_mistral", ultra.reference("mistral"), template="their_own")
    folder = ultra.save(tmp_path / "llava_med_v1", fields, tensors)
    assert open_published(folder, fresh=True).model.config.template == "their_own"


def test_half_precision(tmp_path):
    source = ultra.reference("mistral")
    fields, tensors = ultra.original("llava_mistral", source)
    folder = ultra.save(tmp_path, fields, {name: t.bfloat16() for name, t in tensors.items()})
    model = open_published(folder, fresh=True, dtype=torch.bfloat16).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.lm_head.weight, tensors["lm_head.weight"].bfloat16())
