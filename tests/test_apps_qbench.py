"""The Quality page without a browser: its endpoints, its table, its CSV, and what Stop keeps."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pages
import pytest
import tiny
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from apps import qbench, ratings
from apps.language import LANGUAGES, text
from apps.opening import Opening
from apps.qbench import Asked, Found
from assistants.base import Settings
from assistants.qbench import prompts
from assistants.qbench.assistant import QualityReply
from imaging.files import load_frames
from models.errors import UnusableImage


@pytest.fixture(scope="module")
def opening(tmp_path_factory):
    return Opening("qbench", str(tiny.save(tmp_path_factory.mktemp("weights"), "qwen2_vl")), device="cpu")


@pytest.fixture(scope="module")
def server(opening):
    with pages.served(opening) as (address, page):
        yield address, page


@pytest.fixture
def client(server):
    return Client(server[0], verbose=False)


def files(folder, count):
    return [handle_file(pages.write_png(folder, f"{n}.png", seed=n)) for n in range(count)]


# ---- the endpoints


def test_both_endpoints_are_there_and_no_other(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/quality", "/compare"}
    assert not client.view_api(return_format="dict")["unnamed_endpoints"]


def test_a_program_gets_a_growing_list_of_ratings(client, tmp_path):
    parts = list(client.submit(files(tmp_path, 6), "contextual", "liver", "zh", api_name="/quality"))
    assert [len(part["ratings"]) for part in parts if part] == [4, 6]
    for number, rating in enumerate(parts[-1]["ratings"]):
        assert rating["image"] == f"{number}.png" and rating["prompt"] == "contextual"
        assert rating["language"] == "zh" and rating["problem"] is None
        assert rating["read_by"] and "reasons" in rating and 0 <= rating["open_mass"] <= 1
        assert sum(rating["probabilities"].values()) == pytest.approx(1)
        assert 0 <= rating["score"] <= 10 and set(rating["indicators"]) == set(ratings.INDICATORS)
    assert "/" not in json.dumps(parts[-1]).replace("0/", "")  # no place on this machine


def test_a_bad_file_is_listed_in_its_place(client, tmp_path):
    (tmp_path / "letter.png").write_text("Dear colleague")
    listed = files(tmp_path, 2)
    listed.insert(1, handle_file(str(tmp_path / "letter.png")))
    found = client.predict(listed, api_name="/quality")
    assert found["files_done"] == 3
    assert [rating["image"] for rating in found["ratings"]] == ["0.png", "letter.png", "1.png"]
    assert "is not an image" in found["ratings"][1]["problem"]
    assert found["ratings"][1]["probabilities"] is None


def test_a_program_compares_two_images(client, tmp_path, opening):
    found = client.predict(files(tmp_path, 2), api_name="/compare")
    assert sum(found["best_probabilities"]) == pytest.approx(1)
    assert found["ranking"][0] == found["best"] and len(found["ratings"]) == 2
    assert found["best_probabilities"][found["best"]] == max(found["best_probabilities"])


@pytest.mark.parametrize(
    ("api", "count", "choices", "says"),
    [
        ("/quality", 0, (), "Please add at least one"),
        ("/quality", 1, ("poem",), "diagnostic"),
        ("/quality", 1, ("basic", "spleen"), "liver"),
        ("/quality", 1, ("basic", "any", "fr"), "zh"),
        ("/compare", 1, (), "two images or more"),
        ("/compare", 1, ("basic", "any", "zh"), "两幅"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(client, tmp_path, api, count, choices, says):
    with pytest.raises(AppError, match=says):
        client.predict(files(tmp_path, count), *choices, api_name=api)


@pytest.mark.parametrize(
    ("api", "sent", "says"),
    [
        ("/compare", None, "two images or more"),
        ("/quality", None, "Please add at least one"),
        ("/quality", "scan.png", "must be a list of uploaded files"),
        ("/quality", [{"url": None}], "must be a list of uploaded files"),
        ("/compare", ["scan.png"], "must be a list of uploaded files"),
    ],
)
def test_what_is_no_list_of_uploads_is_said_in_one_sentence(client, api, sent, says):
    with pytest.raises(AppError, match=says):
        client.predict(sent, api_name=api)


def test_a_comparison_takes_no_file_it_cannot_read(client, tmp_path):
    (tmp_path / "letter.png").write_text("Dear colleague")
    with pytest.raises(AppError, match=r"letter\.png"):
        client.predict([*files(tmp_path, 2), handle_file(str(tmp_path / "letter.png"))], api_name="/compare")


# ---- what is shown


def found(low=0.1, high=0.6, **more):
    shares = {"high": high, "medium": 1 - low - high, "low": low}
    indicators = dict.fromkeys(prompts.indicators(), 5.0)
    known = {"probabilities": shares, "level": "high", "score": 7.5, "indicators": indicators}
    return ratings.Rated("scan.png", "/x/frame.png", {**known, **more})


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_table_has_a_row_an_image_and_a_cell_a_column(language):
    strange = ratings.Rated("b.png", "/x/b.png", found().found, unfamiliar=True)
    bad = ratings.Rated("c.png", problem={"zh": "无法读取", "en": "unreadable"})
    shown = ratings.table([found(borderline=True), strange, bad], language)
    value = shown["value"]
    written = value["metadata"]["display_value"]
    widths = {len(row) for row in (*value["data"], *written)}
    assert widths == {len(value["headers"])} == {len(shown["column_widths"])}
    assert len(set(value["headers"])) == len(value["headers"])
    first, second, third = value["data"]
    assert first[:2] == [1, "scan.png"] and first[4:8] == [7.5, 0.1, 0.3, 0.6]
    assert written[0][4:8] == ["7.50", "0.100", "0.300", "0.600"]  # equal decimals
    assert first[8] == {"zh": "是", "en": "yes"}[language] and second[8] == "–"  # no cut points: unknown
    assert third[2] == "" and third[5] is None and written[2][5] == ""


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_to_be_noted_stands_beside_the_name(language):
    strange = ratings.Rated("b.png", "/x/b.png", found().found, unfamiliar=True)
    bad = ratings.Rated("c.png", problem={"zh": "无法读取", "en": "unreadable"})
    at = 3  # behind number, image and level
    *rows, last = ratings.table([found(), strange, found(open_mass=0.2), bad], language)["value"]["data"]
    assert [bool(row[at]) for row in rows] == [False, True, True]
    assert "20%" in rows[2][at] and last[at] == {"zh": "无法读取", "en": "unreadable"}[language]
    noted, plain = (ratings.table([each], language)["column_widths"][at] for each in (strange, found()))
    assert noted > plain


def test_the_figure_warns_in_both_languages():
    plain = found(open_mass=0.9)
    strange = ratings.Rated("b.png", "/x/b.png", plain.found, unfamiliar=True)
    assert "doubt" not in ratings.bars(plain)
    for image, zh, en in (
        (strange, "无意义", "means nothing"),
        (found(open_mass=0.2), "不愿以质量等级作答", "hardly wanted to answer"),
    ):
        drawn = ratings.bars(image)
        assert 'class="doubt"' in drawn and zh in drawn and en in drawn
    bad = ratings.bars(ratings.Rated("c.png", problem={"zh": "坏", "en": "bad"}))
    assert '<span lang="zh">坏</span>' in bad and '<span lang="en">bad</span>' in bad


@pytest.mark.parametrize(
    ("shares", "best", "says"),
    [
        ((0.25, 0.37, 0.38 - 0.005), 2, "No difference"),
        ((0.31, 0.37, 0.32), 1, "probability of 37% (chance 33%)"),
        ((0.504, 0.496), 0, "(chance 50%), less than one percentage point"),
        ((0.52, 0.48), 0, "probability of 52% (chance 50%)"),
    ],
)
def test_a_verdict_shows_the_chance_and_owns_that_it_cannot_tell(shares, best, says):
    said = ratings.verdict([found()] * len(shares), {"best": best, "best_probabilities": shares})
    assert says in said and ("分不出" in said) == ("difference" in said)


def test_a_ranking_says_what_it_goes_by():
    def said(count):
        shares = (0.5, *[0.5 / (count - 1)] * (count - 1))
        return ratings.verdict([found()] * count, {"best": 0, "best_probabilities": shares})

    assert "by their scores" not in said(2)
    assert "by their scores" in said(9) and "not asked" not in said(9)
    assert "More than 9 images" in said(10)


def test_bars_stand_from_low_to_high_whichever_is_longest():
    for shares in ((0.1, 0.6), (0.6, 0.1), (0.3, 0.3)):
        drawn = ratings.bars(found(*shares))
        places = [drawn.index(f'class="fill {level}"') for level in ("low", "medium", "high")]
        assert places == sorted(places)


def test_names_of_files_are_text_and_never_html():
    rated = ratings.Rated("<script>.png", "/x/a.png", found().found)
    assert "<script>" not in ratings.bars(rated)
    verdict = ratings.verdict([rated, rated], {"best": 0, "best_probabilities": (0.6, 0.4)})
    assert "<script>" not in verdict and "60%" in verdict


def test_the_csv_reads_back_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    bad = ratings.Rated("=cmd().png", problem={"zh": "坏", "en": "bad"})
    good = found(path="text", reasons=("no log-probabilities", "no choice"), open_mass=0.2)
    path = Path(ratings.save_csv([good, bad]))
    assert path.is_relative_to(tmp_path) and path.name == "quality.csv"
    text = path.read_bytes()
    assert text.startswith(b"\xef\xbb\xbf")  # or Excel breaks Chinese names
    first, second = csv.DictReader(io.StringIO(text.decode("utf-8-sig")))
    assert (first["image"], first["low"], first["high"], first["level"]) == ("scan.png", "0.1", "0.6", "high")
    assert (first["read_by"], first["reasons"]) == ("text", "no log-probabilities; no choice")
    assert first["clarity"] == "5.0" and first["problem"] == ""
    assert second["image"] == "'=cmd().png" and second["problem"] == "bad"


def test_the_page_offers_what_the_rater_knows():
    assert qbench.PROMPTS == prompts.PROMPTS[:4]
    assert set(qbench.ORGANS) == set(prompts.organs())
    assert ratings.INDICATORS == prompts.indicators()
    assert set(ratings.FOUND) - {"language"} <= set(QualityReply.__dataclass_fields__)


@pytest.mark.parametrize(
    ("weights", "warned"),
    [("https://models.example/v1#a", True), ("http://127.0.0.1:8000/v1#a", False), (None, False)],
)
def test_images_that_leave_this_machine_are_warned_about(weights, warned):
    with qbench.gr.Blocks() as page:
        qbench.build({"qbench": Opening("qbench", weights)}, qbench.gr.Textbox("en"))
    shown = [block.value for block in page.blocks.values() if isinstance(block, qbench.gr.HTML)]
    assert any("models.example" in (value or "") for value in shown) == warned


def test_there_are_images_to_try_it_with():
    for task, count in ((qbench._Rate, 6), (qbench._Compare, 2)):
        frames = load_frames([qbench.EXAMPLES / name for name in task.shown])
        assert len(frames) == count and {frame.pixels.shape for frame in frames} == {(224, 224, 3)}


def test_the_summary_names_whose_cuts_decided_and_the_prompts_language():
    said = ratings.summary([found(cuts_of="simulated <A4C>", language="zh"), found()], "Done.")
    assert said.startswith("Done.") and said.count("simulated &lt;A4C&gt;") == 2  # in both languages
    assert "The prompts were in Chinese." in said and "提示词为中文。" in said
    assert "cut points" not in ratings.summary([found()], "")


def test_this_page_does_not_promise_to_name_the_organ():
    with qbench.gr.Blocks() as page:
        qbench.build({"qbench": Opening("qbench")}, qbench.gr.Textbox("en"))
    (organ,) = [block for block in page.blocks.values() if block.elem_id == "quality-organ"]
    assert [name.key for name, value in organ.choices if value == qbench.ANY_ORGAN] == ["organ_unstated"]


# ---- many images


class Slow:
    """A rater that counts what it is asked, and can be told to fail at a group."""

    name, title, demo, device, dtype, folders = "qbench", "Rater", True, "cpu", "float32", ()
    settings = Settings()

    def __init__(self, fails_at=None):
        self.groups, self.fails_at = [], fails_at

    def stream(self, turn, history=(), settings=None):
        self.groups.append(len(turn.frames))
        if len(self.groups) == self.fails_at:
            raise KeyError("the disk is on fire")
        each = dict(found().found)
        several = len(turn.frames) > 1
        more = {"ratings": (each,) * len(turn.frames)} if several else each
        if turn.task == "compare":
            yield QualityReply("so far", task=turn.task, ratings=(each,))
            shares = (1 / len(turn.frames),) * len(turn.frames)
            more |= {"best": 0, "ranking": tuple(range(len(shares))), "best_probabilities": shares}
        yield QualityReply(
            "done", True, "end", task=turn.task, prompt=turn.text, model="m", wording="w", **more
        )


class Choosy(Slow):
    """A rater whose model cannot read images of one row."""

    def stream(self, turn, history=(), settings=None):
        if any(len(frame.pixels) == 1 for frame in turn.frames):
            raise UnusableImage("too narrow to read", "过于狭长")
        yield from super().stream(turn, history, settings)


def test_an_image_that_the_model_cannot_read_is_listed_and_the_others_are_rated(tmp_path, monkeypatch):
    paths = uploaded(tmp_path, monkeypatch, 6)
    frames = iter([tiny.frame(1, 500) if n == 2 else tiny.frame(seed=n) for n in range(6)])
    monkeypatch.setattr(qbench, "read_examination", lambda files, **_: ([next(frames)], []))
    *_, (done, rated) = qbench.rate(Choosy(), Asked(tuple(paths)))
    assert done == len(rated) == 6
    assert [each.problem and each.problem["zh"] for each in rated] == [
        None, None, "过于狭长", None, None, None
    ]  # fmt: skip


def uploaded(tmp_path, monkeypatch, count):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return [pages.write_png(tmp_path, f"{n}.png", seed=n % 3) for n in range(count)]


def test_two_hundred_images_come_a_few_at_a_time(tmp_path, monkeypatch):
    rater = Slow()
    steps = list(qbench.rate(rater, Asked(tuple(uploaded(tmp_path, monkeypatch, 200)))))
    assert max(rater.groups) == qbench.TOGETHER and sum(rater.groups) == 200
    assert [done for done, _ in steps] == list(range(4, 201, 4))
    assert [len(rated) for _, rated in steps] == list(range(4, 201, 4))
    assert [each.image for each in steps[-1][1]] == [f"{n}.png" for n in range(200)]


def test_leaving_stops_the_rater_and_keeps_what_was_yielded(tmp_path, monkeypatch):
    rater = Slow()
    steps = qbench.rate(rater, Asked(tuple(uploaded(tmp_path, monkeypatch, 40))))
    next(steps)
    _, kept = next(steps)
    steps.close()
    assert len(kept) == 8 and sum(rater.groups) == 8


def page_of(kind, rater):
    with qbench.gr.Blocks():
        return kind(pages.ready(rater))


def run(page, paths, before=None, choices=("basic", "any", "en")):
    """The updates of a run, and what it found."""
    updates = list(page._run(paths, before or Found(), "en", *choices))
    return updates, [update[page.found] for update in updates if page.found in update][-1]


def test_a_failure_in_the_middle_keeps_what_is_there_and_hands_the_buttons_back(tmp_path, monkeypatch):
    page = page_of(qbench._Rate, Slow(fails_at=2))
    updates, kept = run(page, uploaded(tmp_path, monkeypatch, 12))
    assert len(kept.rated) == 4 and not kept.finished
    assert "KeyError" in updates[-1][page.status] and "on fire" not in updates[-1][page.status]
    assert "conversation" not in updates[-1][page.status]
    assert updates[-1][page.start].interactive and not updates[-1][page.stop].interactive
    assert updates[-1][page.download].interactive  # the four can be saved


def test_stop_keeps_the_ratings_for_the_csv_and_says_the_same_as_the_end(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    page = page_of(qbench._Rate, Slow())
    strange = ratings.Rated("b.png", "/x/b.png", found().found, unfamiliar=True)
    bad = ratings.Rated("c.png", problem={"zh": "坏", "en": "bad"})
    update = page.stopped(Found(rated=[found(), strange, bad]))
    assert "2 images" in update[page.status] and update[page.download].interactive
    assert "could not be read: 1" in update[page.status] and "mean nothing" in update[page.status]
    assert page.found not in update and page.table not in update  # they stay as they are
    assert page.stopped(Found()).get(page.download) is None


def test_starting_again_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    paths = uploaded(tmp_path, monkeypatch, 11)
    (tmp_path / "letter.png").write_text("Dear colleague")
    paths.insert(2, str(tmp_path / "letter.png"))
    _, kept = run(page_of(qbench._Rate, Slow(fails_at=3)), paths)
    assert [each.image for each in kept.rated] == [
        "0.png",
        "1.png",
        "letter.png",
        *(f"{n}.png" for n in range(2, 6)),
    ]
    rater = Slow()
    updates, found_now = run(page_of(qbench._Rate, rater), paths, kept)
    assert sum(rater.groups) == 11 - 6 and found_now.finished
    assert [each.image for each in found_now.rated] == [Path(path).name for path in paths]
    sizes = [len(state.rated) for update in updates for state in update.values() if isinstance(state, Found)]
    assert sizes == sorted(sizes) and sizes[0] == 7  # the table never shrinks on the way


@pytest.mark.parametrize(
    ("files", "choices", "finished"),
    [
        (8, ("basic", "any", "en"), True),
        (7, ("basic", "any", "en"), False),
        (8, ("diagnostic", "any", "en"), False),
        (8, ("basic", "liver", "en"), False),
        (8, ("basic", "any", "zh"), False),
    ],
)
def test_a_run_begins_anew_when_it_was_done_or_is_asked_otherwise(
    tmp_path, monkeypatch, files, choices, finished
):
    paths = uploaded(tmp_path, monkeypatch, 8)
    _, before = run(page_of(qbench._Rate, Slow()), paths)
    page = page_of(qbench._Rate, rater := Slow())
    updates, _ = run(page, paths[:files], replace(before, finished=finished), choices)
    assert sum(rater.groups) == files and not updates[0][page.found].rated


def test_a_comparison_tells_how_far_it_is_and_clears_what_was_there(tmp_path, monkeypatch):
    page = page_of(qbench._Compare, Slow())
    paths = uploaded(tmp_path, monkeypatch, 3)
    updates, done = run(page, paths)
    assert any("1 of 3 images rated" in update.get(page.status, "") for update in updates)
    assert done.best["best"] == 0 and len(done.rated) == 3
    failed, now = run(page, paths[:1], done)
    assert failed[0][page.found] is now and not now.rated and not now.best
    assert "two images or more" in failed[-1][page.status]
    drawn = page.drawn(now, "en")
    assert drawn[page.verdict] == "" and drawn[page.table].visible == drawn[page.slider].visible == "hidden"


def test_the_table_follows_the_pages_language():
    shown = Found(rated=[found(), found()], best={"ranking": (0, 1), "best_probabilities": (0.6, 0.4)})
    for kind in (qbench._Rate, qbench._Compare):
        page = page_of(kind, Slow())
        for language, level in (("zh", "高"), ("en", "high")):
            value = page.worded(shown, language).value
            assert text("column_level", language) in value["headers"] and level in value["data"][0]


def test_the_prompts_language_does_not_jump_under_a_run():
    under_way = Found(Asked(("/u/a.png",)))
    assert qbench._followed("zh", under_way) == qbench.gr.skip()
    assert (
        qbench._followed("zh", Found()) == "zh" == qbench._followed("zh", replace(under_way, finished=True))
    )


def test_a_folder_is_added_in_order_and_no_file_twice():
    added = qbench._added(["/u/1/b.png"], ["/u/3/c.png", "/u/1/b.png", "/u/4/.DS_Store", "/u/2/a.png"])
    assert added == ["/u/1/b.png", "/u/2/a.png", "/u/3/c.png"]
