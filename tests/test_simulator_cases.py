"""`python -m simulator`: what it writes, that seeds decide everything, and what it says to bad arguments."""

from __future__ import annotations

import filecmp
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

from imaging.case import read_cases
from simulator import cases
from simulator.__main__ import main
from simulator.cases import MAKERS, Examined, Order, OrderError, maker, write_examinations
from simulator.draw import Picture
from simulator.examination import ORGANS, PLACES
from simulator.population import sample_examination, views_of_lesion


def test_the_command_writes_cases_images_labels_and_a_contact_sheet(tmp_path, capsys):
    arguments = [
        "--cases",
        "6",
        "--seed",
        "3",
        "--task",
        "report",
        "vqa",
        "--rows",
        "2",
        "--labels",
        "--quiet",
    ]
    assert main([*arguments, str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 6 * 2 * 2 and len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["question"] and row["answer"] and row["organ"] in ORGANS
        assert row["language"] in ("zh", "en") and row["task"] in ("report", "vqa")
        assert all((tmp_path / image).is_file() for image in row["images"] + row["labels"])
        views = row["examination"]["views"]
        assert len(row["mm_per_pixel"]) == len(views) and min(row["mm_per_pixel"]) > 0.05
        assert row.get("valid_images", []) == [i for i, view in enumerate(views) if view["shows_lesion"]]
        assert ("valid_images" in row) == (row["examination"]["lesion"] is not None)
    assert Image.open(tmp_path / "contact_sheet.png").width > 224
    assert len(list(read_cases(tmp_path / "cases.jsonl"))) == len(rows)


def test_same_seed_same_files_whatever_the_workers(tmp_path):
    for name, seed, workers in (("a", 5, 1), ("b", 5, 2), ("c", 6, 1)):
        main(
            ["--cases", "5", "--seed", str(seed), "--workers", str(workers), "--quiet", str(tmp_path / name)]
        )
    assert filecmp.cmp(tmp_path / "a/cases.jsonl", tmp_path / "b/cases.jsonl", shallow=False)
    images = sorted(path.name for path in (tmp_path / "a/images").iterdir())
    same = filecmp.cmpfiles(tmp_path / "a/images", tmp_path / "b/images", images, shallow=False)
    assert same == (images, [], [])
    assert (tmp_path / "a/cases.jsonl").read_text("utf-8") != (tmp_path / "c/cases.jsonl").read_text("utf-8")


@pytest.mark.parametrize("language", ["zh", "en"])
def test_language_and_organ_can_be_chosen(tmp_path, language):
    main(["--cases", "4", "--organ", "kidney", "--language", language, "--quiet", str(tmp_path)])
    made = read_cases(tmp_path / "cases.jsonl")
    assert len({case.images for case in made}) == 4
    for case in made:
        chinese = any("一" <= letter <= "鿿" for letter in case.answer)
        assert case.organ == "kidney" and case.language == language and chinese == (language == "zh")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cases", "0"],
        ["--cases", "3", "--seed", "-1"],
        ["--cases", "3", "--organ", "spleen"],
        ["--cases", "3", "--task", "plane", "--organ", "breast"],
        ["--cases", "3", "--task", "quality", "--organ", "abdomen"],
        ["--cases", "3", "--frames", "8"],
        ["--cases", "3", "--task", "plane", "--frames", "16"],
        ["--cases", "3", "--task", "poem"],
        ["--cases", "3", "--task", "report", "cine"],
        ["--cases", "3", "--task", "cine", "--frames", "1"],
        ["--cases", "3", "--task", "cine", "--frames", "65"],
        ["--cases", "3", "--task", "cine", "--frames", "257", "--format", "dicom"],
        ["--cases", "3", "--task", "report", "vqa", "report"],
        ["--cases", "3", "--task", "quality", "--calipers", "all"],
        ["--cases", "3", "--caliper-values"],
        ["--cases", "3", "--datasets", "--format", "dicom"],
        [],
    ],
)
def test_bad_arguments_end_with_code_two(tmp_path, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(main([*arguments, str(tmp_path)]))
    assert stop.value.code == 2 and capsys.readouterr().err
    assert not any(tmp_path.iterdir())  # refused before anything is written


@pytest.mark.parametrize(
    ("task", "organ", "known"),
    [
        ("report", "spleen", "thyroid, breast, liver, kidney, gynaecology, vessel, heart"),
        ("plane", "heart", "abdomen, kidney, liver, pancreas, spleen"),
        ("quality", "pancreas", "vessel, heart, thyroid, breast, liver, kidney, gynaecology, all"),
    ],
)
def test_an_organ_that_a_task_has_not_is_refused_by_naming_those_it_has(tmp_path, capsys, task, organ, known):
    assert main(["--cases", "1", "--quiet", "--organ", organ, "--task", task, str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said == f"the task {task} has no organ {organ!r}: choose one of {known}, or none\n"


@pytest.mark.parametrize("organ", ["pancreas", "spleen", "abdomen"])
def test_planes_can_be_ordered_of_every_organ_that_they_have(tmp_path, organ):
    flags = ["--cases", "4", "--seed", "2", "--quiet", "--organ", organ, "--task", "plane"]
    assert main([*flags, str(tmp_path)]) == 0
    cases = list(read_cases(tmp_path / "cases.jsonl"))
    standard = [case for case in cases if case.plane != ("non_standard",)]
    assert all(case.organ == organ for case in standard) and bool(standard) == (organ != "abdomen")


def test_examinations_are_plausible():
    rng = np.random.default_rng(0)
    exams = [sample_examination(rng) for _ in range(1500)]
    assert {exam.organ for exam in exams} == set(ORGANS)
    assert 0.35 < np.mean([exam.lesion is None for exam in exams]) < 0.45
    for exam in exams:
        assert 1 <= len(exam.views) <= 7
        if exam.lesion is None:
            assert not any(view.shows_lesion for view in exam.views)
            continue
        lesion = exam.lesion
        fitting = views_of_lesion(exam.organ, lesion)
        assert all(view.name in fitting for view in exam.views if view.shows_lesion)
        assert any(view.shows_lesion for view in exam.views)
        assert lesion.place in PLACES[exam.organ] and lesion.long_mm >= lesion.short_mm > 1
        assert (lesion.posterior == "enhancement") or lesion.kind != "anechoic"
        doppler = any(view.doppler and view.shows_lesion for view in exam.views)
        assert (lesion.vascularity is not None) == doppler


def test_the_longest_cine_in_png_has_its_contact_sheet(tmp_path):
    """Each frame is a file, and `load_frames` opens no more of them together."""
    assert main(["--cases", "1", "--task", "cine", "--frames", "64", "--quiet", str(tmp_path)]) == 0
    assert (tmp_path / "contact_sheet.png").is_file()
    assert Order(0, ("cine",), frames=256, format="dicom").frames == 256


def test_a_task_is_not_taken_for_the_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--cases", "1", "--quiet", "--task", "report", "report"]) == 2
    assert "no folder OUT" in capsys.readouterr().err and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "out", "said"),
    [
        (["--organ", "spleen"], "new", "has no organ 'spleen'"),
        ([], "finished", "holds finished cases already: choose another OUT"),
        ([], "file/below", "cannot be written (Not a directory): choose another OUT"),
    ],
)
def test_no_progress_bar_before_a_refusal(tmp_path, capsys, flags, out, said):
    (tmp_path / "file").write_text("x")
    (tmp_path / "finished").mkdir()
    (tmp_path / "finished" / "cases.jsonl").write_text("")
    assert main(["--cases", "1", *flags, str(tmp_path / out)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert "\r" not in error and "0%" not in error


def test_cases_that_are_there_are_not_written_over(tmp_path, capsys):
    assert main(["--cases", "1", "--quiet", str(tmp_path)]) == 0
    before = (tmp_path / "cases.jsonl").read_bytes()
    assert main(["--cases", "2", "--quiet", str(tmp_path)]) == 2
    assert "choose another OUT" in capsys.readouterr().err
    assert (tmp_path / "cases.jsonl").read_bytes() == before


# --- the contract between a maker and the folder -----------------------------------------------------------


def _made(order: Order, number: int) -> Examined:
    """Three small grey pictures; a row that shows two of them in the other order, and one that shows all."""
    pictures = tuple(
        Picture(np.full((8, 8, 3), 50 * i + number, np.uint8), np.full((8, 8), i, np.uint8), 0.5 + i)
        for i in range(3)
    )
    first = {"task": "compare", "pictures": (2, 0), "question": "q", "level": "low", "artefacts": {"blur": 1}}
    second = {"task": "compare", "organ": "heart", "valid_images": [1], "plane": ["a", "b"], "score": 7.5}
    return Examined(f"s{order.seed}-{number}", pictures, (first, second))


def test_rows_become_cases_with_their_own_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "maker", lambda task: _made)
    list(write_examinations(Order(3, ("compare",), labels=True), 2, tmp_path))
    first, second, *_ = written = list(read_cases(tmp_path / "cases.jsonl"))
    assert [case.id for case in written] == [f"s3-{n}-compare-{row}" for n in (0, 1) for row in (0, 1)]
    assert [int(np.array(Image.open(image))[0, 0]) for image in first.images] == [100, 0]
    assert first.extra == {"artefacts": {"blur": 1}, "mm_per_pixel": [2.5, 0.5]} | {
        "labels": ["labels/s3-0-2.png", "labels/s3-0-0.png"]
    }
    assert first.level == "low" and first.question == "q" and first.patient == second.patient == "s3-0"
    assert len(second.images) == 3 and second.valid_images == (1,) and second.plane == ("a", "b")
    assert second.score == 7.5 and second.extra["mm_per_pixel"] == [0.5, 1.5, 2.5]
    cases.write_metadata(tmp_path, written)
    row = json.loads((tmp_path / "metadata.jsonl").read_text("utf-8").splitlines()[0])
    assert row["answer"] == row["organ"] == "" and row["question"] == "q"  # a column is text in every row


def test_a_task_without_a_maker_is_said_plainly(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(MAKERS, "plane", "simulator.nowhere")
    with pytest.raises(OrderError, match="nothing draws the task plane yet"):
        maker("plane")
    assert main(["--cases", "1", "--task", "plane", "--quiet", str(tmp_path / "out")]) == 2
    assert "simulator.nowhere" in capsys.readouterr().err and not (tmp_path / "out").exists()


def _images(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "images").iterdir()}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_is_done_again_by_the_same_order_and_by_no_other(tmp_path, capsys, workers):
    folder, order = tmp_path / "killed", ["--cases", "300", "--quiet"]
    command = [sys.executable, "-m", "simulator", *order, "--workers", str(workers), str(folder)]
    run = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    for _ in range(300):
        if (folder / "images").exists() and len(list((folder / "images").iterdir())) > 8:
            break
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    left = _images(folder)
    assert left and not list(folder.glob("*cases.jsonl*"))
    assert main([*order, "--seed", "1", str(folder)]) == 2
    assert "simulator.json is of another order (seed 0, now 1)" in capsys.readouterr().err
    assert main(["--cases", "1", "--quiet", str(folder)]) == 2
    assert "(cases 300, now 1): choose another OUT" in capsys.readouterr().err
    assert _images(folder) == left


def test_leftovers_of_an_equal_order_are_cleared_and_the_images_are_those_of_the_cases(tmp_path):
    order = Order(3, ("report", "vqa"), labels=True)
    list(write_examinations(order, 3, tmp_path / "whole"))
    run = write_examinations(order, 3, tmp_path / "broken")
    next(run)
    run.close()
    assert (tmp_path / "broken" / "simulator.json").exists()
    for name in ("images/s3-000077-0.png", "labels/s3-000077-0.png"):  # what a run of other code left
        (tmp_path / "broken" / name).write_bytes(b"half")
    list(write_examinations(order, 3, tmp_path / "broken"))
    for folder in ("images", "labels"):
        names = {path.name for path in (tmp_path / "whole" / folder).iterdir()}
        assert {path.name for path in (tmp_path / "broken" / folder).iterdir()} == names
    assert _images(tmp_path / "broken") == _images(tmp_path / "whole")
    shown = {image.name for case in read_cases(tmp_path / "broken/cases.jsonl") for image in case.images}
    assert shown == set(_images(tmp_path / "broken"))


def test_the_order_is_written_first_and_whole(tmp_path):
    run = write_examinations(Order(9, ("report",), organ="liver"), 2, tmp_path)
    next(run)
    written = json.loads((tmp_path / "simulator.json").read_text("utf-8"))
    assert written["cases"] == 2 and written["tasks"] == ["report"] and written["organ"] == "liver"
    assert set(written) == {"cases", *(field.name for field in fields(Order))}
    run.close()


@pytest.mark.parametrize(
    ("file", "said"), [("images/a.png", "no simulator.json says whose"), ("simulator.json", "is no JSON")]
)
def test_a_folder_that_is_not_the_simulators_is_refused(tmp_path, capsys, file, said):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"x")
    assert main(["--cases", "1", "--quiet", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err and (tmp_path / file).read_bytes() == b"x"


def test_every_row_of_the_metadata_has_the_same_columns(tmp_path):
    """What the image folder reader of Hugging Face `datasets` asks of metadata.jsonl."""
    arguments = ["--cases", "7", "--task", "report", "vqa", "--labels", "--datasets", "--quiet"]
    assert main([*arguments, str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").open(encoding="utf-8")]
    written = (tmp_path / "cases.jsonl").read_text("utf-8").splitlines()
    assert [row["case"] for row in rows] == written
    types = [{key: type(value) for key, value in row.items()} for row in rows]
    assert all(columns == types[0] for columns in types)
    assert types[0].pop("file_names") is list and types[0].pop("labels_file_names") is list
    assert set(types[0].values()) == {str}
    for row in rows:
        assert len(row["file_names"]) == len(row["labels_file_names"]) > 0
        assert all((tmp_path / name).is_file() for name in row["file_names"] + row["labels_file_names"])


def test_hugging_face_datasets_opens_the_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    assert main(["--cases", "3", "--labels", "--datasets", "--quiet", str(tmp_path / "out")]) == 0
    opened = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert len(opened) == 3 and opened[0]["images"][0].size == opened[0]["labels"][0].size == (224, 224)


def test_the_commands_own_line_works_in_either_order(tmp_path, capsys):
    """`--task report OUT` as the help's first line has it, and OUT first."""
    for i, words in enumerate((["--task", "report", "{}"], ["--task", "vqa", "report", "{}"], ["{}"])):
        out = tmp_path / str(i)
        line = ["--cases", "1", "--quiet", *(word.format(out) for word in words)]
        assert main(line) == 0
        assert (out / "cases.jsonl").is_file()
    assert main(["--cases", "1", "--quiet", "--task", "repot", str(tmp_path / "x")]) == 2
    assert "no task is called 'repot'" in capsys.readouterr().err
    (tmp_path / "file").write_text("x")
    assert main(["--cases", "1", "--quiet", str(tmp_path / "file" / "below")]) == 2
    assert "Not a directory" in capsys.readouterr().err


def test_a_banner_moves_the_calipers_with_the_picture(tmp_path):
    """The crosses are coloured; every stated end lies on one."""
    flags = ["--cases", "6", "--seed", "4", "--quiet", "--calipers", "all", "--patient-names"]
    assert main([str(tmp_path / "out"), *flags]) == 0
    ends = 0
    for case in read_cases(tmp_path / "out" / "cases.jsonl"):
        for path, calipers in zip(case.images, case.extra["calipers"], strict=True):
            pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
            for x, y in (end for caliper in calipers for end in caliper["ends"]):
                row, column = round(y), round(x)
                patch = pixels[row - 1 : row + 2, column - 1 : column + 2]
                assert (np.ptp(patch, axis=-1) > 40).any()
                ends += 1
    assert ends >= 8
