"""One question from start to end, on tiny random weights."""

import threading

import pytest
import tiny
import torch

from assistants.base import Reply, Settings, Turn, open_assistant
from assistants.echovlm.assistant import EchoVLMAssistant
from models.errors import ContextOverflow, OutOfMemory

SHORT = Settings(max_new_tokens=12)


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


def test_any_other_error_arrives_as_itself(assistant, monkeypatch):
    def broken(**_):
        raise RuntimeError("a shape is wrong")

    monkeypatch.setattr(assistant.backbone.model, "generate", broken)
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        answer(assistant, Turn("请写报告"))


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
