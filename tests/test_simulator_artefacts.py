"""Artefacts: none leaves the image as it was, each does what its name says, and more of it does more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator import tissue as t
from simulator.anatomy import ivus
from simulator.anatomy.registry import DRAW, GROUND
from simulator.artefacts import (
    ARTEFACTS,
    LOST,
    SHALLOW,
    check,
    deep_setting,
    degraded_image,
    rows_of,
    shallow_settings,
)
from simulator.examination import Examination, View
from simulator.population import MEASURE_RANGES
from simulator.probe import BEAMS, LINEAR, PHASED, ROTATIONAL, SAMPLES, SIZE, SOLID_STATE, scan_grid
from simulator.scene import Scene
from simulator.speckle import Machine, form_image

MACHINE = Machine(looks=2)
ARTERY = ivus.Artery(SOLID_STATE, 3.0, 4.4, "fibrous", 90.0, 0.0, None)
BOTH = ("heart", "ivus")


def setting(right_mm: float, strengths) -> float:
    """A depth that grows worse with the strength; what it cuts away is another test's affair."""
    shallow = round(8 * strengths.get("depth_shallow", 0.0))
    return (
        right_mm * SHALLOW[shallow - 1] if shallow else deep_setting(right_mm, strengths.get("depth_deep", 0))
    )


def heart(strengths=None, depth_mm: float = 150.0, seed: int = 5) -> Scene:
    measures = {name: sum(limits) / 2 for name, limits in MEASURE_RANGES["heart"].items()}
    view = View("apical_four_chamber", setting(depth_mm, strengths or {}), False, seed=seed)
    scene = Scene(scan_grid(PHASED, view.depth_mm), np.random.default_rng(seed), GROUND["heart"])
    DRAW["heart"](scene, Examination("heart", None, "homogeneous", measures, None, (view,)), view)
    return scene


def artery(strengths=None, seed: int = 5, truth: ivus.Artery = ARTERY) -> Scene:
    grid = scan_grid(truth.probe, setting(truth.depth_mm, strengths or {}))
    scene = Scene(grid, np.random.default_rng(seed), ivus.GROUND)
    ivus.draw(scene, truth)
    return scene


SCENES = {"heart": heart, "ivus": artery}


def image(view: str, seed: int = 1, **strengths: float) -> np.ndarray:
    return degraded_image(SCENES[view](strengths), MACHINE, strengths, seed)


def gradient_energy(view: str, strength: float, name: str) -> float:
    down, across = np.gradient(image(view, **{name: strength})[40:-40, 40:-40])
    return float((down**2 + across**2).mean())


# ------------ nothing at strength 0 ------------


@pytest.mark.parametrize("strengths", [{}, dict.fromkeys(ARTEFACTS, 0.0)], ids=["none", "zeros"])
def test_without_artefacts_the_image_is_that_of_the_image_formation(strengths):
    plain = form_image(heart(), MACHINE)
    assert (degraded_image(heart(strengths), MACHINE, strengths, 1) == plain).all()


def test_zeros_leave_a_catheters_image_unchanged_too():
    assert (image("ivus", **dict.fromkeys(ARTEFACTS, 0.0)) == image("ivus")).all()


@pytest.mark.parametrize("view", BOTH)
@pytest.mark.parametrize("name", ARTEFACTS)
def test_each_artefact_changes_the_image_the_same_way_again(view, name):
    changed = image(view, **{name: 0.5})
    assert changed.shape == (SIZE, SIZE) and changed.min() >= 0 and changed.max() < 255.5
    assert np.abs(changed - image(view)).mean() > 1
    assert (changed == image(view, **{name: 0.5})).all()


@pytest.mark.parametrize("view", BOTH)
@pytest.mark.parametrize("name", [name for name in ARTEFACTS if not name.startswith("depth")])
def test_more_of_an_artefact_changes_more(view, name):
    plain = image(view)
    change = [np.abs(image(view, **{name: strength}) - plain).mean() for strength in (0.125, 0.5, 1.0)]
    assert change == sorted(change) and change[2] > 1.4 * change[0]


def test_an_artefact_stays_where_it_is_when_another_comes():
    shadows = image("heart", refractive_shadow=0.8) < image("heart") - 20
    others = {"drop_out": 0.1, "gain_high": 0.1}
    with_others = image("heart", refractive_shadow=0.8, **others) < image("heart", **others) - 20
    assert shadows.sum() > 500 and (shadows & with_others).sum() > 0.8 * (shadows | with_others).sum()


# ------------ what the names say ------------


@pytest.mark.parametrize("view", BOTH)
def test_blur_takes_away_gradient_energy(view):
    energy = [gradient_energy(view, strength, "blur") for strength in (0.0, 0.25, 0.5, 1.0)]
    assert energy == sorted(energy, reverse=True) and energy[3] < 0.75 * energy[0]


@pytest.mark.parametrize("view", BOTH)
@pytest.mark.parametrize(("name", "sign"), [("gain_low", -1), ("gain_high", 1)])
def test_gain_shifts_the_mean(view, name, sign):
    inside = SCENES[view]().grid.inside
    means = [image(view, **{name: strength})[inside].mean() for strength in (0.0, 0.4, 0.8)]
    steps = np.diff(means) * sign
    # 0.4 of 30 dB on a display of 60 dB: 51 grey levels, less what leaves the range
    assert (steps > 20).all() and (steps < 52).all()


@pytest.mark.parametrize("view", BOTH)
def test_noise_fills_the_blood_with_grain(view):
    scene = SCENES[view]()
    blood = scene.grid.labels_to_image(scene.label) == t.FLUID
    means = [image(view, noise=strength)[blood].mean() for strength in (0.0, 0.4, 0.8)]
    assert means[1] > means[0] + 4 and means[2] > means[1] + 10


@pytest.mark.parametrize("view", BOTH)
def test_drop_out_darkens_some_beams_from_the_face_on_and_spares_others(view):
    scene = SCENES[view]()
    flat = np.zeros((SAMPLES, BEAMS), np.float32)
    scene.echo_db, scene.attenuation = flat, flat + 0.5
    spoiled = degraded_image(scene, MACHINE, {"drop_out": 0.8}, 1)
    scene.rng = np.random.default_rng(9)
    plain = degraded_image(scene, MACHINE, {}, 1)
    beams = scene.grid.labels_to_image(np.broadcast_to(np.arange(BEAMS), (SAMPLES, BEAMS)) // 8 + 1)
    fall = np.array([plain[beams == b].mean() - spoiled[beams == b].mean() for b in range(1, 17)])
    assert fall.max() > 60 and (np.abs(fall) < 8).sum() >= 4
    assert (np.diff(np.flatnonzero(fall > 30)) == 1).sum() >= (fall > 30).sum() - 2  # one group


def line_phantom(row: int) -> Scene:
    """One bright line across all beams in front of a weak background."""
    scene = Scene(scan_grid(PHASED, 150.0), np.random.default_rng(2), t.SOFT)
    scene.echo_db[:] = -40
    scene.echo_db[row - 1 : row + 2] = 20
    scene.attenuation[:] = 0.5
    return scene


def profile(scene: Scene, **strengths: float) -> np.ndarray:
    """Mean grey down the middle of the sector, one value for each sample of depth."""
    grey = degraded_image(scene, MACHINE, strengths, 3)
    pixels = grey[:, SIZE // 2 - 12 : SIZE // 2].mean(axis=1)
    rows = np.array([scene.grid.to_pixel(0.0, k * scene.grid.sample_mm)[1] for k in range(SAMPLES)])
    return np.interp(rows, np.arange(SIZE), pixels)


def test_multiple_reflections_repeat_a_reflector_at_twice_and_three_times_its_depth():
    extra = profile(line_phantom(90), multiple_reflections=0.8) - profile(line_phantom(90))
    assert extra[180 - 5 : 180 + 6].max() > 60 and extra[270 - 6 : 270 + 7].max() > 40
    away = np.ones(SAMPLES, bool)
    for row in (90, 180, 270):
        away[row - 22 : row + 23] = False
    assert np.abs(extra[away]).max() < 20


def test_reverberation_draws_equally_spaced_lines_that_fade():
    scene = line_phantom(300)
    extra = profile(scene, reverberation=0.8) - profile(line_phantom(300))
    peaks = [k for k in range(5, 200) if extra[k] == extra[k - 5 : k + 6].max() and extra[k] > 20]
    gaps = np.diff(peaks)
    assert len(peaks) >= 4 and np.abs(gaps - gaps.mean()).max() <= 4
    assert extra[peaks[0]] > extra[peaks[-1]] + 10


def test_refractive_shadow_begins_at_the_border_and_needs_one():
    scene = Scene(scan_grid(PHASED, 150.0), np.random.default_rng(2), t.SOFT)
    scene.paint(scene.ellipse(0, 75, 20, 30) < 0, replace(t.SOFT, label=t.FLUID))
    scene.rng = np.random.default_rng(4)
    plain = degraded_image(scene, MACHINE, {}, 3)
    scene.rng = np.random.default_rng(4)
    loss = plain - degraded_image(scene, MACHINE, {"refractive_shadow": 0.8}, 3)
    above = loss[: round(scene.grid.to_pixel(0, 40)[1])]
    below = loss[round(scene.grid.to_pixel(0, 90)[1]) : -60]
    assert np.abs(above).max() < 3
    assert below.max() > 40 and (below > 20).mean() < 0.35


def test_a_deep_setting_shrinks():
    assert deep_setting(150.0, 0.0) == 150.0 and deep_setting(150.0, 1.0) == 300.0
    sizes = {}
    for strength in (0.0, 0.5):
        scene = heart({"depth_deep": strength})
        sizes[strength] = scene.grid.mm_per_pixel, (scene.grid.labels_to_image(scene.label) == t.FLUID).sum()
    assert sizes[0.0][0] < sizes[0.5][0] and sizes[0.5][1] < 0.6 * sizes[0.0][1]


@pytest.mark.parametrize("probe", [PHASED, LINEAR])
def test_what_lies_at_each_depth_is_an_area(probe):
    """A fan's area grows with the square of the depth, a linear probe's with the depth."""
    scene = Scene(scan_grid(probe, 100.0), np.random.default_rng(0), t.LIVER)
    near = probe.radius_mm
    share = ((near + 60) ** 2 - near**2) / ((near + 100) ** 2 - near**2) if probe.fan else 0.6
    rows = rows_of(scene.label == t.PARENCHYMA, scene.grid)
    assert rows[: round(0.6 * SAMPLES)].sum() == pytest.approx(share, abs=0.01)
    assert rows.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="is not in the scene"):
        rows_of(scene.label == t.LESION, scene.grid)


def test_only_settings_that_lose_something_are_shallow():
    scene = Scene(scan_grid(LINEAR, 100.0), np.random.default_rng(0), t.LIVER)
    part = rows_of((scene.z > 40) & (scene.z < 80), scene.grid)
    found = shallow_settings([part], 100.0)
    assert {round(depth, 1) for depth in found.values()} == {74.0, 67.5, 61.0, 54.5, 48.0}  # 80.5: nothing
    for strength, depth in found.items():
        assert strength == pytest.approx(min((80 - depth) / 40 / LOST, 1), abs=0.02)
    assert max(found) == 1 and found[1.0] == pytest.approx(48.0)


def test_what_the_worst_part_lost_counts_however_small_it_is():
    """A chamber of 5 mm at the bottom beside one of 60 mm: 5 % of the area, all of the chamber."""
    scene = Scene(scan_grid(LINEAR, 100.0), np.random.default_rng(0), t.LIVER)
    large, small = (rows_of((scene.z > a) & (scene.z < b), scene.grid) for a, b in ((5, 65), (76, 81)))
    for strength, depth in shallow_settings([large, small], 100.0).items():
        assert strength == pytest.approx(min((81 - depth) / 5 / LOST, 1), abs=0.09)


@pytest.mark.parametrize(
    ("strengths", "complaint"),
    [
        ({"fog": 0.5}, "no artefact is called 'fog'"),
        ({"blur": 1.5}, "artefact blur: strength 1.5 is not between 0 and 1"),
        ({"noise": float("nan")}, "artefact noise: strength nan"),
        ({"gain_low": 0.2, "gain_high": 0.1}, "gain_low and gain_high exclude each other"),
    ],
)
def test_what_cannot_be_is_refused(strengths, complaint):
    with pytest.raises(ValueError, match=complaint):
        check(strengths)


def test_exclusive_artefacts_may_be_named_together_at_strength_0():
    for one, other in (("gain_low", "gain_high"), ("depth_shallow", "depth_deep")):
        check({one: 0.0, other: 0.0})
        check({one: 0.3, other: 0.0})
        with pytest.raises(ValueError, match=f"{one} and {other} exclude each other"):
            check({one: 0.3, other: 0.1})


# ------------ all the way round ------------


@pytest.mark.parametrize("probe", [SOLID_STATE, ROTATIONAL])
def test_the_circle_is_closed_and_keeps_places(probe):
    grid = scan_grid(probe, 5.0)
    reach = grid.to_image(np.hypot(grid.x, grid.z).astype(np.float32))
    column, row = (round(value) for value in grid.to_pixel(0.0, 0.0))
    radius = round(2.5 / grid.mm_per_pixel)
    for dx, dz in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        assert reach[row + dz * radius, column + dx * radius] == pytest.approx(2.5, abs=0.04)
    y, x = np.mgrid[:SIZE, :SIZE]
    disc = np.hypot(x - column, y - row) * grid.mm_per_pixel < 4.8
    assert grid.inside[disc].all()  # no gap where the last beam meets the first


def test_blur_leaves_no_seam_at_twelve_oclock():
    jumps = []
    for seed in range(6):
        scene = Scene(scan_grid(SOLID_STATE, 5.0), np.random.default_rng(seed), t.LIVER)
        scene.echo_db[:] = 0
        grey = degraded_image(scene, MACHINE, {"blur": 1.0}, seed)
        up = np.abs(grey[20:80, 106] - grey[20:80, 108]).mean()
        down = np.abs(grey[140:200, 106] - grey[140:200, 108]).mean()
        jumps.append(up / down)
    assert np.mean(jumps) < 1.6
