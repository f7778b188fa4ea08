"""Cine loops: the lesion comes and goes as the ellipsoid says, neighbours are alike, speckle is forgotten."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from imaging.case import read_cases
from imaging.files import load_frames
from simulator import cine
from simulator.__main__ import main
from simulator.cases import Order
from simulator.cine import FINDING, VALID_SHARE, Sweep, draw_sweep, make
from simulator.draw import draw_view
from simulator.examination import Examination, Lesion, View
from simulator.language import Question, questions
from simulator.population import MEASURE_RANGES
from simulator.tissue import LABELS, LESION

CYST = Lesion("anechoic", "round", "circumscribed", 30.0, 30.0, "left_lobe", "enhancement")


def liver(lesion: Lesion | None = CYST) -> Examination:
    measures = {name: sum(limits) / 2 for name, limits in MEASURE_RANGES["liver"].items()}
    view = View("left_sagittal", 120.0, lesion is not None, seed=7)
    return Examination("liver", None, "homogeneous", measures, lesion, (view,))


def sweep(*positions: float, radius: float = 15.0) -> Sweep:
    return Sweep(positions, radius, (0.0, 0.0))


def test_the_cross_section_is_that_of_an_ellipsoid():
    """At distance d the area is 1 - (d / r)² of the largest one, 0 from the radius on."""
    distances = (-16.0, -12.0, -7.5, 0.0, 7.5, 12.0, 15.0)
    pictures = draw_sweep(liver(), sweep(*distances))
    areas = np.array([(picture.labels == LESION).sum() for picture in pictures])
    assert areas[3] == pytest.approx(np.pi * 15**2 / pictures[0].mm_per_pixel ** 2, rel=0.08)
    for distance, area in zip(distances, areas, strict=True):
        assert area / areas[3] == pytest.approx(max(0, 1 - (distance / 15) ** 2), abs=0.05)


@pytest.mark.parametrize("lesion", [CYST, None])
def test_at_the_middle_the_frame_is_the_still_image(lesion):
    exam = liver(lesion)
    still = draw_view(exam, exam.views[0])
    frame = draw_sweep(exam, sweep(0.0, 3.0))[0]
    assert (frame.labels == still.labels).mean() > 0.995
    # Other speckle and other knobs, the same tissue: smoothed, the two agree up to contrast.
    assert np.corrcoef(_smooth(still.pixels), _smooth(frame.pixels))[0, 1] > 0.97


def _smooth(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 0].reshape(28, 8, 28, 8).mean(axis=(1, 3)).ravel()


PLAQUE = Lesion("hyperechoic", "oval", "circumscribed", 8.0, 2.4, "far_wall")


def artery(view: str, plaque: Lesion | None = None, seed: int = 7) -> Examination:
    shot = View(view, 40.0, plaque is not None, seed=seed)
    return Examination("vessel", None, "homogeneous", {"lumen": 6.6, "intima_media": 0.8}, plaque, (shot,))


def height_mm(labels: np.ndarray, classes: tuple[int, ...], mm_per_pixel: float) -> float:
    """Of the middle columns, where the lumen is as wide as measured; 0 where nothing is left of it."""
    return float(np.median(np.isin(labels[:, 95:120], classes).sum(axis=0))) * mm_per_pixel


@pytest.mark.parametrize("distance", [0.0, 1.5, 2.5, 3.0, 3.5])
def test_across_a_vessel_the_lumen_is_the_chord_of_its_round_section(distance):
    """At distance d from the axis the lumen is 2 sqrt(r² - d²) high: 0 from the wall on."""
    picture = draw_sweep(artery("longitudinal"), sweep(distance, radius=1.0))[0]
    expected = 2 * np.sqrt(max(0.0, 3.3**2 - distance**2))
    seen = height_mm(picture.labels, (LABELS["fluid"],), picture.mm_per_pixel)
    assert seen == pytest.approx(expected, abs=1.5 * picture.mm_per_pixel)


@pytest.mark.parametrize(("distance", "share"), [(0.0, 1.0), (3.0, 0.8), (4.9, 0.35), (20.0, 0.35)])
def test_a_portal_vein_ends_where_its_branches_come_in(distance, share):
    view = View("right_intercostal", 150.0, False)
    exam = replace(liver(None), measures={"portal_vein": 10.0}, views=(view,))
    assert cine._measures(exam, view, distance) == pytest.approx({"portal_vein": 10.0 * share})


def test_along_a_vessel_the_lumen_stays():
    pictures = draw_sweep(artery("transverse"), sweep(-20.0, 0.0, 20.0))
    areas = [(picture.labels == LABELS["fluid"]).sum() for picture in pictures]
    assert np.ptp(areas) < 0.06 * max(areas)


@pytest.mark.parametrize("place", ["near_wall", "far_wall"])
def test_a_plaque_stays_on_its_wall_where_the_vessel_is_narrower(place):
    pictures = draw_sweep(artery("longitudinal", replace(PLAQUE, place=place)), sweep(0.0, 1.2, radius=2.5))
    for picture in pictures:
        plaque = picture.labels == LESION
        lumen = picture.labels == LABELS["fluid"]
        columns = np.flatnonzero(plaque.any(axis=0))
        gaps = []  # pixels between the plaque's foot and the end of the lumen beside it
        for column in (columns[0] - 6, columns[-1] + 6):
            rows = np.flatnonzero(lumen[:, column])
            foot = np.flatnonzero(plaque.any(axis=1))
            gaps.append(foot[-1] - rows[-1] if place == "far_wall" else foot[0] - rows[0])
        assert np.abs(np.mean(gaps)) <= 3.0


def test_a_sweep_across_a_vessel_ends_a_little_beyond_its_wall():
    rng = np.random.default_rng(3)
    for _ in range(40):
        swept = cine.sample_sweep(rng, artery("longitudinal", PLAQUE), 12)
        assert max(np.abs(swept.positions_mm)) <= cine.BEYOND_THE_WALL * 3.3 + 1e-6
        valid = [i for i in swept.positions_mm if swept.share(i) ** 2 >= VALID_SHARE]
        assert 1 <= len(valid) <= 7


def test_the_probe_sways_but_not_at_the_middle():
    swaying = Sweep((0.0, 2.0), 15.0, (0.0, 0.0), sway=(2.0, 8.0))
    assert swaying.lean(0.0) == 0.0 and np.rad2deg(swaying.lean(2.0)) == pytest.approx(2.0)
    steady, moved = draw_sweep(liver(), sweep(0.0, 2.0)), draw_sweep(liver(), swaying)
    assert (steady[0].pixels == moved[0].pixels).all() and (steady[1].labels != moved[1].labels).any()


def test_speckle_is_forgotten_with_the_distance_and_tissue_is_not():
    positions = (0.0, 0.5, 1.5, 4.0, 12.0)
    pictures = draw_sweep(liver(None), sweep(*positions))
    tissue = np.logical_and.reduce([picture.labels == LABELS["parenchyma"] for picture in pictures])
    tissue = ndimage.binary_erosion(tissue, iterations=6)  # away from every vessel
    greys = [picture.pixels[..., 0].astype(float) for picture in pictures]
    grains = [(grey - ndimage.uniform_filter(grey, 15))[tissue] for grey in greys]
    alike = [np.corrcoef(grains[0], other)[0, 1] for other in grains]
    assert alike[1] > 0.85 and all(a > b for a, b in zip(alike[:3], alike[1:4], strict=True))
    assert abs(alike[4]) < 0.15 and np.ptp([grey[tissue].mean() for grey in greys]) < 8


def test_speckle_keeps_its_power_between_the_slices():
    speckle = cine._Speckle(5, 1.8)
    for position in (0.0, 0.4, 0.9, 1.3):
        numbers = speckle.at(position).standard_normal((2, cine.SAMPLES, cine.BEAMS))
        assert numbers.std() == pytest.approx(1.0, abs=0.02) and abs(numbers.mean()) < 0.02


@pytest.mark.parametrize("organ", ["thyroid", "breast", "kidney", "vessel", "heart"])
def test_valid_images_follow_the_rule_and_neighbours_are_alike(organ):
    for number in range(3):
        made = make(Order(11, ("cine",), organ=organ, frames=8), number)
        areas = np.array([(picture.labels == LESION).sum() for picture in made.pictures])
        row = made.rows[0]
        valid = [i for i, area in enumerate(areas) if area > 0 and area >= VALID_SHARE * areas.max()]
        shares = row["sweep"]["cross_section"]  # the row alone tells which frames are valid, and by what rule
        assert row["valid_share"] == VALID_SHARE
        assert [i for i, share in enumerate(shares) if share and share >= row["valid_share"] - 5e-4] == valid
        assert row["valid_images"] == valid and made.loop and len(made.pictures) == 8
        assert bool(valid) == (row["examination"]["lesion"] is not None) and len(valid) < 8
        assert valid == list(range(valid[0], valid[-1] + 1)) if valid else True
        pixels = [picture.pixels[..., 0].astype(float).ravel() for picture in made.pictures]
        for one, next_one in zip(pixels, pixels[1:], strict=False):
            assert np.corrcoef(one, next_one)[0, 1] > 0.75


def test_a_frame_that_cuts_only_the_edge_of_the_lesion_is_not_valid(monkeypatch):
    monkeypatch.setattr(cine, "sample_sweep", lambda rng, exam, frames: sweep(-14.0, -12.0, 0.0, 14.0, 20.0))
    monkeypatch.setattr(cine, "sample_examination", lambda rng, organ: liver())
    row = make(Order(0, ("cine",)), 0).rows[0]
    assert row["valid_images"] == [1, 2] and row["sweep"]["cross_section"][0] > 0


def test_the_questions_are_about_the_finding(monkeypatch):
    kinds = [q.about for q in questions(liver(), "en", np.random.default_rng(0))]
    assert set(FINDING) < set(kinds) and not {"measure", "organ", "vascularity"} & set(FINDING)
    every = [Question(about, "", "open", about) for about in kinds]
    monkeypatch.setattr(cine.language, "questions", lambda exam, tongue, rng: every)
    asked = {row["question"] for row in cine._rows(Order(0, ("cine",), rows=200), liver(), 0)}
    assert asked == set(FINDING)


def test_a_loop_is_the_same_again_and_differs_by_seed():
    first, again, other = (make(Order(seed, ("cine",), frames=3), 4) for seed in (1, 1, 2))
    assert all((a.pixels == b.pixels).all() for a, b in zip(first.pictures, again.pictures, strict=True))
    assert first.rows == again.rows and first.rows != other.rows


def test_the_command_writes_frames_or_one_dicom(tmp_path):
    arguments = ["--cases", "2", "--seed", "4", "--task", "cine", "--frames", "6", "--rows", "2", "--quiet"]
    assert main([*arguments, str(tmp_path / "png")]) == 0
    assert main([*arguments, "--format", "dicom", str(tmp_path / "dicom")]) == 0
    stills, loops = (list(read_cases(tmp_path / name / "cases.jsonl")) for name in ("png", "dicom"))
    assert len(stills) == len(loops) == 4
    assert any(case.valid_images for case in stills)
    for still, loop in zip(stills, loops, strict=True):
        assert len(still.images) == 6 and len(loop.images) == 1 and still.question == loop.question
        assert list(still.valid_images) == loop.extra.get("valid_frames", [])
        frames = load_frames(loop.images)
        assert [frame.index for frame in frames] == list(range(6))
        for frame, alone in zip(frames, load_frames(still.images), strict=True):
            assert (frame.pixels == alone.pixels).all()
    first = json.loads((tmp_path / "png/cases.jsonl").read_text("utf-8").splitlines()[0])
    assert len(first["sweep"]["positions_mm"]) == len(first["sweep"]["cross_section"]) == 6
