"""What is said to EchoVLM, in both languages, and what stays in view."""

import pytest
import tiny

from assistants.base import Reply, Turn
from assistants.conversation import frames_in_view
from assistants.echovlm.prompts import build_messages, organs, request, standard_request
from assistants.language import language_of
from assistants.wording import LANGUAGES, TASKS

IMAGE = (tiny.frame(),)
SEVEN = ("thyroid", "breast", "liver", "kidney", "gynaecology", "vessel", "heart")


def test_the_seven_organs_of_the_paper():
    assert organs() == SEVEN


def test_every_standard_request_is_there_and_in_its_language():
    requests = {
        standard_request(task, language, organ)
        for task in TASKS
        for language in LANGUAGES
        for organ in (None, *SEVEN)
    }
    assert len(requests) == len(TASKS) * len(LANGUAGES) * 8  # no two alike
    assert all("{" not in text and len(text) < 90 for text in requests)
    for task in TASKS:
        assert language_of(standard_request(task, "zh", "heart")) == "zh"
        assert language_of(standard_request(task, "en", "heart")) == "en"


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (Turn(task="report", language="zh"), "请根据这些超声图像书写超声报告。"),
        (Turn("  \n", task="report", language="zh", organ="liver"), "请根据这些肝脏超声图像书写超声报告。"),
        (
            Turn(task="diagnosis", organ="breast"),
            "Please give the diagnosis based on these breast ultrasound images.",
        ),
        (Turn("Is there a nodule?"), "Is there a nodule?"),
        (Turn("有结节吗？", language="zh"), "有结节吗？"),
        (Turn("有结节吗？", language="en"), "有结节吗？\nPlease answer in English."),
        (Turn("Is there a nodule?", language="zh"), "Is there a nodule?\n请用中文回答。"),
        (Turn("BI-RADS 几类？", language="zh"), "BI-RADS 几类？"),
        (Turn("How large?", IMAGE, organ="kidney"), "How large?\nThese are kidney ultrasound images."),
        (Turn("And on the left?", organ="kidney"), "And on the left?"),
        (
            Turn("How large is the Thyroid nodule?", IMAGE, organ="thyroid"),
            "How large is the Thyroid nodule?",
        ),
        (Turn("甲状腺结节多大？", IMAGE, organ="thyroid", language="zh"), "甲状腺结节多大？"),
        (
            Turn("多大？", IMAGE, organ="heart", language="en"),
            "多大？\n这些是心脏超声图像。\nPlease answer in English.",
        ),
        (Turn("?", language="zh"), "?"),
    ],
)
def test_the_words_of_a_turn(turn, words):
    assert request(turn) == words


@pytest.mark.parametrize(
    "turn",
    [
        Turn(task="poem"),
        Turn(language="fr"),
        Turn(organ="spleen"),
        Turn("x", task="poem"),
        Turn("x", organ="spleen"),
    ],
)
def test_unknown_choices_are_named(turn):
    with pytest.raises(ValueError, match="is not one of"):
        request(turn)


def images(message):
    return [part["type"] for part in message["content"]].count("image")


def test_images_come_first_and_earlier_ones_stay_in_view():
    first, second, third = (tiny.frame(seed=seed) for seed in range(3))
    history = [Turn("Which organ?", (first, second)), Reply("The liver. ")]
    turn = Turn("And here?", (third,))
    messages = build_messages(history, turn)
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert [part["type"] for part in messages[0]["content"]] == ["image", "image", "text"]
    assert messages[1]["content"] == [{"type": "text", "text": "The liver."}]
    assert frames_in_view(history, turn) == [first, second, third]


@pytest.mark.parametrize("unanswered", [[], [Reply("")], [Reply(" \n")]])
def test_a_turn_without_an_answer_leaves_its_images_to_the_next(unanswered):
    first, second = tiny.frame(), tiny.frame(seed=1)
    history = [Turn("Stopped before a word", (first,)), *unanswered]
    turn = Turn("Again", (second,))
    messages = build_messages(history, turn)
    assert [message["role"] for message in messages] == ["user"]
    assert images(messages[0]) == 2
    assert "Stopped" not in messages[0]["content"][-1]["text"]
    assert frames_in_view(history, turn) == [first, second]


def test_placeholders_and_frames_always_agree():
    frame = tiny.frame()
    history = [
        Turn("a", (frame,)),
        Turn("b", (frame, frame)),
        Reply("c"),
        Reply("stray"),
        Turn("d"),
        Reply("e"),
    ]
    turn = Turn("f", (frame,))
    messages = build_messages(history, turn)
    assert sum(images(message) for message in messages) == len(frames_in_view(history, turn)) == 4
    roles = [message["role"] for message in messages]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
