"""The Planes page without a browser: its events, what it shows, what it exports, and the endpoint."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pages
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from test_abvlm_q_assistant import CASE, PROTOCOL, save, scripted, text_of
from test_imaging_sector import fan, screen

from apps import abvlm_q, plane_review, plane_view
from apps.abvlm_q import PlanesPage
from apps.language import LANGUAGES, text
from apps.opening import Opening
from apps.page import compose, launch_options
from apps.plane_review import Review
from assistants.abvlm_q.assistant import AbVLMQAssistant, PlaneReply
from assistants.abvlm_q.scoring import CLINICIAN, FLAGS, Add, Judged, Remove, Structure
from imaging.planes import NON_STANDARD
from models.boxes import Canvas
from models.errors import ModelError

BOXES = (Structure("spleen", (10, 20, 60, 70)), Structure("splenic_hilum", (20, 30, 40, 50)))
LESS = Judged("spleen.incomplete", "spleen", "incomplete", 2, "cut <off>", ((10, 20, 60, 70),))
FOUND = PlaneReply(
    "…",
    finished=True,
    stopped_by="end",
    boxes=BOXES,
    plane=("spleen_longitudinal",),
    deductions=(LESS,),
    score=8,
    grade="good",
    stated_score=8,
)
REVIEW = Review("a.png", "/a.png", (0, 0), (128, 96)).with_reply(FOUND)


class Told:
    """An assistant that finds what it is told to, and an error where it is told one."""

    name, title, demo, device, planes = "abvlm_q", "AbVLM-Q · demo weights", True, "cpu", PROTOCOL

    def __init__(self, *replies):
        self.replies, self.asked = replies, []

    def stream(self, turn, history=(), settings=None):
        self.asked.append(turn)
        for reply in self.replies:
            if isinstance(reply, Exception):
                raise reply
            yield reply

    def answer(self, turns, settings=None):
        self.asked += turns
        last = self.replies[-1]
        if isinstance(last, Exception):
            raise last
        return [last] * len(turns)


def ready(assistant) -> Opening:
    opening = Opening("abvlm_q")
    opening.assistant = assistant
    opening._done.set()
    return opening


@contextmanager
def served(opening):
    page = compose({"abvlm_q": opening})
    _, address, _ = page.launch(prevent_thread_lock=True, **launch_options())
    try:
        yield address, page
    finally:
        page.close(verbose=False)


@pytest.fixture
def page():
    """The page's parts, placed in a page, with an assistant that finds a spleen."""

    def make(*replies):
        made = PlanesPage(ready(Told(*(replies or (FOUND,)))))
        with gr.Blocks():
            made.place()
        return made

    return make


def upload(name: str, seed: int = 0, pixels: np.ndarray | None = None, place: str = "planes-by-hand") -> str:
    """A file where Gradio puts uploads."""
    folder = Path(os.environ["GRADIO_TEMP_DIR"]) / place
    folder.mkdir(exist_ok=True)
    if pixels is None:
        return pages.write_png(folder, name, seed)
    Image.fromarray(pixels).save(folder / name)
    return str(folder / name)


# ---- what is shown


def test_boxes_are_outlined_and_numbered_on_the_part_that_is_shown():
    review = replace(REVIEW, offset=(5, 8))
    shown = plane_view.picture(review, PROTOCOL)
    assert '<rect x="5" y="12" width="50" height="50"/>' in shown
    assert shown.count("<rect") == 2 and shown.count('type="radio"') == 3
    assert ".plane-picture:has(.only-1:checked) .mark:not(.mark-1)" in shown
    for language in LANGUAGES:
        assert f'<span lang="{language}">{PROTOCOL.name("spleen", language)}</span>' in shown


@pytest.mark.parametrize("side", [224, 2240])
def test_the_numbers_of_boxes_are_as_large_on_any_picture(side):
    shown = plane_view.picture(replace(REVIEW, size=(side, side // 2)), PROTOCOL)
    size = float(shown.split('style="font-size:')[1].split("px")[0])
    assert size == pytest.approx(side / 36, abs=0.1)


def test_the_verdict_names_plane_score_grade_and_each_deduction_with_its_reason_and_box():
    shown = plane_view.verdict(REVIEW, PROTOCOL)
    for language in LANGUAGES:
        assert PROTOCOL.name("spleen_longitudinal", language) in shown
        assert PROTOCOL.grade(8).name.text(language) in shown
    assert "<strong>8</strong><span>/10</span>" in shown
    assert "cut &lt;off&gt;" in shown and "−2" in shown and "10, 20, 60, 70" in shown
    assert "plane-doubts" not in shown and text("plane_by_clinician", "en") not in shown


@pytest.mark.parametrize("flag", FLAGS)
def test_every_doubt_has_words(flag):
    shown = plane_view.verdict(REVIEW.with_reply(replace(FOUND, flags=(flag,))), PROTOCOL)
    assert all(text(f"plane_flag_{flag}", language) in shown for language in LANGUAGES)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"plane": (NON_STANDARD,), "score": None, "grade": None, "deductions": ()}, "plane_not_scored"),
        ({"score": None, "grade": None, "deductions": ()}, "plane_no_score"),
    ],
)
def test_without_a_score_it_says_why(change, key):
    shown = plane_view.verdict(REVIEW.with_reply(replace(FOUND, **change)), PROTOCOL)
    assert text(key, "en") in shown and "<strong>" not in shown
    assert not plane_review.addable(REVIEW.with_reply(replace(FOUND, **change)).assessment, PROTOCOL)


def test_what_is_unknown_or_hostile_is_shown_as_text():
    odd = replace(FOUND, boxes=(Structure("<b>x</b>", (1, 2, 3, 4)),))
    shown = plane_view.picture(replace(REVIEW, source='"><script>').with_reply(odd), PROTOCOL)
    assert "<script" not in shown and "<b>x" not in shown and "&lt;b&gt;x" in shown


def test_the_histogram_counts_images_of_each_plane_and_score():
    other = REVIEW.with_reply(replace(FOUND, score=3, plane=("spleen_longitudinal", "hepatic_veins")))
    shown = plane_view.histogram([REVIEW, REVIEW, other], PROTOCOL)
    rows = shown.split('<th scope="row">')[1:]
    counts = [
        [cell.partition("</span>")[2].partition("<")[0] for cell in row.split("<td>")[1:]] for row in rows
    ]
    assert counts[0] == [""] * 3 + ["1"] + [""] * 7
    assert counts[1] == [""] * 3 + ["1"] + [""] * 4 + ["2"] + [""] * 2
    assert plane_view.histogram([], PROTOCOL) == ""


# ---- one image


def test_boxes_come_while_the_answer_is_written_and_the_rest_at_its_end(page):
    first = PlaneReply("…", boxes=BOXES[:1])
    made = page(first, FOUND)
    updates = list(made.on_judge(upload("scan.png"), "en", "en"))
    pictures = [u[made.picture] for u in updates if made.picture in u]
    assert [shown.count("<rect") for shown in pictures] == [0, 0, 1, 2]
    (turn,) = made.opening.assistant.asked
    assert (turn.task, turn.text, turn.language, len(turn.frames)) == ("plane", "", "en", 1)
    *_, last, done = updates
    assert last[made.review].assessment == FOUND.assessment and last[made.review].finished
    assert [value for _, value in last[made.struck].choices] == ["spleen.incomplete"]
    assert text("plane_done", "zh", file="scan.png") in done[made.status]


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_goes_wrong_is_said_and_the_page_lives_on(page, language):
    made = page(ModelError("too narrow", "过于狭长"))
    *_, last = made.on_judge(upload("scan.png"), language, language)
    assert ("过于狭长" if language == "zh" else "too narrow") in last[made.status]
    first, *_, last = made.on_judge(None, language, language)
    assert text("no_image", language) in last[made.status]
    gone = (first[made.review], first[made.verdict], first[made.struck].choices)
    assert gone == (None, "", []), "nothing of the image before stands beside another file's name"
    cleared = made.on_clear(language)
    assert (cleared[made.review], cleared[made.verdict], cleared[made.status]) == (None, "", "")


def test_a_box_on_a_screen_dump_is_in_the_files_own_pixels(page):
    rng = np.random.default_rng(3)
    pixels, _ = screen(rng, fan(rng))
    made = page()
    path = upload("screen.png", pixels=pixels)
    *_, last, _ = made.on_judge(path, "en", "en")
    review = last[made.review]
    assert review.offset != (0, 0) and review.size[0] < pixels.shape[1]
    x, y = review.offset
    assert f'<rect x="{10 - x}" y="{20 - y}"' in last[made.picture]


# ---- a clinician's changes


def test_a_struck_deduction_gives_its_points_back_and_stays_visible(page):
    made = page()
    after = made.on_strike(REVIEW, [], "en", "spleen.incomplete")
    found = after[made.review].assessment
    assert (found.score, found.by, found.deductions[0].struck) == (10, CLINICIAN, True)
    assert "<strong>10</strong>" in after[made.verdict] and 'class="struck"' in after[made.verdict]
    assert text("plane_score_clinician", "en") in after[made.verdict]


def test_an_added_deduction_costs_the_protocols_points_and_is_the_clinicians(page):
    made = page()
    items = dict((value, words) for words, value in made._choices(REVIEW, "zh")[made.added].choices)
    assert "splenic_hilum.not_displayed" in items and "attenuation.mild" in items
    assert "spleen.incomplete" not in items and items["splenic_hilum.not_displayed"].endswith("−3")
    after = made.on_add(REVIEW, [], "zh", "splenic_hilum.not_displayed", " out of\n the plane ")
    found = after[made.review].assessment
    assert (found.score, found.deductions[-1].by) == (5, CLINICIAN)
    assert found.deductions[-1].reason == "out of the plane" and after[made.reason] == ""
    assert text("plane_by_clinician", "zh") in after[made.verdict]


def test_a_corrected_box_moves_and_is_marked(page):
    made = page()
    assert made.on_box(REVIEW, 1) == ["splenic_hilum", 20, 30, 40, 50]
    after = made.on_correct(REVIEW, [], "en", 1, "splenic_hilum", 22, 31, 44, 55)
    found = after[made.review].assessment
    assert found.structures[1] == Structure("splenic_hilum", (22, 31, 44, 55), CLINICIAN)
    assert '<rect x="22" y="31" width="22" height="24"/>' in after[made.picture]


@pytest.mark.parametrize(
    "edges",
    [(11, 12, None, 14), (15, 15, 15, 19), (15, 19, 18, 16), (12, 12, 999, 20), (5, 12, 15, 15)],
    ids=str,
)
def test_a_box_that_is_none_is_refused_with_a_sentence_in_either_language(page, edges):
    made, review = page(), replace(REVIEW, offset=(10, 10))
    after = made.on_correct(review, [], "en", 0, "spleen", *edges)
    assert set(after) == {made.status} and "cannot be changed" in after[made.status]
    after = made.on_correct(review, [], "zh", 0, "spleen", *edges)
    assert "无法修改：边界框" in after[made.status]


def test_a_structure_that_was_missed_gets_a_box(page):
    made = page()
    after = made.on_place(REVIEW, [], "en", "spleen", 1, 2, 33, 44)
    assert after[made.review].assessment.structures[-1] == Structure("spleen", (1, 2, 33, 44), CLINICIAN)
    assert after[made.picture].count("<rect") == 3 and text("plane_by_clinician", "en") in after[made.picture]
    again = made.on_place(after[made.review], [], "zh", "spleen", 1, 2, 33, 44)
    assert set(again) == {made.status} and "该边界框已经存在" in again[made.status]
    outside = made.on_place(REVIEW, [], "en", "spleen", 1, 2, 999, 44)
    assert set(outside) == {made.status} and "x from 0 to 128" in outside[made.status]


def test_a_box_is_taken_away_and_the_score_follows(page):
    made = page()
    after = made.on_remove(REVIEW, [REVIEW], "en", 1)
    found = after[made.review].assessment
    assert found.structures == BOXES[:1] and (found.score, found.by) == (5, CLINICIAN)
    assert after[made.picture].count("<rect") == 1 and after[made.queue] == [after[made.review]]
    assert "<strong>5</strong>" in after[made.verdict]
    assert after[made.verdict].count(text("plane_by_clinician", "zh")) == 1  # of "not displayed"
    assert len(after[made.boxed].choices) == 1
    nothing = made.on_remove(REVIEW, [], "zh", None)
    assert set(nothing) == {made.status} and text("plane_choose_first", "zh") in nothing[made.status]


def test_other_planes_are_the_clinicians_and_the_score_follows(page):
    made = page()
    choices = made._choices(REVIEW, "zh")[made.planes]
    assert choices.value == ["spleen_longitudinal"] and len(choices.choices) == 12
    after = made.on_rename(REVIEW, [], "en", ["left_kidney_longitudinal", "spleen_longitudinal"])
    found = after[made.review].assessment
    assert found.planes == ("spleen_longitudinal", "left_kidney_longitudinal") and found.score == 8
    assert after[made.verdict].count("<em>") == 2
    assert plane_review.record(after[made.review])["plane_by"] == CLINICIAN
    none = made.on_rename(REVIEW, [], "en", [NON_STANDARD])
    assert none[made.review].assessment.score is None
    assert text("plane_not_scored", "zh") in none[made.verdict]
    assert text("plane_by_clinician", "zh") in none[made.verdict]
    for planes in ([], [NON_STANDARD, "spleen_longitudinal"]):
        refused = made.on_rename(REVIEW, [], "zh", planes)
        assert set(refused) == {made.status} and "请选择一个或多个标准切面" in refused[made.status]


def test_a_box_of_something_unknown_takes_a_name_of_the_protocols(page):
    made = page()
    odd = REVIEW.with_reply(replace(FOUND, boxes=(Structure("gizzard", (1, 2, 3, 4)),)))
    assert made.on_box(odd, 0)[0] is None  # no choice of the list
    refused = made.on_correct(odd, [], "zh", 0, None, 1, 2, 3, 4)
    assert "请选择结构名称" in refused[made.status]
    named = made.on_correct(odd, [], "zh", 0, "spleen", 1, 2, 3, 4)
    assert named[made.review].assessment.structures == (Structure("spleen", (1, 2, 3, 4), CLINICIAN),)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_choice_that_no_longer_holds_is_told_in_the_pages_language(page, language):
    made = page()
    unscored = REVIEW.with_reply(replace(FOUND, score=None, grade=None, deductions=()))
    for after in (
        made.on_strike(REVIEW, [], language, "spleen.not_displayed"),
        made.on_add(REVIEW, [], language, "heart.incomplete", ""),
        made.on_add(unscored, [], language, "attenuation.mild", ""),
        made.on_correct(REVIEW, [], language, 2, None, 1, 2, 3, 4),
        made.on_remove(REVIEW, [], language, 2),
    ):
        why = text("plane_bad_change", language, why=text("plane_stale", language))
        assert set(after) == {made.status} and why in after[made.status]
    outside = made.on_correct(REVIEW, [], language, 0, None, -1, 2, 3, 4)
    assert ("边界框须满足" in outside[made.status]) == (language == "zh")


def test_gradio_refuses_no_correction_in_words_of_its_own():
    """A choice that is no longer offered, or an edge below 0, would be told in English whatever the page."""
    with gr.Blocks() as blocks:
        language = gr.Textbox()
        made = PlanesPage(ready(Told(FOUND)))
        made.place()
        made.wire(language)
    inputs = {made.struck, made.added, made.planes, made.boxed, made.named, *made.edges}
    corrections = [fn for fn in blocks.fns.values() if inputs & set(fn.inputs)]
    assert len(corrections) == 7 and not any(fn.preprocess for fn in corrections)
    of_language = [fn for fn in blocks.fns.values() if (language._id, "change") in fn.targets]
    assert {fn.fn.__name__ for fn in of_language} == {"on_language", "on_table"}


def test_changing_nothing_says_so(page):
    made = page()
    for after in (made.on_strike(None, [], "en", "x"), made.on_add(REVIEW, [], "en", None, "")):
        assert text("plane_choose_first", "en") in after[made.status]


# ---- a folder


def run(made, paths, queue=(), stop_after=None):
    updates = []
    events = made.on_run(paths, list(queue), "en", "en")
    for update in events:
        updates.append(update)
        if stop_after and sum(made.queue in each for each in updates) > stop_after:
            events.close()
            break
    return updates, [u[made.queue] for u in updates if made.queue in u][-1]


def test_a_folder_is_judged_with_progress_table_histogram_and_files(page):
    made = page()
    paths = [upload(f"{n}.png", n) for n in (1, 2, 3)]
    updates, queue = run(made, paths)
    assert [each.source for each in queue] == ["1.png", "2.png", "3.png"]
    assert all(each.finished for each in queue)
    last = next(u for u in reversed(updates) if made.table in u)
    rows = last[made.table].value["data"]
    assert [row[:2] for row in rows] == [[1, "1.png"], [2, "2.png"], [3, "3.png"]]
    assert rows[0][3:5] == [8, "Good"] and "spleen" in rows[0][5]
    assert 'max="3" value="3"' in updates[-1][made.progress]
    assert "plane-histogram" in last[made.histogram]
    assert json.loads(Path(last[made.json].value["path"]).read_text("utf-8"))["images"][2]["file"] == "3.png"


def test_stop_keeps_what_is_done_and_starting_again_goes_on(page, monkeypatch):
    monkeypatch.setattr(abvlm_q, "BATCH", 2)
    made = page()
    paths = [upload(f"{n}.png", n) for n in range(5)]
    _, queue = run(made, paths, stop_after=1)
    assert [each.finished for each in queue] == [True, True, False, False, False]
    halted = made.on_halted(queue, "zh")
    assert text("plane_halted", "zh", done=2, count=5) in halted[made.progress]
    assert [row[3] for row in halted[made.table].value["data"]] == [8, 8, None, None, None]
    assert len(made.opening.assistant.asked) == 2
    corrected = [queue[0].changed(Add("attenuation", "mild"), PROTOCOL), *queue[1:]]
    _, again = run(made, paths, corrected)
    assert all(each.finished for each in again) and len(made.opening.assistant.asked) == 5
    assert again[0].assessment.by == CLINICIAN  # what a clinician did is not judged again


def test_a_bad_file_and_a_refused_image_do_not_stop_the_others(page):
    made = page(ModelError("too narrow", "过于狭长"))
    letter = Path(upload("good.png", 9)).with_name("letter.png")
    letter.write_text("Dear colleague")
    updates, queue = run(made, [str(letter), upload("1.png", 1), upload("2.png", 2)])
    assert [each.error["en"] for each in queue] == ["too narrow"] * 2
    assert "letter.png" in updates[-1][made.progress]


def test_files_of_one_name_are_told_apart(page):
    made = page()
    paths = [upload("IM0001.png", seed, place=f"series-{seed}") for seed in (1, 2, 3)]
    _, queue = run(made, paths)
    assert [each.source for each in queue] == ["IM0001.png", "IM0001.png (2)", "IM0001.png (3)"]
    _, again = run(made, paths[::-1], queue)
    assert again == queue and len(made.opening.assistant.asked) == 3


def test_a_large_folder_tells_how_many_of_its_files_are_read(page, monkeypatch):
    monkeypatch.setattr(abvlm_q, "_SHOW_EVERY", -1)
    made = page()
    updates, _ = run(made, [upload(f"{n}.png", n) for n in range(3)])
    begun = next(n for n, update in enumerate(updates) if made.queue in update)
    read = [update[made.progress] for update in updates[1:begun]]
    assert [f'max="3" value="{n}"' in bar for n, bar in enumerate(read)] == [True] * 3
    assert text("plane_reading", "zh", done=2, count=3) in read[2]


def test_a_correction_while_the_folder_is_read_again_is_kept(page, monkeypatch):
    monkeypatch.setattr(abvlm_q, "_SHOW_EVERY", -1)
    made, paths = page(), [upload(f"{n}.png", n) for n in range(2)]
    _, queue = run(made, paths)
    events = made.on_run(paths, queue, "en", "en")
    next(events), next(events)
    made.on_strike(queue[1], queue, "en", "spleen.incomplete")
    *_, again = (update[made.queue] for update in events if made.queue in update)
    assert [each.assessment.score for each in again] == [8, 10]


def test_another_folder_offers_no_files_of_the_last_one(page):
    made = page()
    _, queue = run(made, [upload("1.png", 1)])
    events = made.on_run([upload("2.png", 2)], queue, "en", "en")
    first = next(update for update in events if made.queue in update)
    for button in (made.csv, made.json):
        assert (first[button].value, first[button].interactive) == (None, False)


def test_a_click_on_results_that_are_gone_says_so(page):
    class Event:
        row_value = ["1", "1.png"]

    made = page()
    assert text("plane_expired", "zh") in made.on_open([], "zh", Event)[made.progress]


def test_a_correction_while_the_folder_runs_is_kept(page, monkeypatch):
    monkeypatch.setattr(abvlm_q, "BATCH", 1)
    made = page()
    events = made.on_run([upload(f"{n}.png", n) for n in range(3)], [], "en", "en")
    queue = next(u[made.queue] for u in events if made.queue in u and u[made.queue][0].finished)
    made.on_strike(queue[0], queue, "en", "spleen.incomplete")
    *_, last = (u[made.queue] for u in events if made.queue in u)
    assert [each.assessment.score for each in last] == [10, 8, 8]


def test_one_image_that_breaks_the_model_does_not_keep_the_others_waiting(page):
    made = page()
    broken = upload("2.png", 2)
    whole = made.opening.assistant.answer

    def answer(turns):
        if any(turn.frames[0].source == "2.png" for turn in turns):
            raise RuntimeError("a kernel failed")
        return whole(turns)

    made.opening.assistant.answer = answer
    _, queue = run(made, [upload("1.png", 1), broken, upload("3.png", 3)])
    assert [each.finished for each in queue] == [True, False, True]
    assert "RuntimeError" in queue[1].error["en"] and "RuntimeError" in queue[1].error["zh"]


def test_a_folder_that_outlives_its_images_says_what_to_do(page):
    made = page()
    events = made.on_run([upload("1.png", 1)], [], "en", "en")
    queue = next(u[made.queue] for u in events if made.queue in u)
    Path(queue[0].path).unlink()
    list(events)
    assert queue[0].error == {each: text("plane_gone", each) for each in LANGUAGES}


def test_the_model_sees_in_a_folder_what_was_kept_and_no_less(page, monkeypatch):
    """What was cut to its sector is not cut again, which would move every box."""
    made = page()
    rng = np.random.default_rng(3)
    pixels, _ = screen(rng, fan(rng))
    events = made.on_run([upload("screen.png", pixels=pixels)], [], "en", "en")
    queue = next(u[made.queue] for u in events if made.queue in u)
    monkeypatch.setattr("imaging.files.find_sector", lambda pixels: (9, 9, 60, 60))
    list(events)
    frame = made.opening.assistant.asked[-1].frames[0]
    assert (frame.pixels.shape[1::-1], frame.offset) == (queue[0].size, queue[0].offset)


def test_what_means_nothing_has_no_reason_in_the_table_and_no_place_in_the_histogram():
    strange = replace(REVIEW, unfamiliar=True)
    for language in LANGUAGES:
        assert plane_view.row(1, strange, PROTOCOL, language)[-1] == text("plane_unfamiliar", language)
    assert plane_view.histogram([strange], PROTOCOL) == ""
    (line,) = csv.DictReader(io.StringIO(plane_review.as_csv([strange], "M").removeprefix("\ufeff")))
    assert line["doubts"] == "unfamiliar"


def test_what_was_refused_is_tried_again_with_the_next_start(page):
    made = page(ModelError("too narrow", "过于狭长"))
    _, queue = run(made, [upload("1.png", 1)])
    assert queue[0].error and not queue[0].finished
    made.opening.assistant.replies = (FOUND,)
    _, again = run(made, [upload("1.png", 1)], queue)
    assert again[0].finished and again[0].error is None


def test_each_image_of_a_cine_is_judged_in_a_folder_and_none_is_dropped_unsaid_alone(page):
    made = page()
    path = pages.write_dicom(Path(upload("still.png")).parent, "cine.dcm", frames=3)
    _, queue = run(made, [path])
    assert [each.source for each in queue] == [f"cine.dcm #{n}" for n in (1, 2, 3)]
    assert len({each.path for each in queue}) == 3
    asked = len(made.opening.assistant.asked)
    *_, last = made.on_judge(path, "zh", "zh")
    assert "cine.dcm 含多幅图像" in last[made.status] and len(made.opening.assistant.asked) == asked


def test_a_change_reaches_the_queue_and_a_click_opens_the_row(page):
    made = page()
    _, queue = run(made, [upload(f"{n}.png", n) for n in (1, 2)])
    after = made.on_strike(queue[1], queue, "en", "spleen.incomplete")
    assert [each.assessment.score for each in after[made.queue]] == [8, 10]

    class Event:
        row_value = ["2", "2.png"]

    opened = made.on_open(after[made.queue], "en", Event)
    assert opened[made.review] == after[made.queue][1] and opened[made.ways].selected == "one"


# ---- what leaves the page


def test_csv_and_json_hold_everything_and_no_formula():
    reviews = [
        replace(REVIEW, source="=cmd.png"),
        REVIEW.changed(Add("splenic_hilum", "incomplete"), PROTOCOL),
        replace(REVIEW, assessment=None, error={"zh": "坏", "en": "bad"}),
        REVIEW.changed(Remove(0), PROTOCOL),
    ]
    rows = list(csv.DictReader(io.StringIO(plane_review.as_csv(reviews, "M").removeprefix("\ufeff"))))
    assert rows[0]["file"] == "'=cmd.png" and rows[0]["main_deduction"] == "spleen.incomplete"
    assert (rows[1]["score"], rows[1]["by"], rows[2]["doubts"]) == ("6", CLINICIAN, "bad")
    assert rows[0]["boxes"] == "spleen 10 20 60 70; splenic_hilum 20 30 40 50"
    told = json.loads(plane_review.as_json(reviews, "M"))
    assert "research use only" in told["note"] and told["model"] == "M"
    assert told["images"][1]["deductions"][1]["by"] == CLINICIAN
    spleen = {"label": "spleen", "box": [10, 20, 60, 70], "by": "model"}
    assert told["images"][0]["boxes"][0] == spleen and not told["images"][0]["withdrawn_boxes"]
    assert told["images"][3]["withdrawn_boxes"] == [spleen] and spleen not in told["images"][3]["boxes"]


# ---- the endpoint


@pytest.fixture(scope="module")
def client():
    with served(ready(Told(FOUND))) as (address, _):
        yield Client(address, verbose=False)


def test_there_is_one_endpoint(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/plane"}
    assert not client.view_api(return_format="dict")["unnamed_endpoints"]


def test_a_program_gets_the_assessment(client, tmp_path):
    found = client.predict(handle_file(pages.write_png(tmp_path)), "zh", api_name="/plane")
    assert (found["file"], found["score"], found["plane"]) == ("scan.png", 8, ["spleen_longitudinal"])
    assert found["boxes"][0] == {"label": "spleen", "box": [10, 20, 60, 70], "by": "model"}
    assert found["deductions"][0]["item"] == "spleen.incomplete"


def test_a_bad_file_or_language_is_named(client, tmp_path):
    (tmp_path / "letter.png").write_text("Dear colleague")
    with pytest.raises(AppError, match="letter.png"):
        client.predict(handle_file(str(tmp_path / "letter.png")), "en", api_name="/plane")
    with pytest.raises(AppError, match=re.escape(text("no_image", "en"))):
        client.predict(None, "en", api_name="/plane")
    with pytest.raises(AppError, match="'fr' is not one of zh, en"):
        client.predict(handle_file(pages.write_png(tmp_path)), "fr", api_name="/plane")


def test_real_weights_through_the_endpoint(tmp_path):
    """Tiny weights that say a whole answer, from the file to the record."""
    folder = save(tmp_path / "weights")
    assistant = scripted(AbVLMQAssistant.open(str(folder), device="cpu"), text_of(CASE, Canvas((128, 96))))
    with served(ready(assistant)) as (address, _):
        found = Client(address, verbose=False).predict(
            handle_file(pages.write_png(tmp_path)), "zh", api_name="/plane"
        )
    assert [each["box"] for each in found["boxes"]] == [each["box"] for each in CASE.boxes]
    assert (found["score"], found["grade"], found["flags"]) == (8, "good", [])
