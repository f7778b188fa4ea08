"""Prompts read whole, in batches, alone and with shared beginnings are the same prompts."""

from pathlib import Path

import pytest
import seen
import tiny
import torch
from transformers.cache_utils import DynamicSlidingWindowLayer

from imaging.files import load_frames
from models.any_model import SuiteEncoder, open_any
from models.errors import ContextOverflow
from models.likelihood import Ask, Likelihood, _stems

EXAMPLES = Path(__file__).parents[1] / "apps" / "examples"
DEMO = "weights/demo/echovlm"
KINDS = (*tiny.ARCHITECTURES, "llava", "llava_next")
CANDIDATES = ((20,), (60, 70), (60, 70, 80), (90, 91))
FRAMES = tuple(tiny.frame(56 + 28 * (i % 2), 56 + 28 * i, seed=i) for i in range(3))


def opened(kind, folder, **text):
    found = open_any(
        str(tiny.save(folder, kind, **text) if kind in tiny.ARCHITECTURES else seen.save(folder, kind)),
        device="cpu",
    )
    if kind in tiny.ARCHITECTURES:
        with torch.no_grad():
            for parameter in found.model.parameters():
                parameter.mul_(3)  # untrained weights are so small that they say the same to everybody
    return Likelihood(found.model, found.encoder)


@pytest.fixture(scope="module", params=KINDS)
def likelihood(request, tmp_path_factory):
    return opened(request.param, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return opened("qwen2_vl", tmp_path_factory.mktemp("weights"))


def ask(frames, question, answer, candidates=CANDIDATES):
    content = [*({"type": "image"} for _ in frames), {"type": "text", "text": question}]
    begun = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    return Ask(({"role": "user", "content": content}, begun), tuple(frames), candidates)


def asks(frames=FRAMES):
    single = [
        ask([frame], question, answer)
        for frame in frames
        for question, answer in (
            ("Rate the quality.", "It is"),
            ("Rate the quality by clarity and noise.", "The clarity is"),
            ("Rate the quality by clarity and noise.", "The noise in this image is"),
            ("请评价", "质量是"),
        )
    ]
    return [*single, ask(frames[:2], "Which?", "Image"), ask(frames[1::-1], "Which?", "Image")]


def farthest(one, other):
    return max(
        (torch.tensor(a).exp() - torch.tensor(b).exp()).abs().max().item()
        for first, second in zip(one, other, strict=True)
        for a, b in zip(first, second, strict=True)
    )


def test_shared_batched_and_alone_are_equal(likelihood):
    wanted = asks()
    alone = [likelihood.of([each], share=False, rows=1)[0] for each in wanted]
    ways = [likelihood.of(wanted, share=share, rows=rows) for share in (True, False) for rows in (2, 16)]
    assert max(farthest(alone, way) for way in ways) < 1e-5
    likelihoods = {row[0] for row in alone}
    assert len(likelihoods) == len(wanted)  # images and words matter, so equality says something


def test_every_architecture_is_found_to_share(likelihood):
    likelihood.sharing = None
    likelihood.of(asks())
    assert likelihood.sharing and "agree" in likelihood.why


def test_demo_weights_are_equal_too():
    found = open_any(DEMO, device="cpu")
    demo = Likelihood(found.model, found.encoder)
    wanted = asks(load_frames(sorted(EXAMPLES.glob("*.png"))[:3]))
    alone = [demo.of([each], share=False, rows=1)[0] for each in wanted]
    assert farthest(alone, demo.of(wanted, share=True)) < 1e-5
    assert farthest(alone, demo.of(wanted, share=False)) < 1e-5


def test_the_numbers_are_the_library_s(likelihood):
    """Against a plain forward pass of the whole prompt with a candidate behind it, positions the model's."""
    model, encoder = likelihood.model, likelihood.encoder
    asked = ask(FRAMES[:1], "Rate.", "It is", ((20, 30),))
    image = encoder.image(FRAMES[0], None)
    ids = encoder.tokens(asked.messages, asked.frames, [image])
    inputs = {name: torch.tensor([[*values, *[0] * 2]]) for name, values in ids.items()}
    inputs["input_ids"][0, -2:] = torch.tensor([20, 30])
    with torch.no_grad():
        logits = model(**inputs, **image).logits[0].log_softmax(-1)
    wanted = (logits[-3, 20].item(), logits[-2, 30].item())
    for share in (True, False):
        assert likelihood.of([asked], share=share)[0][0] == pytest.approx(wanted, abs=1e-4)


def test_nothing_of_one_image_reaches_another(qwen):
    wanted = asks()
    together = qwen.of(wanted, share=True)
    changed = qwen.of(asks((*FRAMES[:2], tiny.frame(56, 112, seed=9))), share=True)
    assert farthest(together[:8], changed[:8]) < 1e-6 and farthest(together[8:12], changed[8:12]) > 1e-6


def test_an_image_is_seen_once_and_its_beginning_read_once(qwen, monkeypatch):
    tower, model = qwen.model.model.visual, qwen.model
    images, tokens = [], []
    real_tower, real_forward = tower.forward, model.forward
    monkeypatch.setattr(
        tower, "forward", lambda *a, **k: (images.append(len(k["grid_thw"])), real_tower(*a, **k))[1]
    )
    monkeypatch.setattr(
        model, "forward", lambda **k: (tokens.append(int(k["input_ids"].numel())), real_forward(**k))[1]
    )
    qwen.of(asks(), share=True)
    assert sum(images) == len(FRAMES)
    shared = sum(tokens)
    images.clear(), tokens.clear()
    qwen.of(asks(), share=False)
    assert sum(images) > len(FRAMES) and sum(tokens) > 2 * shared


def test_a_model_that_reads_both_ways_differently_reads_whole(tmp_path, monkeypatch):
    model = opened("qwen2_vl", tmp_path)
    real = Likelihood._batch

    def shifted(self, pieces):  # an end that does not stand where it stands in the whole prompt
        batch = real(self, pieces)
        if pieces[0][1] > 0:
            batch["position_ids"] += 7
        return batch

    whole = model.of(asks(), share=False)
    monkeypatch.setattr(Likelihood, "_batch", shifted)
    assert farthest(whole, model.of(asks())) < 1e-6
    assert model.sharing is False and "do not agree" in model.why


def test_images_of_several_tiles_are_read_whole(tmp_path):
    model = opened("internvl", tmp_path)
    wanted = asks()
    alone = [model.of([each], share=False, rows=1)[0] for each in wanted]
    assert farthest(alone, model.of(wanted)) < 1e-5
    assert model.sharing is False and "cannot share a beginning" in model.why
    assert len({row[0] for row in alone}) == len(wanted)


def test_a_cache_of_another_kind_is_read_whole(tmp_path, monkeypatch):
    model = opened("qwen2_vl", tmp_path)
    monkeypatch.setattr("models.likelihood.DynamicLayer", DynamicSlidingWindowLayer)
    whole = model.of(asks(), share=False)
    assert model.of(asks()) == whole and "keys and values alone" in model.why


def test_a_model_that_takes_no_encoded_images_is_read_whole(tmp_path):
    model = opened("qwen2_vl", tmp_path)
    model._takes_features = False
    assert model.of(asks()) == model.of(asks(), share=False)
    assert model.sharing is False and "encoded already" in model.why


def test_out_of_memory_is_no_reason_to_read_whole(tmp_path, monkeypatch):
    model = opened("qwen2_vl", tmp_path)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "_see", full)
    with pytest.raises(torch.OutOfMemoryError):
        model.of(asks())


@pytest.mark.parametrize(
    ("candidates", "stems"),
    [
        (((1,), (2,)), [()]),
        (((1,), (2, 3)), [(2,)]),
        (((1, 2, 3), (1, 4), (5, 6)), [(1, 2), (5,)]),
    ],
)
def test_one_reading_rates_all_candidates_on_its_way(candidates, stems):
    assert _stems(candidates) == stems


def test_a_prompt_longer_than_the_model_is_refused(tmp_path):
    short = opened("qwen2_vl", tmp_path, max_position_embeddings=40)
    with pytest.raises(ContextOverflow, match="at most 40"):
        short.of(asks(), share=False)


def test_prompts_to_be_continued_are_what_generate_reads(likelihood):
    """Greedy words behind a batch are the likeliest words, one by one."""
    wanted = [ask([frame], "Rate.", "It is", ()) for frame in FRAMES]
    inputs = likelihood.inputs(wanted)
    with torch.no_grad():
        written = likelihood.model.generate(**inputs, do_sample=False, max_new_tokens=1)[:, -1].tolist()
    every = tuple((token,) for token in range(likelihood.model.get_output_embeddings().weight.shape[0]))
    for asked, token in zip(wanted, written, strict=True):
        (found,) = likelihood.of([Ask(asked.messages, asked.frames, every)], share=False)
        assert max(range(len(every)), key=lambda i, found=found: found[i][0]) == token


def test_an_open_answer_ends_with_its_last_word(qwen):
    encoder = qwen.encoder
    assert isinstance(encoder, SuiteEncoder)
    begun = encoder.tokens(ask((), "Rate.", "It is").messages, (), ())["input_ids"]
    longer = encoder.tokens(ask((), "Rate.", "It is so").messages, (), ())["input_ids"]
    assert encoder.decode(begun).endswith("It is") and longer[: len(begun)] == begun
