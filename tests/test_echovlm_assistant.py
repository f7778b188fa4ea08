"""One question from start to end, on tiny random weights."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from assistants.base import Reply, Settings, Turn, open_assistant
from assistants.echovlm.assistant import EchoVLMAssistant
from imaging.files import load_frames
from models.errors import ContextOverflow, OutOfMemory

SHORT = Settings(max_new_tokens=12)
EXAMPLES = Path(__file__).parents[1] / "apps" / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def assistant(folder):
    return EchoVLMAssistant.open(str(folder), device="cpu")


def answer(assistant, turn, history=(), settings=SHORT):
    return list(assistant.stream(turn, history, settings))[-1]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_three_architectures_answer(architecture, tmp_path):
    opened = EchoVLMAssistant.open(str(tiny.save(tmp_path, architecture)), device="cpu")
    reply = answer(opened, Turn("请写报告", (tiny.frame(), tiny.frame(56, 84))))
    assert reply.finished and reply.new_tokens == 12


def test_it_opens_by_name(folder):
    opened = open_assistant("echovlm", str(folder), device="cpu")
    assert (opened.name, opened.demo, opened.device) == ("echovlm", False, "cpu")
    assert folder.name in opened.title


def test_a_reply_grows_and_ends_with_its_figures(assistant):
    replies = list(assistant.stream(Turn("请写报告", (tiny.frame(),)), (), SHORT))
    texts = [reply.text for reply in replies]
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))
    assert [reply.finished for reply in replies] == [False] * (len(replies) - 1) + [True]
    last = replies[-1]
    assert last.new_tokens == 12 and last.stopped_by == "length"
    assert last.seconds_to_first_token > 0
    inputs = assistant.backbone.encode(
        [
            {
                "role": "user",
                "content": [
                    {"type": "image"},
                    {"type": "text", "text": "请写报告\nPlease answer in English."},
                ],
            }
        ],
        [tiny.frame()],
    )
    assert last.prompt_tokens == inputs["input_ids"].shape[1]


def test_the_answer_is_greedy_and_depends_on_the_images(assistant):
    turn = Turn("请写报告", (tiny.frame(112, 112),), language="zh")
    assert answer(assistant, turn).text == answer(assistant, turn).text
    other = Turn("请写报告", (tiny.frame(112, 112, seed=5), tiny.frame(seed=6)), language="zh")
    assert answer(assistant, other).text != answer(assistant, turn).text


MIXED = (
    Turn("请写报告", (tiny.frame(112, 112), tiny.frame(seed=1)), "report", None, "zh"),
    Turn("Which organ?"),
    Turn("", (tiny.frame(56, 84, seed=2),), "diagnosis", "liver", "en"),
)


def without_time(reply):
    return replace(reply, seconds_to_first_token=None)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("turns", [MIXED, MIXED[::-1], MIXED[:1] * 2, MIXED[1:2] * 2])
def test_turns_answered_together_get_what_each_would_alone(architecture, turns, tmp_path):
    opened = EchoVLMAssistant.open(str(tiny.save(tmp_path, architecture)), device="cpu")
    with torch.no_grad():
        for parameter in opened.backbone.model.parameters():
            parameter.mul_(3)  # untrained weights are so small that they say the same to everybody
    alone = [without_time(answer(opened, turn)) for turn in turns]
    assert opened.answer(turns, SHORT) == alone
    assert len({reply.text for reply in alone}) == len(set(map(id, turns)))
    assert [without_time(answer(opened, turn)) for turn in turns] == alone  # nothing is left of the batch


def test_demo_weights_answer_a_batch_as_they_answer_one():
    demo = open_assistant("echovlm", device="cpu")
    pictures = sorted(EXAMPLES.glob("*.png"))
    turns = [
        Turn("", tuple(load_frames(pictures[:2])), "report", None, "zh"),
        Turn("Is there a nodule?", tuple(load_frames(pictures[2:3])), "vqa", "thyroid", "en"),
        Turn("", tuple(load_frames(pictures[3:4])), "diagnosis", None, "en"),
    ]
    together = demo.answer(turns)
    assert together == [without_time(answer(demo, turn, settings=Settings())) for turn in turns]
    assert {reply.stopped_by for reply in together} == {"end"}


def test_the_budget_of_an_image_holds_alone_and_in_a_batch(assistant):
    frugal = replace(SHORT, max_pixels=56 * 56)
    alone = answer(assistant, MIXED[0], settings=frugal)
    together = assistant.answer(MIXED[:1] * 2, frugal)
    assert alone.prompt_tokens == together[0].prompt_tokens
    assert alone.prompt_tokens < answer(assistant, MIXED[0]).prompt_tokens


def test_sampled_answers_of_a_batch_have_their_seed_to_themselves(assistant):
    sampled = Settings(max_new_tokens=12, temperature=2.0, seed=3)
    together = assistant.answer(MIXED, sampled)
    assert [reply.text for reply in together] == [answer(assistant, t, settings=sampled).text for t in MIXED]


def test_what_answers_depend_on(folder, assistant):
    assert (assistant.folders, assistant.dtype) == ((folder,), "float32")
    half = EchoVLMAssistant.open(str(folder), device="cpu", dtype="bfloat16")
    assert half.dtype == "bfloat16"
    assert EchoVLMAssistant(half.backbone, "t", demo=False, quantize="4bit").dtype == "bfloat16 4bit"


def test_earlier_images_stay_in_view(assistant):
    first = Turn("请写报告", (tiny.frame(), tiny.frame(seed=1)), language="zh")
    follow_up = answer(assistant, Turn("左侧吗？", language="zh"), [first, Reply("甲状腺")])
    without = answer(assistant, Turn("左侧吗？", language="zh"))
    assert follow_up.prompt_tokens > without.prompt_tokens + 2 * 9


def test_two_conversations_at_once_do_not_mix(assistant):
    turns = [
        Turn("请写报告", (tiny.frame(112, 56),)),
        Turn("Which organ?", (tiny.frame(56, 112, seed=1),) * 2),
    ]
    alone = [answer(assistant, turn).text for turn in turns]
    together = {}
    threads = [
        threading.Thread(target=lambda n=n: together.__setitem__(n, answer(assistant, turns[n % 2]).text))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[n] for n in range(4)] == alone * 2


def test_closing_frees_the_model(assistant):
    stream = assistant.stream(Turn("请写报告", (tiny.frame(),)), (), Settings(max_new_tokens=1500))
    next(stream)
    stream.close()
    assert "generate" not in [thread.name for thread in threading.enumerate()]
    assert answer(assistant, Turn("请写报告")).finished


def test_too_long_a_conversation_is_refused_with_both_numbers(tmp_path):
    small = EchoVLMAssistant.open(str(tiny.save(tmp_path, max_position_embeddings=200)), device="cpu")
    turn = Turn("请写报告", (tiny.frame(112, 112),) * 10)
    with pytest.raises(ContextOverflow) as refused:
        answer(small, turn, settings=Settings())
    for language in ("en", "zh"):
        assert "200" in refused.value.message(language)
        assert "10" in refused.value.message(language)
    tight = answer(small, Turn("请写报告"), settings=Settings(max_new_tokens=10_000))
    assert tight.prompt_tokens + tight.new_tokens <= 200
    with pytest.raises(ContextOverflow):
        small.answer([Turn("请写报告"), turn])


def test_in_a_batch_each_turn_keeps_its_own_room(tmp_path):
    small = EchoVLMAssistant.open(str(tiny.save(tmp_path, max_position_embeddings=200)), device="cpu")
    turns = [Turn("a"), Turn("请写报告", (tiny.frame(),))]
    together = small.answer(turns, Settings(max_new_tokens=10_000))
    assert together[0].prompt_tokens < together[1].prompt_tokens
    assert [reply.prompt_tokens + reply.new_tokens for reply in together] == [200, 200]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_says_what_to_do(assistant, monkeypatch, error):
    def exhausted(**_):
        raise error

    monkeypatch.setattr(assistant.backbone.model, "generate", exhausted)
    with pytest.raises(OutOfMemory, match="fewer images") as refused:
        answer(assistant, Turn("请写报告", (tiny.frame(),)))
    assert "减少图像数量" in refused.value.message("zh")
    with pytest.raises(OutOfMemory, match="with 3 images"):
        assistant.answer(MIXED)


def test_any_other_error_arrives_as_itself(assistant, monkeypatch):
    def broken(**_):
        raise RuntimeError("a shape is wrong")

    monkeypatch.setattr(assistant.backbone.model, "generate", broken)
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        answer(assistant, Turn("请写报告"))
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        assistant.answer(MIXED)


class OddOnesOut:
    """Knows every second image."""

    def unfamiliar(self, model, pixel_values, image_grid_thw):
        assert len(pixel_values) == image_grid_thw.prod(dim=1).sum()
        return [index % 2 == 1 for index in range(len(image_grid_thw))]


def test_unfamiliar_images_are_named_from_the_first_reply_on(folder, assistant):
    doubting = EchoVLMAssistant(assistant.backbone, "t", demo=True, familiarity=OddOnesOut())
    history = [Turn("a", (tiny.frame(),)), Reply("b")]
    replies = list(doubting.stream(Turn("c", (tiny.frame(), tiny.frame())), history, SHORT))
    assert {reply.unfamiliar for reply in replies} == {(1,)}
    assert answer(doubting, Turn("no images")).unfamiliar == ()
    replies = doubting.answer([MIXED[2], MIXED[1], MIXED[0], MIXED[2]])
    assert [reply.unfamiliar for reply in replies] == [(), (), (0,), (0,)]  # each turn counts its own images
    assert (
        answer(assistant, Turn("c", (tiny.frame(), tiny.frame()))).unfamiliar == ()
    )  # no familiarity, no notice


def test_router_logits_are_never_asked_for(assistant, monkeypatch):
    seen = {}
    real = assistant.backbone.model.generate
    monkeypatch.setattr(assistant.backbone.model, "generate", lambda **kw: (seen.update(kw), real(**kw))[1])
    answer(assistant, Turn("请写报告", (tiny.frame(),)))
    assert not seen.get("output_router_logits")
    assert seen["do_sample"] is False
