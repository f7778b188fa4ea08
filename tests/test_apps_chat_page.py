"""The Chat page's own ways: which frames, said how; a click on another; broken files among good ones."""

import os
import re
import time
from pathlib import Path

import gradio as gr
import pages
import pytest
import tiny
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from apps import display, language
from apps.llava_ultra import CINE_FRAMES, CaseChat, example, said_before, settings_for
from apps.opening import Opening
from apps.selection import chosen_before, picked, step_bubble
from assistants.base import Reply, Turn, open_assistant
from assistants.language import language_of
from assistants.selection import MOST_FRAMES, SelectionReply
from imaging.files import read_examination

SELECTION = {"frames": 3, "kept": [2], "scores": [0.1, 0.2, 0.7], "how": "attention", "redundant": [[0, 1]]}
CHOICES = ("echovlm", "choose", "en")


def replies(**changes):
    chosen = SELECTION | changes
    return SelectionReply("A cyst.", finished=True, stopped_by="end", new_tokens=3, selection=chosen)


def conversation(assistant):
    with gr.Blocks():
        chat = CaseChat({"echovlm": pages.ready(assistant)})
        chat.place_bubbles()
        chat.place_box()
    return chat


def final_of(updates, chat, bubbles=()):
    final = {chat.bubbles: list(bubbles)}
    for update in updates:
        final |= update
    return final


def send(chat, files=(), words="", bubbles=(), language="en"):
    message = {"text": words, "files": list(files)}
    final = final_of(chat.receive(message, list(bubbles), language, *CHOICES), chat, bubbles)
    asked = final[chat.bubbles]
    return final | final_of(chat.answer(final[chat.received], asked, language, *CHOICES), chat, asked)


def upload(name, seed=0):
    folder = Path(os.environ["GRADIO_TEMP_DIR"]) / "by-hand"
    folder.mkdir(exist_ok=True)
    return pages.write_png(folder, name, seed)


@pytest.fixture
def files():
    return [upload(f"{seed}.png", seed) for seed in range(3)]


@pytest.mark.parametrize(
    "language, title, words",
    [
        ("en", "Looked at 3 frames, used frame 3", ["this case only", "nearly the same as 2<", "70%"]),
        ("zh", "查看了 3 帧，采用第 3 帧", ["。评分只在本病例", "与第 2 帧几乎相同", "70%"]),
    ],
)
def test_the_step_says_what_was_used_and_shows_every_frame(files, language, title, words):
    chat = conversation(pages.Fixed(replies()))
    bubbles = send(chat, files, "Q?", language=language)[chat.bubbles]
    step = next(bubble for bubble in bubbles if display.mark(bubble) == display.STEP)
    assert step["metadata"]["title"] == title and step["metadata"]["status"] == "done"
    assert all(word in step["content"] for word in words)
    frames = re.findall(r'class="frame( kept)?" value="(\d+)-(\d)"', step["content"])
    assert frames == [("", "2", "0"), ("", "2", "1"), (" kept", "2", "2")]
    assert bubbles[-1]["content"] == "A cyst."


def test_a_click_answers_from_that_frame_and_the_next_question_stays_with_it(files):
    assistant = pages.Fixed(replies(kept=[0], how="person"))
    chat = conversation(assistant)
    bubbles = send(chat, files, "Q?")[chat.bubbles]
    assistant.asked.clear()
    update = final_of(chat.pick("2-0 1234", bubbles, "en", *CHOICES), chat, bubbles)
    turn, history = assistant.asked[-1]
    assert turn.chosen == (0,) and turn.text == "Q?" and len(turn.frames) == 3 and history == []
    assert len(update[chat.bubbles]) == len(bubbles)
    send(chat, (), "And?", update[chat.bubbles])
    assert assistant.asked[-1][0].chosen == (0,)
    send(chat, [upload("new.png", 9)], "And?", update[chat.bubbles])
    assert assistant.asked[-1][0].chosen == ()  # a new image: the case is looked at afresh
    asked = [*update[chat.bubbles], {"role": "user", "content": "And?"}]
    final_of(chat.answer(True, asked, "en", "echovlm", "all", "en"), chat, asked)
    assert assistant.asked[-1][0].chosen == ()  # all are to be used


def test_asking_again_stays_with_the_clicked_frame(files):
    assistant = pages.Fixed(replies(kept=[0], how="person"))
    chat = conversation(assistant)
    bubbles = send(chat, files, "Q?")[chat.bubbles]
    answer = len(bubbles) - 1
    again = gr.RetryData(None, {"index": answer, "value": ""})
    reworded = gr.EditData(None, {"index": 1, "value": "What?", "previous_value": "Q?"})
    final_of(chat.retry(bubbles, "en", again, *CHOICES), chat, bubbles)
    assert assistant.asked[-1][0].chosen == (0,) and assistant.asked[-1][0].text == "Q?"
    final_of(chat.edit(bubbles, "en", reworded, *CHOICES), chat, bubbles)
    assert assistant.asked[-1][0].chosen == (0,) and assistant.asked[-1][0].text == "What?"
    final_of(chat.retry(bubbles, "en", again, "echovlm", "all", "en"), chat, bubbles)
    assert assistant.asked[-1][0].chosen == ()  # all are to be used


def test_many_near_identical_frames_are_named_as_runs():
    bubble = {"role": "user", "content": [{"path": f"{n}.png", "alt_text": ""} for n in range(16)]}
    alike = {"frames": 16, "kept": [0, 1, 15], "scores": [1 / 16] * 16, "redundant": [[*range(12), 15]]}
    step = step_bubble(SELECTION | alike, [bubble], "en")
    assert "nearly the same as 2–12, 16<" in step["content"]
    assert "nearly the same as 1, 2, 4–12, 16<" in step["content"]
    assert step["metadata"]["title"] == "Looked at 16 frames, used frames 1, 2, 16"


@pytest.mark.parametrize("value", ["", "x", "0-0", "99999999-1", "-1-0", "2-0-1", "1-<b>"])
def test_a_made_up_click_does_nothing(files, value):
    assistant = pages.Fixed(replies())
    chat = conversation(assistant)
    assert list(chat.pick(value, [], "en", *CHOICES)) == []


@pytest.mark.parametrize(
    "value, found", [("2-0", (2, 0)), ("12-3 99", (12, 3)), ("2-", None), (" 2-0", None)]
)
def test_a_buttons_value(value, found):
    assert picked(value) == found


def test_only_the_last_step_counts():
    mine, machines = (step(each) for each in ("frames:1,3", "frames"))
    words = {"role": "user", "content": "And?", "metadata": None}
    images = {"role": "user", "content": [{"path": "a.png", "alt_text": ""}]}
    assert chosen_before([machines, mine]) == chosen_before([mine, words]) == (1, 3)
    assert chosen_before([mine, machines]) == ()
    assert chosen_before([mine, images, words]) == chosen_before([mine, images, words, words]) == ()
    assert chosen_before([]) == chosen_before([words]) == ()


def step(mark):
    return {"role": "assistant", "content": "", "metadata": {"id": mark}}


def test_a_step_is_not_read_back_as_an_answer(files):
    assistant = pages.Fixed(replies())
    chat = conversation(assistant)
    bubbles = send(chat, files, "Q?")[chat.bubbles]
    send(chat, (), "And?", bubbles)
    assert [entry.text for entry in assistant.asked[-1][1]] == ["Q?", "A cyst."]


@pytest.mark.parametrize(
    "language, says", [("en", "from the other files: 2."), ("zh", "其余文件已读入 2 帧")]
)
def test_a_broken_file_is_named_and_the_others_are_used(files, language, says):
    bad = Path(files[0]).with_name("letter.png")
    bad.write_text("Dear colleague")
    assistant = pages.Fixed(replies())
    chat = conversation(assistant)
    bubbles = send(chat, [files[0], str(bad), files[1]], "Q?", language=language)[chat.bubbles]
    notice = next(bubble for bubble in bubbles if display.mark(bubble) == display.ON_FILES)
    assert "letter.png" in notice["content"] and says in notice["content"]
    assert len(assistant.asked[-1][0].frames) == 2
    _, asked = display.question_at(bubbles, len(bubbles) - 1)
    assert bubbles[display.answer_begins(bubbles, asked) - 1] == notice  # it stays when asked again


def test_without_a_good_file_nothing_is_asked(files):
    bad = Path(files[0]).with_name("letter.png")
    bad.write_text("Dear colleague")
    assistant = pages.Fixed(replies())
    chat = conversation(assistant)
    assert "letter.png" in send(chat, [str(bad)], "Q?")[chat.status]
    assert assistant.asked == []


def test_a_general_question_is_answered_as_text_and_said_to_be_general():
    assistant = pages.Fixed(Reply("A cyst is …", finished=True, stopped_by="end", new_tokens=3))
    chat = conversation(assistant)
    bubbles = send(chat, (), "What is a cyst?")[chat.bubbles]
    assert "no image in view" in bubbles[1]["content"] and bubbles[2]["content"] == "A cyst is …"
    assert "Please add ultrasound images, or write" in send(chat, (), "  ")[chat.status]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_example_is_a_sweep_and_a_question_in_the_pages_language(language):
    shown = example(language)
    assert language_of(shown["text"]) == language
    assert len(read_examination(shown["files"])[0]) == len(shown["files"]) == 5


def test_a_long_cine_leaves_room_for_stills(files):
    assistant = pages.Fixed(replies())
    cine = pages.write_dicom(Path(files[0]).parent, frames=40)
    send(conversation(assistant), [cine, *files], "Q?")
    assert len(assistant.asked[-1][0].frames) == CINE_FRAMES + len(files)


def test_more_frames_than_can_be_compared_are_refused_with_both_numbers(files):
    chat = conversation(pages.Fixed(replies()))
    bubbles = send(chat, files, "Q?")[chat.bubbles]
    more = [upload(f"more-{seed}.png", seed) for seed in range(30)]
    final = send(chat, more, "And?", bubbles)
    assert "33 frames" in final[chat.status] and "32" in final[chat.status]
    assert final[chat.bubbles] == bubbles


def test_names_in_a_step_cannot_be_markup(files):
    bubble = {"role": "user", "content": [{"path": '/x/"><script>.png', "alt_text": "<b>"}]}
    chosen = SELECTION | {"frames": 1, "kept": [0], "scores": [1.0], "redundant": []}
    assert "<script>" not in step_bubble(chosen, [bubble], "en")["content"]


@pytest.mark.parametrize(
    "assistant, use, keep",
    [("llava_ultra", "choose", None), ("echovlm", "choose", 1), ("echovlm", "all", MOST_FRAMES)],
)
def test_how_many_frames_are_kept(assistant, use, keep):
    assert settings_for(assistant, use).keep == keep


# --- while frames are compared ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    return open_assistant("echovlm", str(tiny.save(tmp_path_factory.mktemp("compared"))), device="cpu")


def frames_to_compare(count, first=0):
    return tuple(tiny.frame(source=f"{seed}.png", seed=seed) for seed in range(first, first + count))


def test_a_reader_may_leave_while_echovlm_compares_frames(compared, monkeypatch):
    looked = []
    features = compared._features
    monkeypatch.setattr(
        compared, "_features", lambda some, pixels: looked.append(len(some)) or features(some, pixels)
    )
    stream = compared.stream(Turn("Q?", frames_to_compare(9)), (), settings_for("echovlm", "choose"))
    assert next(stream) == Reply("") and looked == [4]
    assert next(stream) == Reply("") and looked == [4, 4]
    stream.close()
    assert looked == [4, 4]  # the ninth frame is never looked at
    last = list(compared.stream(Turn("Q?", frames_to_compare(9)), (), settings_for("echovlm", "choose")))[-1]
    assert looked == [4, 4, 1] and last.selection["frames"] == 9  # what was seen before is kept


def test_the_page_counts_the_seconds_while_echovlm_compares_frames(compared, monkeypatch):
    chat = conversation(compared)
    monkeypatch.setattr(compared, "_features", _slowly(compared._features, 0.06))  # longer than _SHOW_EVERY
    files = [upload(f"slow-{seed}.png", 100 + seed) for seed in range(9)]
    message = {"text": "Q?", "files": files}
    asked = final_of(chat.receive(message, [], "en", *CHOICES), chat)[chat.bubbles]
    shown = [update.get(chat.status, "") for update in chat.answer(True, asked, "en", *CHOICES)]
    seconds = [found[1] for each in shown if (found := re.search(r"(\d+\.\d) s", each)) and "busy" in each]
    assert len(set(seconds)) >= 3, shown


def _slowly(function, seconds):
    def slow(*arguments):
        time.sleep(seconds)
        return function(*arguments)

    return slow


# --- the endpoint -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    opening = Opening("echovlm", str(tiny.save(tmp_path_factory.mktemp("weights"))), device="cpu")
    with pages.served(opening) as (address, _):
        yield Client(address, verbose=False)


def handles(tmp_path, count=3):
    for seed in range(count):
        Image.fromarray(tiny.frame(seed=seed).pixels).save(tmp_path / f"{seed}.png")
    return [handle_file(str(tmp_path / f"{seed}.png")) for seed in range(count)]


def test_a_program_gets_text_and_selection(client, tmp_path):
    text, selection = client.predict(handles(tmp_path), "Q?", api_name="/chat")
    assert text and selection["frames"] == 3 and len(selection["kept"]) == 1
    assert selection["how"] == "attention" and sum(selection["scores"]) == pytest.approx(1)
    _, selection = client.predict(handles(tmp_path), "Q?", chosen=[2], api_name="/chat")
    assert selection["kept"] == [2] and selection["how"] == "person"
    _, selection = client.predict(handles(tmp_path), "Q?", frames="all", api_name="/chat")
    assert selection == {}


def exchange(text="Q?", answer="A.", files=0):
    return {"text": text, "answer": answer, "files": files}


def test_a_program_holds_a_conversation_of_several_turns(tmp_path):
    assistant = pages.Fixed(replies())
    with pages.served(pages.ready(assistant)) as (address, _):
        client = Client(address, verbose=False)
        files = handles(tmp_path)
        answer, _ = client.predict(files[:2], "Q?", api_name="/chat")
        history = [exchange("Q?", answer, 2)]
        more, _ = client.predict(files, "And?", history=history, chosen=[2], api_name="/chat")
        client.predict(files, "Sure?", history=[*history, exchange("And?", more, 1)], api_name="/chat")
    asked = [(turn.text, len(turn.frames), turn.chosen) for turn, _ in assistant.asked]
    assert asked == [("Q?", 2, ()), ("And?", 1, (2,)), ("Sure?", 0, ())]
    said = [[(type(entry), entry.text) for entry in history] for _, history in assistant.asked]
    first, second = [(Turn, "Q?"), (Reply, "A cyst.")], [(Turn, "And?"), (Reply, "A cyst.")]
    assert said == [[], first, [*first, *second]]
    assert [len(entry.frames) for entry in assistant.asked[2][1][::2]] == [2, 1]
    shown = [frame for entry in assistant.asked[2][1][::2] for frame in entry.frames]
    assert all((frame.pixels == tiny.frame(seed=seed).pixels).all() for seed, frame in enumerate(shown))


def test_a_conversations_frames_stay_in_view_for_the_next_answer(client, tmp_path):
    files = handles(tmp_path)
    answer, _ = client.predict(files[:2], "Q?", api_name="/chat")
    _, selection = client.predict(files, "And?", history=[exchange("Q?", answer, 2)], api_name="/chat")
    assert selection["frames"] == 3
    text, _ = client.predict(files[:1], "And?", history=[exchange("Q?", answer, 1)], api_name="/chat")
    assert text  # no new file with this question


def test_a_program_is_told_that_an_answer_is_about_no_image(client, tmp_path):
    told, _ = client.predict([], "What is a cyst?", api_name="/chat")
    assert told.startswith(f"⚠️ {language.text('no_image_in_view', 'en')}\n\n")
    about_images, _ = client.predict(handles(tmp_path), "Q?", api_name="/chat")
    assert language.text("no_image_in_view", "en") not in about_images


def test_what_the_page_said_above_an_answer_is_not_sent_back():
    said, left = said_before([exchange(answer="⚠️ scan.txt is no image.\n\nA cyst.\n\nSmall.")], ["a"], "en")
    assert [entry.text for entry in said] == ["Q?", "A cyst.\n\nSmall."] and left == ["a"]
    assert said_before([exchange("")], [], "zh")[0][0].task == "report"  # the standard request, as before


@pytest.mark.parametrize(
    "entry, says",
    [
        ("Q?", "history 2: text"),
        ({"text": "Q?"}, "history 2: answer"),
        (exchange(files=-1), "history 2: files"),
        (exchange(files=True), "history 2: files"),
        (exchange(files=4), "files: 4, but only 3 are left"),
    ],
)
def test_a_history_of_another_form_is_named(client, tmp_path, entry, says):
    with pytest.raises(AppError, match=says):
        client.predict(handles(tmp_path), "Q?", history=[exchange(), entry], api_name="/chat")


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"assistant": "llava_ultra"}, "echovlm"),
        ({"frames": "some"}, "choose, all"),
        ({"language": "fr"}, "zh"),
        ({"chosen": [7]}, "no frame 8"),
        ({"chosen": ["1"]}, "chosen: expected a list of frames"),
        ({"chosen": [True]}, "chosen: expected a list of frames"),
        ({"chosen": None}, "chosen: expected a list of frames"),
        ({"history": None}, "history: expected a list"),
        ({"text": None}, "text: expected words"),
        ({"files": None}, "files: expected a list of uploaded files"),
        ({"files": ["x"]}, "files: expected a list of uploaded files"),
        ({"text": ""}, "write a question"),
    ],
)
def test_a_program_is_told_what_is_wrong(client, tmp_path, changes, says):
    files = [] if "text" in changes else handles(tmp_path)
    with pytest.raises(AppError, match=says):
        client.predict(**{"files": files, "text": "Q?", **changes}, api_name="/chat")
