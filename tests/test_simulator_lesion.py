"""A lesion's picture says what its words say: size on the label map, and each kind apart from its organ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from simulator.anatomy.registry import GROUND
from simulator.examination import Lesion
from simulator.lesion import paint_lesion
from simulator.probe import LINEAR, scan_grid
from simulator.scene import Scene
from simulator.speckle import Machine, form_image, path_loss_db
from simulator.tissue import LESION, PARENCHYMA, THYROID

SMALL = Lesion("hypoechoic", "oval", "circumscribed", 6.0, 5.0, "middle")
CENTRE = (1.0, 18.0)
GRID = scan_grid(LINEAR, 40.0)


def gland(seed: int) -> Scene:
    scene = Scene(GRID, np.random.default_rng(seed), GROUND["thyroid"])
    scene.paint(scene.z > 6, THYROID)
    return scene


def painted(lesion: Lesion, seed: int = 1, **more) -> Scene:
    scene = gland(seed)
    paint_lesion(scene, lesion, *CENTRE, THYROID.echo_db, **more)
    return scene


def grey(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grey levels, the lesion's mask, and a ring of gland beside it (above its shadow) [SIZE, SIZE]."""
    picture = form_image(scene, Machine())
    mask = scene.grid.labels_to_image(scene.label) == LESION
    around = ndimage.binary_dilation(mask, iterations=14) & ~ndimage.binary_dilation(mask, iterations=5)
    around[np.flatnonzero(mask.any(axis=1)).mean().astype(int) :] = False
    return picture, mask, around


@pytest.mark.parametrize("margin", ["circumscribed", "indistinct", "spiculated"])
@pytest.mark.parametrize("shape", ["oval", "irregular", "taller_than_wide"])
def test_the_label_map_is_as_large_as_stated(shape, margin):
    lesion = replace(SMALL, shape=shape, margin=margin, long_mm=12.0, short_mm=8.0)
    for seed in range(3):
        mask = GRID.labels_to_image(painted(lesion, seed, tilt_deg=0.0).label) == LESION
        rows, columns = np.nonzero(mask)
        seen = np.array((np.ptp(columns) + 1, np.ptp(rows) + 1)) * GRID.mm_per_pixel
        expected = (8.0, 12.0) if shape == "taller_than_wide" else (12.0, 8.0)
        assert seen == pytest.approx(expected, abs=2.5 * GRID.mm_per_pixel)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("anechoic", -170, -75), ("hypoechoic", -85, -30), ("isoechoic", -25, 25), ("hyperechoic", 30, 80)],
)
def test_a_small_lesion_of_each_kind_is_apart_by_its_grey(kind, low, high):
    """The middle of a lesion of 6 x 5 mm against the gland beside it, in grey levels of the screen."""
    differences = []
    for seed in range(5):
        picture, mask, around = grey(painted(replace(SMALL, kind=kind), seed))
        middle = ndimage.binary_erosion(mask, iterations=7)
        differences.append(picture[middle].mean() - picture[around].mean())
    assert low < np.mean(differences) < high


@pytest.mark.parametrize("margin", ["circumscribed", "indistinct"])
@pytest.mark.parametrize("shape", ["oval", "irregular", "taller_than_wide"])
def test_a_small_isoechoic_nodule_has_a_dark_halo_in_a_thin_bright_rim(shape, margin):
    nodule = replace(SMALL, kind="isoechoic", shape=shape, margin=margin)
    halos, rims = [], []
    for seed in range(4):
        picture, mask, around = grey(painted(nodule, seed))
        halo = mask & ~ndimage.binary_erosion(mask, iterations=2)
        rim = ndimage.binary_dilation(mask, iterations=2) & ~mask
        halos.append(picture[halo].mean() - picture[around].mean())
        rims.append(picture[rim].mean() - picture[halo].mean())
    assert np.mean(halos) < -15 and np.mean(rims) > 15


def test_without_a_halo_an_isoechoic_lesion_is_even():
    scene = painted(replace(SMALL, kind="isoechoic"), halo=False)
    assert np.ptp(scene.echo_db[scene.label == LESION]) < 12


def test_a_mixed_lesion_shows_fluid_and_a_solid_part_darker_than_the_gland():
    for seed in range(8):
        scene = painted(replace(SMALL, kind="mixed", long_mm=8.0, short_mm=6.0), seed)
        echo = scene.echo_db[scene.label == LESION]
        fluid = echo < THYROID.echo_db - 30
        assert 0.12 < fluid.mean() < 0.75
        assert -17 < np.median(echo[~fluid]) - THYROID.echo_db < -11  # hypoechoic, as TI-RADS counts it


@pytest.mark.parametrize("margin", ["circumscribed", "indistinct"])
def test_the_solid_part_of_a_mixed_lesion_is_seen_up_to_its_outline(margin):
    """The ring just inside the outline is darker than the gland: the stated millimetres can be measured."""
    mixed = replace(SMALL, kind="mixed", margin=margin, long_mm=10.0, short_mm=8.0)
    differences = []
    for seed in range(5):
        picture, mask, around = grey(painted(mixed, seed))
        ring = ndimage.binary_erosion(mask, iterations=2) & ~ndimage.binary_erosion(mask, iterations=4)
        differences.append(picture[ring].mean() - picture[around].mean())
    assert np.mean(differences) < -54


def test_a_calcification_is_bright_and_its_shadow_clean_with_soft_edges():
    for seed in range(6):
        scene = painted(
            replace(SMALL, kind="calcified", posterior="shadow", long_mm=10.0, short_mm=8.0), seed
        )
        calcium = (scene.label == LESION) & (scene.echo_db > THYROID.echo_db + 12)
        beams = np.flatnonzero(calcium.any(axis=0))
        loss = -path_loss_db(scene)[-1]
        assert calcium.sum() > 10 and loss[beams].max() > 20
        far = np.ones(len(loss), bool)
        far[max(beams[0] - 4, 0) : beams[-1] + 5] = False
        assert loss[far].max() < 3  # nothing but the calcium throws it
        for edge in (loss[beams[0] - 3 : beams[0] + 3], loss[beams[-1] - 2 : beams[-1] + 4]):
            assert ((edge > 2) & (edge < 0.8 * loss.max())).sum() >= 2


def test_microcalcifications_are_points_in_the_solid_part_without_shadow():
    for kind in ("hypoechoic", "isoechoic", "mixed"):
        with_points = painted(replace(SMALL, kind=kind, microcalcification=True), 3)
        without = painted(replace(SMALL, kind=kind), 3)
        points = with_points.echo_db > without.echo_db + 5
        assert 3 <= points.sum() <= 30 and (with_points.label[points] == LESION).all()
        assert (without.echo_db[points] > THYROID.echo_db - 26).all()
        assert path_loss_db(with_points) == pytest.approx(path_loss_db(without))


def test_what_lies_around_is_changed_in_its_echoes_and_not_on_the_label_map():
    for lesion in (replace(SMALL, kind="isoechoic"), replace(SMALL, margin="spiculated", shape="irregular")):
        scene, before = painted(lesion), gland(1)
        outside = scene.label != LESION
        assert (scene.label[outside] == before.label[outside]).all()
        changed = outside & (np.abs(scene.echo_db - before.echo_db) > 1) & (before.label == PARENCHYMA)
        assert changed.sum() > 100
        away = np.hypot(scene.x - CENTRE[0], scene.z - CENTRE[1])
        assert away[changed].max() < 6.5 and (scene.attenuation[outside] == before.attenuation[outside]).all()


def test_spicules_radiate():
    """On a circle outside the mass bright and dark alternate many times; beside a smooth mass they do not."""
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    turns = {}
    for margin in ("spiculated", "circumscribed"):
        scene = painted(replace(SMALL, shape="irregular", margin=margin, long_mm=9.0, short_mm=8.0))
        column = np.abs(scene.x[0][None] - (CENTRE[0] + 5.5 * np.cos(angle))[:, None]).argmin(axis=1)
        row = np.round((CENTRE[1] + 5.5 * np.sin(angle)) / GRID.sample_mm).astype(int)
        change = scene.echo_db[row, column] - gland(1).echo_db[row, column]
        beside = scene.label[row, column] != LESION
        dark, bright = (change < -1) & beside, (change > 1) & beside
        turns[margin] = min(int((part & ~np.roll(part, 1)).sum()) for part in (dark, bright))
    assert turns["spiculated"] >= 4 and turns["circumscribed"] <= 1


def test_sag_bends_a_lesion_along_its_layer():
    flat = replace(SMALL, long_mm=14.0, short_mm=4.0)
    scene = gland(1)
    slope = 0.2 * (scene.x - CENTRE[0])
    paint_lesion(scene, flat, *CENTRE, THYROID.echo_db, sag=slope, tilt_deg=0.0)
    rows, columns = np.nonzero(scene.label == LESION)
    found = np.polyfit(scene.x[rows, columns], scene.z[rows, columns], 1)[0]
    assert found == pytest.approx(0.2, abs=0.04)
