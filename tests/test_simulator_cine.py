"""Cine loops: the lesion comes and goes as the ellipsoid says, neighbours are alike, speckle is forgotten."""

from __future__ import annotations

import json

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
