"""A conversation: what a question becomes, how an answer grows, and what every failure leaves behind."""

import os
from pathlib import Path

import gradio as gr
import pages
import pytest

from apps import display, echovlm, privacy
from apps.chat import Chat, explain
from apps.opening import NotOpened
from assistants.base import Reply, Turn
from models.errors import ModelError


def conversation(assistant):
    """A chat with its components, outside any server."""
    with gr.Blocks():
        chat = Chat(pages.ready(assistant), "report", echovlm.make_turn)
        chat.place_bubbles()
        chat.place_box()
    return chat


def send(chat, files=(), words="", bubbles=(), language_="en"):
    message = {"text": words, "files": list(files)}
    final = {chat.bubbles: list(bubbles)}
    for update in chat.receive(message, list(bubbles), language_, "report", "any", language_):
        final |= update
    for update in chat.answer(final[chat.received], final[chat.bubbles], language_):
        final |= update
    return final


@pytest.fixture
def upload(tmp_path):
    folder = Path(os.environ["GRADIO_TEMP_DIR"]) / "by-hand"
    folder.mkdir(exist_ok=True)
    return pages.write_png(folder, "scan.png", seed=11)


def idle(update, chat):
    box = update[chat.box]
    return box.submit_btn is True and box.stop_btn is False


def test_an_answer_fills_a_bubble_and_hands_the_box_back(upload):
    assistant = pages.Fixed(
        Reply(""), Reply("The liver"), Reply("The liver.", finished=True, stopped_by="end", new_tokens=3)
    )
    chat = conversation(assistant)
    final = send(chat, [upload])
    assert [bubble["role"] for bubble in final[chat.bubbles]] == ["user", "user", "assistant"]
    assert [display.words(bubble) for bubble in final[chat.bubbles]] == [
        "",
        "Please write a report based on these ultrasound images.",
        "The liver.",
    ]
    assert idle(final, chat)
    again = send(chat, (), "Which lobe?", final[chat.bubbles])
    turn, history = assistant.asked[-1]
    assert turn.text == "Which lobe?" and turn.frames == ()
    assert [type(entry) for entry in history] == [Turn, Reply]
    assert (history[0].frames[0].pixels == assistant.asked[0][0].frames[0].pixels).all()
    assert len(again[chat.bubbles]) == 5


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (NotOpened(ModelError("No GPU.", "没有 GPU。")), {"en": "No GPU.", "zh": "没有 GPU。"}),
        (KeyError("scan.png"), {"en": "KeyError", "zh": "KeyError"}),
    ],
)
@pytest.mark.parametrize("language_", ["zh", "en"])
def test_no_failure_leaves_the_page_dead(upload, error, says, language_):
    chat = conversation(pages.Fixed(Reply("The li"), error))
    final = send(chat, [upload], language_=language_)
    assert says[language_] in final[chat.status]
    assert 'role="alert"' in final[chat.status]
    assert "scan.png" not in final[chat.status]
    assert final[chat.bubbles][2]["content"] == "The li"  # what was said stays
    assert idle(final, chat)


def test_what_the_model_refuses_goes_back_into_the_box(upload):
    chat = conversation(pages.Fixed(ModelError("Too many images.", "图像过多。")))
    final = send(chat, [upload], "How large?", [*_exchange()])
    assert "Too many images." in final[chat.status]
    assert len(final[chat.bubbles]) == 2  # the exchange before is kept
    assert idle(final, chat)
    back = final[chat.box].constructor_args["value"]
    assert back["text"] == "How large?"
    assert [Path(file).name for file in back["files"]] == ["frame.png"]


def _exchange():
    return {"role": "user", "content": "Before"}, {"role": "assistant", "content": "An answer."}


def test_a_bad_file_loses_nothing(upload, tmp_path):
    bad = Path(upload).with_name("notes.txt")
    bad.write_text("not an image")
    assistant = pages.Fixed(Reply("x"))
    chat = conversation(assistant)
    final = send(chat, [upload, str(bad)], "My long question")
    assert "notes.txt" in final[chat.status]
    assert final[chat.bubbles] == []  # nothing was added
    assert idle(final, chat)
    assert "value" not in final[chat.box].constructor_args  # so it keeps its words and files
    assert assistant.asked == []


def test_a_question_needs_an_image():
    chat = conversation(pages.Fixed(Reply("x")))
    final = send(chat, (), "Hello?")
    assert "Please add" in final[chat.status] and idle(final, chat)


def test_a_notice_stands_above_a_meaningless_answer_and_is_not_sent_back(upload):
    assistant = pages.Fixed(Reply("A report.", finished=True, stopped_by="end", unfamiliar=(0,)))
    chat = conversation(assistant)
    bubbles = send(chat, [upload])[chat.bubbles]
    assert "the text below means nothing" in bubbles[2]["content"]
    assert bubbles[3]["content"] == "A report."
    send(chat, (), "And?", bubbles)
    assert [getattr(entry, "text", "")[:9] for entry in assistant.asked[-1][1]] == ["Please wr", "A report."]


@pytest.mark.parametrize(
    ("indices", "images", "language_", "names"),
    [
        ((0,), 1, "en", "This image is"),
        ((0, 1), 2, "en", "These images are"),
        ((1,), 3, "en", "Image 2 is unlike"),
        ((0, 2), 3, "en", "Image 1, Image 3 are unlike"),
        ((0, 2), 3, "zh", "图像 1、图像 3 与演示"),
        ((0,), 1, "zh", "该图像"),
    ],
)
def test_the_notice_names_the_images(indices, images, language_, names):
    assert names in display.unfamiliar(indices, images, language_)


def test_an_image_deleted_after_an_hour_is_said_so(upload):
    chat = conversation(pages.Fixed(Reply("x", finished=True, stopped_by="end")))
    bubbles = send(chat, [upload])[chat.bubbles]
    Path(display.pictures(bubbles[0])[0]["path"]).unlink()
    assert "deleted after an hour" in send(chat, (), "And?", bubbles)[chat.status]


def test_a_bubble_cannot_name_a_foreign_file(tmp_path):
    bubble = {"role": "user", "content": [{"path": pages.write_png(tmp_path), "alt_text": "x"}]}
    with pytest.raises(privacy.ForeignFile):
        display.conversation([bubble, {"role": "user", "content": "?"}])


@pytest.mark.parametrize(
    "content", [{"type": "component", "component": "file", "value": {}, "constructor_args": {}}]
)
def test_a_bubble_cannot_hold_a_component(content):
    with pytest.raises(privacy.ForeignFile):
        privacy.check_inputs([[{"role": "user", "content": [content]}]])


def test_a_model_error_is_not_logged_but_a_surprise_is(caplog):
    explain(ModelError("a", "b"), "en")
    assert not caplog.records
    explain(ZeroDivisionError("secret"), "en")
    assert "ZeroDivisionError" in caplog.text and "secret" not in caplog.text
