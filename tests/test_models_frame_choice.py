"""Which frame, by whom, and on what grounds."""

import math

import numpy as np
import pytest
import tiny
import torch
import ultra
from torch import nn
from transformers import AutoModel, LlamaConfig, MistralConfig

from imaging.frame import Frame
from models import frame_choice
from models.encoding import Encoder
from models.errors import ContextOverflow
from models.frame_choice import attention_scores, choose, normalise, overrule, redundant


@pytest.mark.parametrize(
    "scores, keep, kept",
    [
        ([1.0, 3.0, 2.0], 1, (1,)),
        ([1.0, 3.0, 2.0], 2, (1, 2)),
        ([2.0, 1.0, 3.0], 2, (0, 2)),  # their own order, not that of the scores
        ([2.0, 2.0, 2.0], 1, (0,)),  # of equals the earlier
        ([1.0, 2.0, 2.0, 2.0], 2, (1, 2)),
        ([1.0], 5, (0,)),
        ([-1000.0, -1000.5], 1, (0,)),
    ],
)
def test_the_highest_scores_are_kept_in_their_own_order(scores, keep, kept):
    selection = choose(torch.tensor(scores), keep, "feature")
    assert selection.kept == kept
    assert sum(selection.scores) == pytest.approx(1)
    assert len(selection.scores) == len(scores)
    assert choose(scores, keep, "feature") == selection


def test_the_choice_does_not_depend_on_the_order_of_frames():
    torch.manual_seed(0)
    scores = torch.randn(7)
    order = torch.randperm(7)
    shuffled = choose(scores[order], 3, "attention").kept
    assert sorted(order[list(shuffled)].tolist()) == list(choose(scores, 3, "attention").kept)


@pytest.mark.parametrize(
    "scores, keep, how",
    [([], 1, "feature"), ([1.0, math.nan], 1, "feature"), ([1.0], 0, "feature"), ([1.0], 1, "x")],
)
def test_a_choice_that_cannot_be_made(scores, keep, how):
    with pytest.raises(ValueError):
        choose(torch.tensor(scores), keep, how)


def test_a_person_may_overrule():
    selection = choose([1.0, 3.0, 2.0], 1, "feature")
    changed = overrule(selection, [2, 0, 2])
    assert (changed.kept, changed.how, changed.scores) == ((0, 2), "person", selection.scores)
    for wrong in ([], [3], [-1]):
        with pytest.raises(ValueError, match="frames 0 to 2"):
            overrule(selection, wrong)


# --- Eq. 4 --------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A decoder of one head of width 2 that changes nothing: keys are the tokens themselves."""

    def __init__(self):
        super().__init__()
        self.config = LlamaConfig(hidden_size=2, num_attention_heads=1, num_hidden_layers=1, vocab_size=3)
        self.config._attn_implementation = "sdpa"
        attention = nn.Module()
        attention.q_proj = attention.k_proj = nn.Identity()
        attention.head_dim, attention.scaling = 2, 1.0
        layer = nn.Module()
        layer.self_attn, layer.input_layernorm = attention, nn.Identity()
        self.layers = nn.ModuleList([layer])

    def rotary_emb(self, hidden, positions):
        return torch.ones(1, positions.shape[1], 2), torch.zeros(1, positions.shape[1], 2)  # no rotation


def test_equation_4_by_hand():
    """q = (1, 0). Frame 0's tokens give exp 0 twice: mean 1. Frame 1's 5 and 1: mean 3. Shares 1/4, 3/4."""
    features = torch.tensor([[[0.0, 7.0], [0.0, -7.0]], [[math.log(5), 0.0], [0.0, 3.0]]])
    scores = attention_scores(features, torch.tensor([[1.0, 0.0]]), Plain(), 1)
    assert torch.allclose(scores.exp(), torch.tensor([0.25, 0.75]), atol=1e-6)
    assert torch.allclose(normalise(scores), torch.tensor([0.25, 0.75]), atol=1e-6)


def test_longer_frames_have_no_advantage():
    short, long = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]] * 6)
    scores = attention_scores([short, long], torch.tensor([[1.0, 0.0], [0.0, 1.0]]), Plain(), 1)
    assert torch.allclose(scores.exp(), torch.tensor([0.5, 0.5]), atol=1e-6)


def decoder(config_class=LlamaConfig, **changes):
    torch.manual_seed(0)
    fields = {k: v for k, v in ultra.TEXT.items() if k != "num_hidden_layers"}
    return AutoModel.from_config(config_class(**fields, num_hidden_layers=3, **changes)).eval()


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("config_class", [LlamaConfig, MistralConfig])
@torch.no_grad()
def test_it_is_the_attention_that_the_layers_themselves_compute(config_class, kernel):
    """From the library's own eager attention maps: weights of text on image tokens, unnormalised against
    the row's first image token, whose logit all frames are made to share."""
    model = decoder(config_class, attn_implementation=kernel)
    torch.manual_seed(1)
    features, text = torch.randn(3, 5, 32), torch.randn(4, 32)
    scores = attention_scores(features, text, model, 3)
    assert torch.allclose(scores.exp().sum(), torch.tensor(1.0), atol=1e-5)
    model.set_attn_implementation("eager")
    rows = torch.cat([features, text.expand(3, -1, -1)], dim=1)
    maps = model(inputs_embeds=rows, output_attentions=True).attentions
    states = model(inputs_embeds=rows, output_hidden_states=True).hidden_states
    shares = []
    for layer, weights, hidden in zip(model.layers, maps, states[:3], strict=True):
        part = weights[:, :, 5:, :5]  # [k, heads, L, T]
        first = _first_logit(model, layer, hidden)  # [k, heads, L]
        strength = (part / part[..., :1]).mean(dim=-1) * first.exp()
        shares.append((strength / strength.sum(dim=0)).mean(dim=(1, 2)))
    assert torch.allclose(scores.exp(), torch.stack(shares).mean(dim=0), atol=1e-4)


def _first_logit(model, layer, hidden):
    """q . k / sqrt(d) of every text token with the first token of its row, at position 0: unrotated."""
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    key = attention.k_proj(normed[:, 0]).view(3, 2, 8).repeat_interleave(2, dim=1)  # [k, heads, d]
    query = attention.q_proj(normed[:, 5:]).view(3, 4, 4, 8)  # [k, L, heads, d]
    cos, sin = model.rotary_emb(hidden, torch.arange(5, 9)[None])
    half = torch.cat([-query[..., 4:], query[..., :4]], dim=-1)
    query = query * cos[0, None, :, None] + half * sin[0, None, :, None]
    return torch.einsum("klhd,khd->khl", query, key) / math.sqrt(8)


@torch.no_grad()
def test_padding_a_short_frame_changes_nothing():
    model = decoder()
    torch.manual_seed(1)
    long, short, text = torch.randn(6, 32), torch.randn(4, 32), torch.randn(3, 32)
    together = attention_scores([short, short, long], text, model, 2)
    alone = attention_scores([short, short], text, model, 2)
    assert together[0] == pytest.approx(together[1].item(), abs=1e-6)
    assert torch.allclose(alone.exp(), torch.tensor([0.5, 0.5]), atol=1e-6)
    swapped = attention_scores([long, short, short], text, model, 2)
    assert torch.allclose(swapped, together[[2, 0, 1]], atol=1e-5)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@torch.no_grad()
def test_no_layer_sees_the_padding(kernel):
    """What comes out of the first layer for a short frame and its text is the same beside a longer frame."""
    model = decoder(attn_implementation=kernel)
    seen = []
    model.layers[0].register_forward_hook(lambda module, given, made: seen.append(made[0, -7:]))
    torch.manual_seed(1)
    long, short, text = torch.randn(6, 32), torch.randn(4, 32), torch.randn(3, 32)
    for frames in ([short], [short, long]):
        attention_scores(frames, text, model, 2)
    assert torch.allclose(*seen, atol=1e-5)


@torch.no_grad()
def test_only_the_first_layers_are_asked():
    model = decoder()
    torch.manual_seed(1)
    features, text = torch.randn(2, 5, 32), torch.randn(3, 32)
    before = attention_scores(features, text, model, 2)
    nn.init.normal_(model.layers[2].self_attn.q_proj.weight)
    assert torch.equal(attention_scores(features, text, model, 2), before)
    nn.init.normal_(model.layers[1].self_attn.q_proj.weight)
    assert not torch.equal(attention_scores(features, text, model, 2), before)


def test_very_unlike_frames_still_have_finite_scores():
    features = torch.tensor([[[400.0, 0.0]], [[-400.0, 0.0]]])
    scores = attention_scores(features, torch.tensor([[1.0, 0.0]]), Plain(), 1)
    assert scores.isfinite().all()
    assert choose(scores, 1, "attention").kept == (0,)


def test_a_text_longer_than_the_context_is_refused_with_both_numbers():
    with pytest.raises(ContextOverflow, match="124 tokens.*frame 5, together 129.*at most 128") as error:
        attention_scores(torch.zeros(2, 5, 32), torch.zeros(124, 32), decoder(), 2)
    assert "129" in error.value.message("zh") and "128" in error.value.message("zh")


@pytest.mark.parametrize("frames, words, layers", [(0, 3, 1), (2, 0, 1), (2, 3, 0), (2, 3, 4)])
def test_nothing_to_compare(frames, words, layers):
    with pytest.raises(ValueError):
        attention_scores(torch.zeros(frames, 5, 32), torch.zeros(words, 32), decoder(), layers)


@pytest.mark.parametrize("architecture", ["qwen2_vl", "qwen2_5_vl", "echovlm"])
@torch.no_grad()
def test_in_front_of_any_backbone(architecture):
    """Frames of two sizes before Qwen2-VL's decoder and its relatives; EchoVLM's layers hold experts."""
    torch.manual_seed(0)
    vocabulary = tiny.tokenizer()
    model = tiny.model(vocabulary, architecture).eval()
    encoder = Encoder(vocabulary, tiny.image_processor(), model.config.image_token_id)
    images = encoder.encode_images([tiny.frame(84, 84), tiny.frame(56, 112, seed=1), tiny.frame(84, 84)])
    features = model.get_image_features(images["pixel_values"], images["image_grid_thw"]).pooler_output
    text = model.get_input_embeddings()(torch.tensor(vocabulary("Which frame shows a nodule?").input_ids))
    scores = attention_scores(features, text, model.model.language_model, 2)
    assert scores.shape == (3,)
    assert scores[0] == pytest.approx(scores[2].item(), abs=1e-5)
    assert scores.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert not torch.isclose(scores[0], scores[1], atol=1e-6)


def test_all_frames_go_through_a_layer_in_one_batch():
    model = decoder()
    batches = []
    model.layers[0].register_forward_hook(lambda module, given, made: batches.append(len(given[0])))
    with torch.no_grad():
        attention_scores(torch.randn(5, 4, 32), torch.randn(3, 32), model, 2)
    assert batches == [5]


# --- near-identical frames ----------------------------------------------------------------------------------


def picture(seed, height=96, width=128):
    """Blurred noise: large patches, as tissue has."""
    small = np.random.default_rng(seed).integers(0, 200, (6, 8), dtype=np.uint8)
    return np.kron(small, np.ones((height // 6, width // 8))).astype(np.uint8)


def frame(grey):
    return Frame(np.repeat(grey[..., None], 3, axis=2).copy(), None, "still.png")


def test_near_identical_frames_are_grouped():
    first, second = picture(0), picture(1)
    noise = np.random.default_rng(2).integers(0, 12, first.shape, dtype=np.uint8)
    brighter = (first * 0.8 + 40).astype(np.uint8)
    frames = [first, second, first + noise, brighter, second, picture(3), picture(0, 48, 64)]
    assert redundant([frame(grey) for grey in frames]) == ((0, 2, 3, 6), (1, 4))


def test_frames_that_differ_stand_alone():
    assert redundant([frame(picture(seed)) for seed in range(8)]) == ()
    assert redundant([]) == ()


def test_black_frames_are_alike_and_unlike_all_others():
    black, grey = np.zeros((40, 40), np.uint8), np.full((40, 40), 90, np.uint8)
    frames = [frame(black), frame(picture(0)), frame(black), frame(grey)]
    assert redundant(frames) == ((0, 2),)


def test_the_first_member_decides_so_that_a_slow_sweep_is_not_one_group():
    start, end = picture(0).astype(float), picture(1).astype(float)
    sweep = [frame(((1 - t) * start + t * end).astype(np.uint8)) for t in np.linspace(0, 1, 12)]
    groups = redundant(sweep, 0.98)
    assert len(groups) > 1
    assert redundant(sweep, 1.1) == ()


def test_what_the_thumbnail_is_too_small_for(monkeypatch):
    """Ten pixels in a frame of 600 x 800: marked as near-identical, which is why no frame is ever dropped."""
    with_lesion = picture(0, 600, 800)
    with_lesion[300:310, 400:410] = 255
    assert redundant([frame(picture(0, 600, 800)), frame(with_lesion)]) == ((0, 1),)
    monkeypatch.setattr(frame_choice, "THUMBNAIL", 200)
    assert redundant([frame(picture(0, 600, 800)), frame(with_lesion)], 0.9999) == ()
