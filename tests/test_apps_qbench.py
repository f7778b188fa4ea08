"""The Quality page without a browser: its endpoints, its table, its CSV, and what Stop keeps."""

import csv
import io
import json
from pathlib import Path

import pages
import pytest
import tiny
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from apps import qbench, ratings
from apps.language import LANGUAGES
from apps.opening import Opening
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
    assert {len(row) for row in shown["data"]} == {len(shown["headers"])}
    assert len(set(shown["headers"])) == len(shown["headers"])
    first, second, third = shown["data"]
    assert first[:5] == [1, "scan.png", 0.1, 0.3, 0.6] and first[6] == 7.5
    assert first[7] == {"zh": "是", "en": "yes"}[language] and second[7] == "–"  # no cut points: unknown
    assert second[-1] and third[-1] == {"zh": "无法读取", "en": "unreadable"}[language]
    assert third[2] is None and third[5] == ""


def test_bars_stand_from_low_to_high_whichever_is_longest():
    for shares in ((0.1, 0.6), (0.6, 0.1), (0.3, 0.3)):
        drawn = ratings.bars(found(*shares), "en")
        places = [drawn.index(f'class="fill {level}"') for level in ("low", "medium", "high")]
        assert places == sorted(places)


def test_names_of_files_are_text_and_never_html():
    rated = ratings.Rated("<script>.png", "/x/a.png", found().found)
    assert "<script>" not in ratings.bars(rated, "en")
    verdict = ratings.verdict([rated, rated], {"best": 0, "best_probabilities": (0.6, 0.4)}, "en")
    assert "<script>" not in verdict and "60%" in verdict


def test_the_csv_reads_back_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    bad = ratings.Rated("=cmd().png", problem={"zh": "坏", "en": "bad"})
    path = Path(ratings.save_csv([found(), bad]))
    assert path.is_relative_to(tmp_path) and path.name == "quality.csv"
    text = path.read_bytes()
    assert text.startswith(b"\xef\xbb\xbf")  # or Excel breaks Chinese names
    first, second = csv.DictReader(io.StringIO(text.decode("utf-8-sig")))
    assert (first["image"], first["low"], first["high"], first["level"]) == ("scan.png", "0.1", "0.6", "high")
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


def test_the_summary_names_whose_cuts_decided():
    said = ratings.summary([found(cuts_of="simulated <A4C>"), found()], 1.0)
    assert said.count("simulated &lt;A4C&gt;") == 2  # in both languages
    assert "cut points" not in ratings.summary([found()], 1.0)


# ---- many images


class Slow:
    """A rater that counts what it is asked, and can be told to fail at a group."""

    name, title, demo, device, dtype, folders = "qbench", "Rater", True, "cpu", "float32", ()

    def __init__(self, fails_at=None):
        self.groups, self.fails_at = [], fails_at

    def stream(self, turn, history=(), settings=None):
        self.groups.append(len(turn.frames))
        if len(self.groups) == self.fails_at:
            raise KeyError("the disk is on fire")
        each = dict(found().found)
        several = len(turn.frames) > 1
        more = {"ratings": (each,) * len(turn.frames)} if several else each
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
    *_, (done, rated) = qbench.rate(Choosy(), paths, "basic", "any", "en")
    assert done == len(rated) == 6
    assert [each.problem and each.problem["zh"] for each in rated] == [
        None, None, "过于狭长", None, None, None
    ]  # fmt: skip


def uploaded(tmp_path, monkeypatch, count):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return [pages.write_png(tmp_path, f"{n}.png", seed=n % 3) for n in range(count)]


def test_two_hundred_images_come_a_few_at_a_time(tmp_path, monkeypatch):
    rater = Slow()
    steps = list(qbench.rate(rater, uploaded(tmp_path, monkeypatch, 200), "basic", "any", "en"))
    assert max(rater.groups) == qbench.TOGETHER and sum(rater.groups) == 200
    assert [done for done, _ in steps] == list(range(4, 201, 4))
    assert [len(rated) for _, rated in steps] == list(range(4, 201, 4))
    assert [each.image for each in steps[-1][1]] == [f"{n}.png" for n in range(200)]


def test_leaving_stops_the_rater_and_keeps_what_was_yielded(tmp_path, monkeypatch):
    rater = Slow()
    steps = qbench.rate(rater, uploaded(tmp_path, monkeypatch, 40), "basic", "any", "en")
    next(steps)
    _, kept = next(steps)
    steps.close()
    assert len(kept) == 8 and sum(rater.groups) == 8


def test_a_failure_in_the_middle_keeps_what_is_there_and_hands_the_buttons_back(tmp_path, monkeypatch):
    paths = uploaded(tmp_path, monkeypatch, 12)
    with qbench.gr.Blocks():
        page = qbench._Rate(pages.ready(Slow(fails_at=2)))
    updates = list(page._run(paths, "en", "basic", "any", "en"))
    assert [len(update[page.rows]) for update in updates if page.rows in update] == [0, 4]
    assert "KeyError" in updates[-1][page.status] and "on fire" not in updates[-1][page.status]
    assert updates[-1][page.start].interactive and not updates[-1][page.stop].interactive
    assert updates[-1][page.download].interactive  # the four can be saved


def test_stop_keeps_the_ratings_for_the_csv(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with qbench.gr.Blocks():
        page = qbench._Rate(pages.ready(Slow()))
    update = page.stopped("en", [found(), found()], None, None, None)
    assert "2 images" in update[page.status] and update[page.download].interactive
    assert page.rows not in update and page.table not in update  # they stay as they are
    assert page.stopped("en", [], None, None, None).get(page.download) is None
