"""`python -m simulator`: what it writes, that seeds decide everything, and what it says to bad arguments."""

from __future__ import annotations

import filecmp
import json

import numpy as np
import pytest
from PIL import Image

from imaging.case import read_cases
from simulator.__main__ import main
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
    for case in read_cases(tmp_path / "cases.jsonl"):
        chinese = any("一" <= letter <= "鿿" for letter in case.answer)
        assert case.organ == "kidney" and case.language == language and chinese == (language == "zh")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cases", "0"],
        ["--cases", "3", "--seed", "-1"],
        ["--cases", "3", "--organ", "spleen"],
        ["--cases", "3", "--task", "poem"],
        [],
    ],
)
def test_bad_arguments_end_with_code_two(tmp_path, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(main([*arguments, str(tmp_path)]))
    assert stop.value.code == 2 and capsys.readouterr().err
    assert not (tmp_path / "cases.jsonl").exists()


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


def test_cases_that_are_there_are_not_written_over(tmp_path, capsys):
    assert main(["--cases", "1", "--quiet", str(tmp_path)]) == 0
    before = (tmp_path / "cases.jsonl").read_bytes()
    assert main(["--cases", "2", "--quiet", str(tmp_path)]) == 2
    assert "choose another OUT" in capsys.readouterr().err
    assert (tmp_path / "cases.jsonl").read_bytes() == before
