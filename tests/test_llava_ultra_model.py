"""The model as a whole: what goes in, what is computed once, what learns, what is saved."""

import pytest
import torch
import ultra
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForImageTextToText

from assistants.llava_ultra import LlavaUltraConfig, LlavaUltraForConditionalGeneration
from models.checkpoint import CheckpointError, certify, load_model, model_class_for, read_json
from models.errors import ContextOverflow

GREEDY = {"do_sample": False, "max_new_tokens": 8}


def test_alpha_one_is_the_clip_only_model_bit_for_bit():
    both = ultra.model(alpha=1)
    alone = ultra.model(sam_config=None)
    shared = {n: t for n, t in both.state_dict().items() if n in alone.state_dict()}
    alone.load_state_dict(shared)
    images = ultra.pixels(2)
    batch = ultra.prompt(images=2)
    with torch.no_grad():
        expected = alone(**batch, pixel_values=images["pixel_values"]).logits
        assert torch.equal(both(**batch, **images).logits, expected)
        both.model.sam_tower.forward = None  # not so much as called
        assert torch.equal(both(**batch, pixel_values=images["pixel_values"]).logits, expected)


def test_sam_counts_below_alpha_one():
    model = ultra.model(alpha=0.9)
    images = ultra.pixels()
    other = {**images, "sam_pixel_values": images["sam_pixel_values"].flip(-1)}
    with torch.no_grad():
        assert not torch.allclose(
            model(**ultra.prompt(), **images).logits, model(**ultra.prompt(), **other).logits
        )
    with pytest.raises(ValueError, match="sam_pixel_values beside pixel_values"):
        model(**ultra.prompt(), pixel_values=images["pixel_values"])


def test_clip_is_taken_from_the_penultimate_layer_without_its_class_token():
    model = ultra.model(sam_config=None)
    pixels = ultra.pixels(2)["pixel_values"]
    with torch.no_grad():
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        assert len(states) == 4  # the input of three layers, and the last one's output
        expected = model.model.fusion.clip_projector(states[2][:, 1:])
        assert torch.equal(model.image_features(pixels), expected)


@pytest.mark.parametrize("layer, run", [(-1, 3), (-2, 2), (1, 1), (0, 0)])
def test_clips_layers_above_the_one_that_is_read_are_not_run(layer, run):
    tower = ultra.model().model.vision_tower
    pixels, passes = ultra.pixels(2)["pixel_values"], []
    with torch.no_grad():
        expected = tower(pixels, output_hidden_states=True).hidden_states[layer]
        for block in tower.encoder.layers:
            block.register_forward_hook(lambda *_: passes.append(1))
        assert torch.equal(tower.tokens(pixels, layer), expected) and len(passes) == run


def test_k_frames_cost_one_batched_pass_of_each_encoder():
    model = ultra.model()
    passes = []
    for seen in (model.model.vision_tower.embeddings, model.model.sam_tower.vision_encoder.patch_embed):
        seen.register_forward_hook(lambda module, given, made: passes.append(len(made)))
    images = ultra.pixels(5)
    with torch.no_grad():
        features = model.image_features(**images)
        assert passes == [5, 5]
        one_by_one = [
            model.image_features(*(values[i : i + 1] for values in images.values())) for i in range(5)
        ]
    assert features.shape == (5, ultra.TOKENS, 32)
    assert torch.allclose(features, torch.cat(one_by_one), atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize("given", ["pixels", "features"])
def test_generation_with_a_cache_is_generation_without(kind, given):
    model = ultra.model(text_config={"model_type": kind})
    images = ultra.pixels(2)
    passes = []
    model.model.vision_tower.embeddings.register_forward_hook(lambda *_: passes.append(1))
    if given == "features":
        with torch.no_grad():
            images = {"image_features": model.image_features(**images)}
        passes.clear()
    batch = ultra.prompt(images=2)
    cached = model.generate(**batch, **images, **GREEDY)
    assert len(passes) == (given == "pixels")
    assert torch.equal(cached, model.generate(**batch, **images, **GREEDY, use_cache=False))
    assert cached.shape[1] == batch["input_ids"].shape[1] + 8
    ids = batch["input_ids"]
    for _ in range(8):  # and it is what one full pass after another says
        with torch.no_grad():
            word = model(input_ids=ids, **images).logits[:, -1].argmax(-1)
        ids = torch.cat([ids, word[:, None]], dim=1)
    assert torch.equal(cached, ids)


def test_a_batch_padded_on_the_left_says_what_each_row_says_alone():
    model = ultra.model()
    images = ultra.pixels(3)
    long, short = ultra.prompt(images=2), ultra.prompt(images=1)
    gap = long["input_ids"].shape[1] - short["input_ids"].shape[1]
    batch = {
        name: torch.cat([long[name], torch.nn.functional.pad(short[name], (gap, 0))])
        for name in ("input_ids", "attention_mask")
    }
    together = model.generate(**batch, **images, **GREEDY)[:, -8:]
    first = model.generate(**long, **{n: v[:2] for n, v in images.items()}, **GREEDY)[0, -8:]
    second = model.generate(**short, **{n: v[2:] for n, v in images.items()}, **GREEDY)[0, -8:]
    assert torch.equal(together, torch.stack([first, second]))


@torch.no_grad()
def test_half_precision():
    """Pixels stay float32; scores are float32 and near those of full precision."""
    model, half = ultra.model(alpha=0.3), ultra.model(alpha=0.3).bfloat16()
    images = ultra.pixels(3)
    features = half.image_features(**images)
    assert features.dtype == torch.bfloat16
    assert torch.allclose(features.float(), model.image_features(**images), atol=0.05)
    words = torch.tensor([5, 9, 33, 7])
    expected = model.attention_scores(model.image_features(**images), words)
    scores = half.attention_scores(features, words)
    assert scores.dtype == torch.float32
    assert torch.allclose(scores, expected, atol=0.05)
    assert half.generate(**ultra.prompt(images=3), **images, **GREEDY).shape == (1, 63)


def test_text_alone():
    model = ultra.model()
    ids = torch.tensor([[1, 5, 7]])
    assert model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **GREEDY).shape == (1, 11)


@pytest.mark.parametrize("places, images", [(1, 2), (2, 1), (1, 0), (0, 1)])
def test_placeholders_and_images_must_agree(places, images):
    given = ultra.pixels(images) if images else {}
    with pytest.raises(ValueError, match=f"{places * 16} places for image tokens, the images {images * 16}"):
        ultra.model()(**ultra.prompt(images=places), **given)


def test_contradictory_arguments():
    model = ultra.model()
    with pytest.raises(ValueError, match="either pixel_values or image_features"):
        model(**ultra.prompt(), **ultra.pixels(), image_features=torch.zeros(1, 16, 32))
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(**ultra.pixels())


def test_the_loss_is_that_of_the_next_word():
    model = ultra.model()
    batch = ultra.prompt()
    labels = batch["input_ids"].clone()
    labels[:, :-3] = -100
    with torch.no_grad():
        made = model(**batch, **ultra.pixels(), labels=labels)
        expected = torch.nn.functional.cross_entropy(made.logits[0, -4:-1], labels[0, -3:])
        assert torch.allclose(made.loss, expected)
        last = model(**batch, **ultra.pixels(), logits_to_keep=1).logits
    assert torch.allclose(last, made.logits[:, -1:], atol=1e-5)


# --- what learns --------------------------------------------------------------------------------------------


def loss_of(model):
    batch = ultra.prompt()
    return model(
        **batch, **ultra.pixels(), labels=batch["input_ids"].masked_fill(batch["input_ids"] == 100, -100)
    ).loss


@pytest.mark.parametrize("alpha", [0.5, 1])
def test_only_what_is_not_frozen_gets_gradients(alpha):
    """Stage 1: both projectors and alpha; encoders and language model frozen (section 3.1)."""
    model = ultra.model(alpha=alpha).train()
    model.requires_grad_(False)
    model.model.fusion.requires_grad_(True)
    loss_of(model).backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    fusion = {name for name, _ in model.named_parameters() if ".fusion." in name}
    at_one = {name for name in fusion if "sam_projector" in name and alpha == 1}  # its factor is 1 - alpha
    assert learned == fusion - at_one
    assert "model.fusion.alpha" in learned


def test_everything_learns_when_nothing_is_frozen():
    model = ultra.model().train()
    features = model.image_features(**ultra.pixels(2))
    with torch.no_grad():
        model.model.frame_score.channel_weight.normal_()
    (loss_of(model) + model.feature_scores(features)[0]).backward()
    untouched = {name for name, p in model.named_parameters() if p.grad is None}
    last = {
        name for name in untouched if ".vision_tower.encoder.layers.2." in name or "post_layernorm" in name
    }
    assert untouched == last  # behind the penultimate layer


def test_the_score_learns_and_passes_its_gradient_on_to_projectors_and_alpha():
    model = ultra.model().train()
    with torch.no_grad():
        model.model.frame_score.channel_weight.normal_()
    model.feature_scores(model.image_features(**ultra.pixels(3)))[1].backward()
    for name in ("frame_score.token_query", "fusion.alpha", "fusion.sam_projector.0.weight"):
        assert model.get_parameter(f"model.{name}").grad.abs().sum() > 0, name


def test_gradient_checkpointing_gives_the_same_gradients():
    model = ultra.model().train()
    loss_of(model).backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.activation_checkpointing_enable()
    loss_of(model).backward()
    again = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert again.keys() == plain.keys()
    assert all(torch.allclose(again[name], plain[name], atol=1e-6) for name in plain)


def test_lora_through_peft(tmp_path):
    """Adapters in the decoder alone, whose layers share names with CLIP's, and the fusion beside them."""
    batch = {**ultra.prompt(), **ultra.pixels()}
    model = ultra.model()
    expected = model(**batch).logits
    where = r".*language_model.*\.(q_proj|v_proj)"
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=where, modules_to_save=["fusion"])).eval()
    assert torch.allclose(adapted(**batch).logits, expected, atol=1e-4)
    learning = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert any("lora_A" in name for name in learning) and any("alpha" in name for name in learning)
    assert not any("tower" in name for name in learning)
    with torch.no_grad():
        for name, parameter in learning.items():
            parameter.fill_(1.0) if "alpha" in name else parameter.add_(0.05)
    changed = adapted(**batch).logits
    without_sam = {name: tensor for name, tensor in batch.items() if name != "sam_pixel_values"}
    assert torch.equal(adapted(**without_sam).logits, changed)  # alpha = 1: the adapter's fusion decides
    adapted.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(ultra.model(), tmp_path).eval()
    assert torch.allclose(again(**batch).logits, changed, atol=1e-5)
    assert torch.equal(again.generate(**batch, **GREEDY), adapted.generate(**batch, **GREEDY))


def test_a_new_sam_starts_with_weights_that_can_learn():
    """The library's own start, a deviation of 1e-10, would never leave zero."""
    plain = {name: value for name, value in ultra.SAM.items() if name != "initializer_range"}
    model = ultra.model(sam_config=plain)
    assert 0.01 < model.model.sam_tower.vision_encoder.layers[0].attn.qkv.weight.std() < 0.03


# --- what the scores say ------------------------------------------------------------------------------------


def test_both_scores_give_one_number_a_frame_and_follow_the_order_of_frames():
    model = ultra.model()
    words = torch.tensor([5, 9, 33, 7])
    with torch.no_grad():
        model.model.frame_score.channel_weight.normal_()
        features = model.image_features(**ultra.pixels(4))
        for scores in (model.feature_scores, lambda f: model.attention_scores(f, words)):
            forwards, backwards = scores(features), scores(features.flip(0))
            assert forwards.shape == (4,)
            assert torch.allclose(forwards, backwards.flip(0), atol=1e-5)
            assert forwards.std() > 0


def test_an_untrained_score_prefers_no_frame():
    model = ultra.model()
    with torch.no_grad():
        scores = model.feature_scores(model.image_features(**ultra.pixels(3)))
    assert scores.tolist() == [0, 0, 0]


def test_findings_longer_than_the_context():
    model = ultra.model()
    with pytest.raises(ContextOverflow, match="120 tokens and a frame 16, together 136.*at most 128"):
        model.attention_scores(torch.zeros(2, 16, 32), torch.ones(120, dtype=torch.long))


# --- saved and opened again ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sam_config": None},
        {"sam_pooling": "convolution", "projector_type": "linear"},
        {"text_config": {"model_type": "mistral", "tie_word_embeddings": True}},
    ],
)
def test_saved_and_opened_again_it_is_the_same(tmp_path, changes):
    model = ultra.model(alpha=0.3, template="their_own", **changes)
    with torch.no_grad():
        model.model.frame_score.channel_weight.normal_()
    model.save_pretrained(tmp_path)
    again = LlavaUltraForConditionalGeneration.from_pretrained(tmp_path)
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    for field in (*ultra.FIELDS, "tie_word_embeddings"):
        assert getattr(again.config, field) == getattr(model.config, field), field
    assert (again.config.sam_config is None) is (model.config.sam_config is None)
    with torch.no_grad():
        batch = {**ultra.prompt(), **ultra.pixels()}
        assert torch.equal(again(**batch).logits, model(**batch).logits)
    tied = again.config.tie_word_embeddings
    assert (again.lm_head.weight is again.get_input_embeddings().weight) is tied
    assert certify(tmp_path).faults == ()


def test_the_suite_and_the_library_find_the_class(tmp_path):
    ultra.model().save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), LlavaUltraConfig)
    assert type(AutoModelForImageTextToText.from_pretrained(tmp_path)) is LlavaUltraForConditionalGeneration
    found = model_class_for(read_json(tmp_path / "config.json"))
    assert found is LlavaUltraForConditionalGeneration
    assert not load_model(found, tmp_path, dtype=torch.float32, device="cpu").training


def test_a_missing_tensor_is_named_and_nothing_is_loaded(tmp_path):
    model = ultra.model()
    state = model.state_dict()
    for name in ("model.fusion.alpha", "model.frame_score.token_query"):
        del state[name]
    ultra.save(
        tmp_path, model.config.to_dict() | {"architectures": [type(model).__name__], "dtype": None}, state
    )
    with pytest.raises(CheckpointError) as error:
        LlavaUltraForConditionalGeneration.from_pretrained(tmp_path)
    assert "missing      model.fusion.alpha" in str(error.value)
    assert "missing      model.frame_score.token_query" in str(error.value)


def test_a_configuration_cannot_ask_for_more_than_the_folder_has(tmp_path):
    ultra.model(sam_config=None).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="model.fusion.alpha"):
        LlavaUltraForConditionalGeneration.from_pretrained(tmp_path, config=ultra.config())


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"alpha": 1.2}, "alpha is 1.2"),
        ({"keep": 0}, "keep is 0"),
        ({"attention_layers": 3}, "attention_layers is 3, not between 1 and 2"),
        ({"projector_type": "mlp9"}, "projector_type is 'mlp9', not one of linear, mlp2x_gelu"),
        ({"sam_pooling": "max"}, "sam_pooling is 'max'"),
        ({"image_geometry": "crop"}, "image_geometry is 'crop'"),
        ({"text_config": {"model_type": "gpt2"}}, "text_config.model_type is 'gpt2'"),
    ],
)
def test_a_configuration_that_means_nothing(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        ultra.config(**changes)


def test_the_papers_sizes():
    """CLIP L/14 at 224 and 336 pixels before SAM ViT-L and a 13B LLaMA, without memory behind them."""
    text = {"model_type": "llama", "hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40}
    sam = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "mlp_dim": 4096}
    sam["global_attn_indexes"] = [5, 11, 17, 23]
    for size, tokens in ((224, 256), (336, 576)):
        config = LlavaUltraConfig(text_config={**text, "num_hidden_layers": 2}, sam_config=sam)
        config.vision_config.image_size = size
        with torch.device("meta"):
            fusion = LlavaUltraForConditionalGeneration(config).model.fusion
            made = fusion(torch.empty(3, tokens, 1024), torch.empty(3, 256, 64, 64))
        assert made.shape == (3, tokens, 5120)
        assert config.image_tokens == tokens
