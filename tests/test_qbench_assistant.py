"""A turn with images becomes ratings: on tiny random weights, the demo weights and a chat service."""

import json
import math
from dataclasses import asdict

import pytest
import tiny
import torch

from assistants.base import Reply, Settings, Turn, open_assistant
from assistants.qbench import levels, prompts
from assistants.qbench.assistant import QBenchAssistant
from assistants.qbench.clustering import FILE, fit, save
from assistants.qbench.reading import RemoteReader
from models.endpoint import Said
from models.errors import ModelError, OutOfMemory
from models.familiarity import Familiarity, vision_features

ONE, TWO, THREE = (tiny.frame(seed=seed) for seed in range(3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("weights"), "qwen2_vl")


@pytest.fixture(scope="module")
def rater(folder):
    opened = QBenchAssistant.open(str(folder), device="cpu")
    with torch.no_grad():
        for parameter in opened.reader.likelihood.model.parameters():
            parameter.mul_(3)  # untrained weights are so small that they say the same to everybody
    return opened


def last(rater, turn):
    return list(rater.stream(turn))[-1]


def test_one_image_is_rated_by_all_four_prompts(rater):
    reply = last(rater, Turn("", (ONE,), "quality"))
    assert isinstance(reply, Reply) and reply.finished and reply.prompt == "basic"
    assert sum(reply.probabilities.values()) == pytest.approx(1)
    weighted = sum(prompts.weights()[level] * share for level, share in reply.probabilities.items())
    assert reply.score == pytest.approx(weighted) and 0 <= reply.score <= 10
    assert reply.level == max(reply.probabilities, key=reply.probabilities.get)
    assert list(reply.by_prompt) == ["basic", "contextual", "diagnostic", "quantitative"]
    assert set(reply.indicators) == set(prompts.indicators())
    assert reply.by_prompt["basic"]["score"] == reply.score
    assert reply.path in ("token", "sequence") and 0 <= reply.open_mass < 1
    json.dumps(asdict(reply))  # the evaluation writes it as it is


@pytest.mark.parametrize("prompt", ["basic", "contextual", "diagnostic", "quantitative"])
def test_a_turn_names_the_prompt_that_leads(rater, prompt):
    reply = last(rater, Turn(prompt, (ONE,), "quality", None, "zh"))
    assert reply.prompt == prompt and reply.score == reply.by_prompt[prompt]["score"]
    first = rater.request(Turn(prompt, (ONE,), "quality", None, "zh")).split("\n")[0]
    lead = prompts.quantitative("zh")[0] if prompt == "quantitative" else prompts.qualitative(prompt, "zh")
    assert first.startswith(lead.question)


def test_own_words_are_the_question(rater):
    turn = Turn("Is this image any good?", (ONE,), "quality")
    assert rater.request(turn).startswith(turn.text)
    reply = last(rater, turn)
    assert reply.prompt == "own" and list(reply.by_prompt) == ["own"] and reply.indicators is None


def test_several_images_get_a_rating_each(rater):
    alone = [last(rater, Turn("", (frame,), "quality")) for frame in (ONE, TWO)]
    reply = last(rater, Turn("", (ONE, TWO), "quality"))
    assert [each["score"] for each in reply.ratings] == pytest.approx(
        [each.score for each in alone], abs=1e-4
    )
    assert reply.score is None and reply.level is None
    assert len(reply.text.splitlines()) == 2


def test_many_images_come_in_batches_and_a_reader_can_leave(rater):
    turn = Turn("own words", tuple(tiny.frame(56, 56, seed=i) for i in range(18)), "quality")
    replies = list(rater.stream(turn))
    assert [len(reply.ratings) for reply in replies] == [16, 18, 18]
    assert [reply.finished for reply in replies] == [False, False, True]
    stream = rater.stream(turn)
    next(stream)
    stream.close()
    assert last(rater, Turn("", (ONE,), "quality")).finished


def test_turns_together_get_what_each_would_alone(rater):
    turns = [
        Turn("", (ONE,), "quality"),
        Turn("", (ONE, TWO), "compare", "heart", "zh"),
        Turn("Good?", (THREE, ONE), "quality"),
    ]
    for alone, together in zip([last(rater, turn) for turn in turns], rater.answer(turns), strict=True):
        assert together.text == alone.text and together.finished
        assert together.best == alone.best and (together.level, together.prompt) == (
            alone.level,
            alone.prompt,
        )


def test_a_comparison_does_not_depend_on_the_order(rater):
    one = last(rater, Turn("", (ONE, TWO), "compare"))
    other = last(rater, Turn("", (TWO, ONE), "compare"))
    assert one.best_by_question == pytest.approx(other.best_by_question[::-1], abs=1e-5)
    assert one.best_by_levels == pytest.approx(other.best_by_levels[::-1], abs=1e-5)
    assert one.best == 1 - other.best and one.ranking == tuple(1 - i for i in other.ranking)
    assert sum(one.best_probabilities) == pytest.approx(1) and len(one.ratings) == 2


def test_the_vision_tower_sees_each_image_once(folder):
    """Of four prompts, a comparison in both orders, and the notice about strange images."""
    opened = QBenchAssistant.open(str(folder), device="cpu")
    likelihood = opened.reader.likelihood
    turn = Turn("", (ONE, TWO), "compare")
    last(opened, turn)  # finds out whether beginnings can be shared
    known = (ONE, TWO, *(tiny.frame(seed=seed) for seed in range(2, 12)))
    features = vision_features(likelihood.model.model.visual, **pixels(likelihood, known))
    opened._familiarity = Familiarity.fit(features, features, 1.0)
    seen = []
    hook = likelihood.model.model.visual.register_forward_hook(
        lambda tower, args, kwargs, out: seen.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    try:
        reply = last(opened, turn)
        assert sum(seen) == 2 and reply.unfamiliar == ()
        strange = last(opened, Turn("", (ONE, bright(250)), "quality"))
        assert sum(seen) == 4 and strange.unfamiliar == (1,)
    finally:
        hook.remove()


def pixels(likelihood, frames):
    images = [likelihood.encoder.image(frame, None) for frame in frames]
    return {name: torch.cat([image[name] for image in images]) for name in ("pixel_values", "image_grid_thw")}


def test_three_images_are_ranked_in_words(rater):
    reply = last(rater, Turn("", (ONE, TWO, THREE), "compare", None, "zh"))
    assert sorted(reply.ranking) == [0, 1, 2] and "由好到差" in reply.text.splitlines()[1]


def test_stored_cuts_place_an_image_and_say_so(folder, rater):
    scores = [last(rater, Turn("", (tiny.frame(seed=i),), "quality")).score for i in range(4)]
    wording = prompts.qualitative("basic", "en").fingerprint
    kept = {"prompt": "basic", "wording": wording, "language": "en"}
    cuts = fit([scores[0] + d for d in (-2, -1.9, 0, 0.1, 2)], "five", model=rater.model, **kept)
    save([cuts], folder / FILE)
    try:
        opened = QBenchAssistant.open(str(folder), device="cpu")
    finally:
        (folder / FILE).unlink()
    placed = QBenchAssistant(rater.reader, "t", model=rater.model, cut_points=opened.cut_points)
    reply = last(placed, Turn("", (tiny.frame(seed=0),), "quality"))
    assert (reply.level, reply.level_by) == ("medium", "clusters") and reply.borderline is not None
    assert reply.cuts_of == "five" and reply.text.endswith("Levels by the cut points of five.")
    assert last(placed, Turn("", (ONE,), "quality", None, "zh")).level_by == "argmax"  # another population
    stranger = QBenchAssistant(rater.reader, "t", model="other", cut_points=opened.cut_points)
    assert last(stranger, Turn("", (ONE,), "quality")).level_by == "argmax"


def test_the_quantitative_prompt_has_cuts_under_the_name_that_the_evaluation_gives_it(rater):
    turn = Turn("quantitative", (ONE,), "quality")
    free = last(rater, turn)
    prompt = next(name for name in free.by_prompt if name == free.prompt)
    kept = {"prompt": prompt, "wording": free.by_prompt[prompt]["wording"], "language": "en"}
    cuts = fit([free.score - 1, free.score, free.score + 1], "three", model=rater.model, **kept)
    reply = last(QBenchAssistant(rater.reader, "t", model=rater.model, cut_points=[cuts]), turn)
    assert (reply.level, reply.cuts_of) == ("medium", "three")


def test_cuts_of_one_organs_wording_do_not_place_an_image_of_which_another_was_said(rater):
    wording = prompts.qualitative("contextual", "en", "vessel").fingerprint
    kept = {"model": rater.model, "prompt": "contextual", "wording": wording, "language": "en"}
    cuts = fit([1, 2, 3], "vessels and others", **kept)
    placed = QBenchAssistant(rater.reader, "t", model=rater.model, cut_points=[cuts])
    by = {
        organ: last(placed, Turn("contextual", (ONE,), "quality", organ)).level_by
        for organ in ("vessel", "heart", None)
    }
    assert by == {"vessel": "clusters", "heart": "argmax", None: "argmax"}


def test_a_model_without_a_place_for_the_score_says_so_in_both_languages(rater, monkeypatch):
    monkeypatch.setattr(levels, "find", lambda *_: (_ for _ in ()).throw(levels.UnstablePrefix("is high")))
    monkeypatch.setattr(rater.reader, "_tokens", {})
    with pytest.raises(ModelError, match="no place to read a score: is high") as refused:
        last(rater, Turn("", (ONE,), "quality"))
    assert "分词器" in refused.value.message("zh")


def test_the_raw_strategy_writes_and_parses(rater):
    raw = QBenchAssistant(rater.reader, "t", strategy="raw")
    reply = last(raw, Turn("", (ONE,), "quality"))
    assert (reply.strategy, reply.level_by, reply.score, reply.probabilities) == ("raw", "word", None, None)
    assert reply.level is None and reply.by_prompt["basic"]["text"]  # random weights name no level
    assert "names no level" in reply.text and raw.dtype != rater.dtype
    assert last(raw, Turn("", (ONE, TWO), "compare")).best_probabilities == (0.5, 0.5)


class Service:
    """Prefers high for bright images; `first` False gives words only."""

    def __init__(self, first=True):
        self.first, self.asked = first, []

    def ask(self, question, frames, *, max_new_tokens):
        self.asked.append((question, len(frames)))
        means = [frame.pixels.mean() for frame in frames]
        if len(frames) > 1:
            word = str(1 + means.index(max(means)))
            return Said(word, {word: math.log(0.8), "x": math.log(0.2)} if self.first else None)
        word = "High" if means[0] > 100 else "low"
        tops = {word: math.log(0.6), " medium": math.log(0.2), "the": math.log(0.2)}
        return Said(word, tops if self.first else None)


def bright(value):
    from imaging.frame import Frame

    return Frame(ONE.pixels * 0 + value, None, "flat")


def test_a_service_with_alternatives_is_read_like_logits():
    rater = QBenchAssistant(RemoteReader(Service()), "t")
    reply = last(rater, Turn("", (bright(200),), "quality"))
    assert reply.path == "alternatives" and reply.open_mass == pytest.approx(0.8)
    assert reply.probabilities == pytest.approx({"high": 0.75, "medium": 0.25, "low": 0})
    assert "'low' is not among the alternatives given: taken as 0" in reply.reasons
    compared = last(rater, Turn("", (bright(20), bright(200)), "compare"))
    assert compared.best == 1 and compared.best_by_question == (0.0, 1.0)


def test_a_service_with_words_only_is_parsed():
    service = Service(first=False)
    reply = last(QBenchAssistant(RemoteReader(service), "t"), Turn("", (bright(20),), "quality"))
    assert (reply.path, reply.level, reply.level_by, reply.score) == ("text", "low", "word", None)
    assert all("one word" in question for question, _ in service.asked)


def test_a_service_opens_by_its_address():
    opened = open_assistant("qbench", "http://127.0.0.1:9/v1#some/model")
    assert opened.title == "Ultrasound-QBench · some/model" and opened.device == "remote"


def test_the_demo_says_what_it_is():
    opened = open_assistant("qbench", device="cpu")
    assert opened.demo and opened.title == "Ultrasound-QBench · demo weights"
    assert [folder.name for folder in opened.folders] == ["qbench", "qwen2_vl"]


@pytest.mark.parametrize(("task", "frames"), [("quality", ()), ("compare", (ONE,))])
def test_too_few_images_are_asked_for_in_both_languages(rater, task, frames):
    for call in (lambda turn: last(rater, turn), lambda turn: rater.answer([turn])):
        with pytest.raises(ModelError, match="Add") as refused:
            call(Turn("", frames, task))
        assert "请添加" in refused.value.message("zh")


@pytest.mark.parametrize(
    "turn",
    [
        Turn("", (ONE,), "report"),
        Turn("", (ONE,), "quality", "spleen"),
        Turn("", (ONE,), "quality", None, "de"),
    ],
)
def test_unknown_names_are_refused(rater, turn):
    with pytest.raises(ValueError, match="is not one of"):
        last(rater, turn)


def test_out_of_memory_says_what_to_do(rater, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(rater.reader.likelihood, "of", full)
    with pytest.raises(OutOfMemory, match="fewer images"):
        last(rater, Turn("", (ONE,), "quality"))


@pytest.mark.parametrize("wrong", [{"prompt": "own"}, {"strategy": "guess"}])
def test_a_rater_is_made_of_known_parts(rater, wrong):
    with pytest.raises(ValueError, match="is not one of"):
        QBenchAssistant(rater.reader, "t", **wrong)


def test_the_budget_of_an_image_reaches_the_model(rater):
    large = tiny.frame(112, 112)
    scores = [
        list(rater.stream(Turn("Good?", (large,), "quality"), (), Settings(max_pixels=pixels)))[-1].score
        for pixels in (56 * 56, 112 * 112)
    ]
    assert scores[0] != scores[1]
