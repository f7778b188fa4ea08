"""Calipers stand where the picture shows what is stated, the stated length apart; no other pixel changes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from simulator.__main__ import main
from simulator.anatomy.registry import VIEWS
from simulator.calipers import STRUCTURES, draw_calipers, measure, with_calipers
from simulator.draw import Picture, draw_view
from simulator.examination import MEASURES, ORGANS, Examination, Lesion, View
from simulator.population import MEASURE_RANGES, sample_examination
from simulator.probe import SIZE
from simulator.tissue import FLUID, INTERFACE, LESION, OTHER, PARENCHYMA


def examination(organ: str, view: str, lesion: Lesion | None = None, **measures: float) -> Examination:
    typical = {name: sum(limits) / 2 for name, limits in MEASURE_RANGES[organ].items()}
    return Examination(organ, None, "homogeneous", typical | measures, lesion, (View(view, 100.0, True),))


def canvas(mask: np.ndarray, label: int, mm_per_pixel: float = 0.5) -> Picture:
    labels = np.where(mask, np.uint8(label), np.uint8(1))
    return Picture(np.zeros((SIZE, SIZE, 3), np.uint8), labels, mm_per_pixel)


def ellipse(long_px: float, short_px: float, degrees: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    x, y, turn = columns - 105, rows - 100, np.deg2rad(degrees)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return (along / long_px * 2) ** 2 + (across / short_px * 2) ** 2 < 1


@pytest.mark.parametrize("degrees", [0, 25, 70, 90, 140])
def test_an_ellipse_is_measured_along_its_axes(degrees):
    lesion = Lesion("hypoechoic", "oval", "circumscribed", 40.0, 20.0, "left_lobe")
    exam = examination("liver", "left_sagittal", lesion)
    long, short = measure(exam, "left_sagittal", canvas(ellipse(80, 40, degrees), LESION))
    for caliper, length, turn in ((long, 40.0, degrees), (short, 20.0, degrees + 90)):
        (x0, y0), (x1, y1) = caliper.ends
        assert caliper.mm == length and np.hypot(x1 - x0, y1 - y0) * 0.5 == pytest.approx(length, abs=0.02)
        assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((105, 100), abs=1.5)
        miss = (np.rad2deg(np.arctan2(y1 - y0, x1 - x0)) - turn + 90) % 180 - 90
        assert abs(miss) <= 10


def test_what_is_not_shown_in_full_gets_no_calipers():
    lesion = Lesion("hypoechoic", "oval", "circumscribed", 40.0, 20.0, "left_lobe")
    exam = examination("liver", "left_sagittal", lesion)
    half = ellipse(80, 40, 0)
    half[:, 110:] = False
    assert measure(exam, "left_sagittal", canvas(half, LESION)) == []
    smaller = replace(exam, lesion=replace(lesion, long_mm=36.0))
    assert measure(smaller, "left_sagittal", canvas(ellipse(80, 40, 0), LESION)) == []


@pytest.mark.parametrize(
    ("organ", "view", "label", "area", "measures", "ends"),
    [
        ("vessel", "longitudinal", FLUID, np.s_[60:74, :210], {"lumen": 7.0}, [(66.5, 7.0)]),
        ("breast", "radial", PARENCHYMA, np.s_[40:70, :210], {"gland_thickness": 15.0}, [(54.5, 15.0)]),
        ("breast", "radial", PARENCHYMA, np.s_[40:70, :210], {"gland_thickness": 18.0}, []),
    ],
)
def test_a_layer_is_measured_down_a_column(organ, view, label, area, measures, ends):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[area] = True
    found = measure(examination(organ, view, **measures), view, canvas(mask, label))
    assert [(round(sum(end[1] for end in c.ends) / 2, 2), c.mm) for c in found] == ends
    assert all(abs(c.ends[0][0] - c.ends[1][0]) < 0.01 for c in found)


@pytest.mark.parametrize("organ", ORGANS)
def test_calipers_are_true_to_the_statement_within_a_pixel(organ):
    """The crosses as they stand on the screen, and the edge of what they measure next to each."""
    rng, seen = np.random.default_rng(4), 0
    for _ in range(8):
        exam = sample_examination(rng, organ)
        for view in exam.views:
            picture = draw_view(exam, view)
            stated = exam.measures | ({} if exam.lesion is None else vars(exam.lesion))
            for caliper in measure(exam, view.name, picture):
                (x0, y0), (x1, y1) = ((round(x), round(y)) for x, y in caliper.ends)
                apart = np.hypot(x1 - x0, y1 - y0)
                assert stated[caliper.what] == caliper.mm
                assert apart == pytest.approx(caliper.mm / picture.mm_per_pixel, abs=1.42)  # rounded ends
                if caliper.what == "long_mm":
                    rows, columns = np.nonzero(picture.labels == LESION)
                    for x, y in caliper.ends:
                        assert np.hypot(columns - x, rows - y).min() <= 0.25 * apart
                seen += 1
    assert seen >= 5


def test_every_structure_is_a_measure_of_its_organ():
    for (organ, _), structures in STRUCTURES.items():
        for names, how, _ in structures:
            assert set(names) <= set(MEASURES[organ])
            assert how in ("down", "across", "tube", "axes", "rim")
            assert len(names) == (2 if how == "axes" else 1)


PRINCIPAL = {organ: next(iter(VIEWS[organ])) for organ in ORGANS} | {"liver": "right_intercostal"}


@pytest.mark.parametrize("organ", ORGANS)
def test_every_stated_measure_gets_a_caliper_of_its_length(organ):
    """In nearly every normal principal view, for the smallest and the largest organ."""
    found = dict.fromkeys(MEASURES[organ], 0)
    for seed in range(10):
        measures = {name: float(limits[seed % 2]) for name, limits in MEASURE_RANGES[organ].items()}
        view = View(PRINCIPAL[organ], VIEWS[organ][PRINCIPAL[organ]].depths_mm[0], False, seed=seed)
        exam = Examination(organ, "left", "homogeneous", measures, None, (view,))
        picture = draw_view(exam, view)
        for caliper in measure(exam, view.name, picture):
            (x0, y0), (x1, y1) = caliper.ends
            assert np.hypot(x1 - x0, y1 - y0) * picture.mm_per_pixel == pytest.approx(caliper.mm, abs=0.05)
            assert caliper.mm == measures[caliper.what]
            found[caliper.what] += 1
    least = {"lobe_depth": 4, "left_ventricle": 8}  # a lobe's deepest place is at times beside the middle
    assert all(count >= least.get(name, 9) for name, count in found.items()), found


def across(picture: Picture, ends: tuple, length: float = 4.0) -> tuple[list[int], list[int]]:
    """Classes of the label map a little inside and a little outside of each end."""
    (x0, y0), (x1, y1) = ends
    apart = np.hypot(x1 - x0, y1 - y0)
    sides = ([], [])
    for (x, y), way in (((x0, y0), 1), ((x1, y1), -1)):
        for side, step in zip(sides, (way * length, -way * length), strict=True):
            row, column = round(y + step * (y1 - y0) / apart), round(x + step * (x1 - x0) / apart)
            side.append(int(picture.labels[row, column]))
    return sides


@pytest.mark.parametrize(
    ("organ", "name", "inside", "outside", "step"),
    [
        ("heart", "left_atrium", {FLUID}, {PARENCHYMA, OTHER, INTERFACE}, 1.0),
        ("heart", "septum", {PARENCHYMA, OTHER}, {FLUID}, 3.5),
        ("thyroid", "lobe_width", {PARENCHYMA}, {PARENCHYMA, OTHER, INTERFACE, FLUID}, 2.5),
        ("thyroid", "isthmus", {PARENCHYMA}, {OTHER, INTERFACE}, 2.0),
        ("gynaecology", "uterus_length", {PARENCHYMA, OTHER}, {OTHER}, 4.0),
        ("gynaecology", "endometrium", {OTHER}, {PARENCHYMA}, 3.0),
        ("kidney", "parenchyma", {PARENCHYMA}, {OTHER, FLUID, INTERFACE}, 4.0),
        ("vessel", "intima_media", {OTHER}, {FLUID, OTHER}, 1.2),
    ],
)
def test_what_the_label_map_does_not_tell_apart_is_measured_at_its_borders(
    organ, name, inside, outside, step
):
    good = total = 0
    for seed in range(10):
        exam = replace(examination(organ, PRINCIPAL[organ]), side="left")
        view = View(PRINCIPAL[organ], VIEWS[organ][PRINCIPAL[organ]].depths_mm[0], False, seed=seed)
        picture = draw_view(exam, view)
        for caliper in measure(exam, view.name, picture):
            if caliper.what == name:
                near, far = across(picture, caliper.ends, step)
                good += set(near) <= inside and set(far) <= outside
                total += 1
    assert total >= 9 and good >= 0.85 * total, (good, total)


def test_ends_that_are_not_as_far_apart_as_stated_get_no_caliper():
    """In a cine, away from the middle, the section is smaller than what is stated."""
    exam = examination("heart", "apical_four_chamber", septum=10.0)
    scan = canvas(np.zeros((SIZE, SIZE), bool), FLUID)
    for ends, count in ((((80.0, 90.0), (100.0, 90.0)), 1), (((80.0, 90.0), (104.0, 90.0)), 0)):
        found = measure(exam, "apical_four_chamber", replace(scan, measured={"septum": ends}))
        assert [caliper.what for caliper in found] == ["septum"] * count


def test_only_the_crosses_change_and_values_on_demand():
    lesion = Lesion("hypoechoic", "oval", "circumscribed", 40.0, 20.0, "left_lobe")
    exam = examination("liver", "left_sagittal", lesion)
    picture = canvas(ellipse(80, 40, 0), LESION)
    before = picture.pixels.copy()
    calipers = measure(exam, "left_sagittal", picture)
    plain, told = draw_calipers(picture, calipers), draw_calipers(picture, calipers, values=True)
    assert (picture.pixels == before).all() and (plain.labels == picture.labels).all()
    rows, columns = np.nonzero(plain.pixels.any(axis=-1))
    assert rows.min() >= 100 - 20 - 4 and rows.max() <= 100 + 20 + 4 and 65 - 4 <= columns.min()
    for x, y in (end for caliper in calipers for end in caliper.ends):
        assert plain.pixels[round(y), round(x)].any()
    corner = np.s_[SIZE - 26 :, 16:90]
    assert not plain.pixels[corner].any() and told.pixels[corner].any()


def test_some_is_between_none_and_all():
    rng = np.random.default_rng(0)
    exams = [sample_examination(rng, "breast") for _ in range(12)]
    drawn = {choice: 0 for choice in ("none", "some", "all")}
    for exam in exams:
        pictures = [draw_view(exam, view) for view in exam.views]
        for choice in drawn:
            result, extra = with_calipers(exam, pictures, choice, np.random.default_rng(len(pictures)))
            drawn[choice] += sum(bool(found) for found in extra.get("calipers", []))
            changed = [(a.pixels != b.pixels).any() for a, b in zip(pictures, result, strict=True)]
            assert changed == [bool(found) for found in extra.get("calipers", [[]] * len(pictures))]
    assert drawn["none"] == 0 < drawn["some"] < drawn["all"]


@pytest.mark.parametrize("task", ["report", "cine"])
def test_the_command_draws_calipers_and_says_where(tmp_path, task):
    common = ["--cases", "3", "--seed", "8", "--organ", "breast", "--task", task, "--quiet"]
    common += ["--frames", "5"] if task == "cine" else []
    assert main([*common, str(tmp_path / "without")]) == 0
    assert main([*common, "--calipers", "all", "--caliper-values", str(tmp_path / "with")]) == 0
    for without, row in zip(
        *(
            map(json.loads, (tmp_path / n / "cases.jsonl").open(encoding="utf-8"))
            for n in ("without", "with")
        ),
        strict=True,
    ):
        found = row.pop("calipers")
        assert row == without and len(found) == len(row["images"]) and any(found)
        if task == "cine":
            assert sum(map(bool, found)) == 1
        for image, calipers in zip(row["images"], found, strict=True):
            same = (tmp_path / "with" / image).read_bytes() == (tmp_path / "without" / image).read_bytes()
            assert same == (not calipers)
