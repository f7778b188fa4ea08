"""Speckle statistics against theory, and what attenuation does behind a lesion."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from simulator import tissue as t
from simulator.probe import BEAMS, CONVEX, LINEAR, PHASED, SAMPLES, scan_grid
from simulator.scene import Scene
from simulator.speckle import Machine, envelope, form_image, path_loss_db

PROBES = [(LINEAR, 40.0), (CONVEX, 130.0), (PHASED, 150.0)]


@pytest.mark.parametrize(("probe", "depth"), PROBES, ids=lambda value: getattr(value, "name", value))
def test_fully_developed_speckle_is_rayleigh(probe, depth):
    grid = scan_grid(probe, depth)
    rng = np.random.default_rng(3)
    flat = np.ones((SAMPLES, BEAMS), np.float32)
    inner = (slice(30, -30), slice(20, -20))  # away from the grid's edge
    values = np.stack([envelope(flat, grid, rng)[inner] for _ in range(12)])
    assert values.mean() / values.std() == pytest.approx(1.91, abs=0.05)
    sparse = values[:, ::15, ::15].ravel()  # far enough apart to be independent
    scale = np.sqrt((values**2).mean() / 2)
    assert stats.kstest(sparse, "rayleigh", args=(0, scale)).pvalue > 0.01


def test_uniform_noise_is_not_rayleigh():
    """The test above can fail: an envelope of another law has another ratio."""
    values = np.random.default_rng(0).uniform(0, 1, 100_000)
    assert abs(values.mean() / values.std() - 1.91) > 0.1


def test_blur_keeps_the_mean_power():
    grid = scan_grid(LINEAR, 40.0)
    values = envelope(np.full((SAMPLES, BEAMS), 3.0, np.float32), grid, np.random.default_rng(1))[
        40:-40, 30:-30
    ]
    assert (values**2).mean() == pytest.approx(2 * 9.0, rel=0.05)


@pytest.mark.parametrize(("attenuation", "sign"), [(0.0, 1), (0.5, 0), (3.0, -1)])
def test_behind_a_layer_the_image_is_brighter_or_darker(attenuation, sign):
    grid = scan_grid(LINEAR, 40.0)
    scene = Scene(grid, np.random.default_rng(0), t.LIVER)
    layer = scene.layer(10, 14) & (np.abs(scene.x) < 5)
    scene.attenuation[layer] = attenuation
    loss = path_loss_db(scene)
    behind, beside = loss[200, BEAMS // 2], loss[200, 5]
    assert np.sign(round(float(behind - beside), 3)) == sign
    # 4 mm there and back at 10 MHz
    assert behind - beside == pytest.approx(min(2 * 10 * 0.4 * (0.5 - attenuation), 9.0), abs=0.3)


def test_gain_brightens_and_nothing_leaves_the_range():
    grid = scan_grid(CONVEX, 130.0)
    images = [
        form_image(Scene(grid, np.random.default_rng(0), t.LIVER), Machine(gain_db=g)) for g in (-8, 0, 8)
    ]
    means = [image[grid.inside].mean() for image in images]
    assert means[0] < means[1] < means[2]
    assert all(image.min() >= 0 and image.max() <= 255 for image in images)
    assert all((image[~grid.inside] == 0).all() for image in images)
