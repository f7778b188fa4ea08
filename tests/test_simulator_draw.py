"""Images say what the examination says: same seed same pixels, sizes in mm, every kind of lesion visible."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.anatomy.registry import VIEWS
from simulator.draw import draw_view
from simulator.examination import KINDS, ORGANS, Examination, Lesion, View
from simulator.population import MEASURE_RANGES, sample_examination
from simulator.probe import LINEAR, PHASED, SIZE, scan_grid
from simulator.tissue import LABELS, LESION

ALL_VIEWS = [(organ, name) for organ in ORGANS for name in VIEWS[organ]]


def examination(organ: str, view: str, lesion: Lesion | None = None, seed: int = 7, **more) -> Examination:
    measures = {name: sum(limits) / 2 for name, limits in MEASURE_RANGES[organ].items()}
    setting = VIEWS[organ][view]
    shot = View(view, setting.depths_mm[0], lesion is not None, seed=seed, **more)
    return Examination(organ, "left", "homogeneous", measures, lesion, (shot,))


def lesion(kind: str, place: str, long_mm: float, short_mm: float, **more) -> Lesion:
    posterior = {"anechoic": "enhancement", "calcified": "shadow"}.get(kind, "none")
    return Lesion(kind, "oval", "circumscribed", long_mm, short_mm, place, posterior, **more)


@pytest.mark.parametrize(("organ", "view"), ALL_VIEWS)
def test_every_view_draws_the_same_again_and_differs_by_seed(organ, view):
    exam = examination(organ, view)
    first, again = draw_view(exam, exam.views[0]), draw_view(exam, exam.views[0])
    other = draw_view(exam, replace(exam.views[0], seed=8))
    assert first.pixels.shape == (SIZE, SIZE, 3) and first.pixels.dtype == np.uint8
    assert (first.pixels == again.pixels).all() and (first.labels == again.labels).all()
    assert (first.pixels != other.pixels).any()
    assert set(np.unique(first.labels)) <= set(LABELS.values()) - {LESION}
    assert first.labels.any() and (first.labels == LABELS["parenchyma"]).any() or organ == "vessel"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "isoechoic"])
def test_a_liver_lesion_is_as_long_and_as_bright_as_stated(kind):
    exam = examination("liver", "left_sagittal", lesion(kind, "left_lobe", 30.0, 20.0))
    picture = draw_view(exam, exam.views[0])
    without = draw_view(replace(exam, lesion=None), replace(exam.views[0], shows_lesion=False))
    mask = picture.labels == LESION
    rows, columns = np.nonzero(mask)
    points = np.stack([columns, rows], 1) * picture.mm_per_pixel
    centred = points - points.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2]
    extent = np.ptp(centred @ axes.T, axis=0)
    assert extent[0] == pytest.approx(30.0, abs=2.5) and extent[1] == pytest.approx(20.0, abs=2.5)
    change = picture.pixels[mask].mean() - without.pixels[mask].mean()
    assert change > 15 if kind == "hyperechoic" else change < -12


def test_an_isoechoic_lesion_has_a_dark_halo_around_an_equal_middle():
    exam = examination("liver", "left_sagittal", lesion("isoechoic", "left_lobe", 30.0, 24.0))
    picture = draw_view(exam, exam.views[0])
    mask = picture.labels == LESION
    rows, columns = np.nonzero(mask)
    away = np.hypot((rows - rows.mean()) / 12, (columns - columns.mean()) / 15) * picture.mm_per_pixel
    grey = picture.pixels[rows, columns, 0].astype(float)
    surroundings = picture.pixels[20:90][picture.labels[20:90] == LABELS["parenchyma"]].mean()
    assert grey[away < 0.6].mean() == pytest.approx(surroundings, abs=22)
    assert grey[(away > 0.8) & (away < 0.97)].mean() < grey[away < 0.6].mean() - 15


@pytest.mark.parametrize(("posterior", "sign"), [("shadow", -1), ("enhancement", 1)])
def test_posterior_features_are_there(posterior, sign):
    base = lesion("hypoechoic", "6_oclock", 12.0, 9.0)
    means = {}
    for feature in ("none", posterior):
        exam = examination("breast", "radial", replace(base, posterior=feature))
        picture = draw_view(exam, exam.views[0])
        rows, columns = np.nonzero(picture.labels == LESION)
        below = picture.pixels[
            rows.max() + 4 : rows.max() + 20, int(columns.mean()) - 6 : int(columns.mean()) + 6
        ]
        means[feature] = below.mean()
    assert (means[posterior] - means["none"]) * sign > 8


def test_redundant_frames_do_not_show_the_lesion():
    exam = examination("thyroid", "transverse", lesion("anechoic", "middle", 10.0, 8.0))
    hidden = draw_view(exam, replace(exam.views[0], shows_lesion=False))
    assert not (hidden.labels == LESION).any()
    assert (draw_view(exam, exam.views[0]).labels == LESION).any()


@pytest.mark.parametrize("organ", ORGANS)
def test_a_lesion_view_always_shows_at_least_a_few_pixels(organ):
    rng = np.random.default_rng(11)
    shown = 0
    while shown < 25:
        exam = sample_examination(rng, organ)
        for view in exam.views:
            if view.shows_lesion:
                assert (draw_view(exam, view).labels == LESION).sum() >= 12, (exam.lesion, view)
                shown += 1


def test_colour_appears_only_in_doppler_views():
    plain = examination("vessel", "longitudinal")
    colour = examination("vessel", "longitudinal", doppler=True)
    grey = draw_view(plain, plain.views[0]).pixels
    assert (grey[..., 0] == grey[..., 2]).all()
    pixels = draw_view(colour, colour.views[0]).pixels.astype(int)
    assert (np.abs(pixels[..., 0] - pixels[..., 2]) > 60).sum() > 200


def test_a_colour_box_or_body_mark_does_not_give_a_lesion_away():
    rng = np.random.default_rng(0)
    exams = [sample_examination(rng, "breast") for _ in range(150)]
    normal = [exam for exam in exams if exam.lesion is None]
    assert any(view.doppler for exam in normal for view in exam.views)
    corner = draw_view(normal[0], normal[0].views[0]).pixels[-30:, -44:-12]
    assert (corner[..., 0] != corner[..., 2]).any()  # the hand of the body mark


@pytest.mark.parametrize(("probe", "depth"), [(LINEAR, 40.0), (PHASED, 150.0)])
def test_scan_conversion_keeps_places_and_distances(probe, depth):
    grid = scan_grid(probe, depth)
    image = grid.to_image(grid.z.astype(np.float32))
    for x, z in ((0.0, 0.4 * depth), (3.0, 0.6 * depth)):
        column, row = grid.to_pixel(x, z)
        assert image[round(row), round(column)] == pytest.approx(z, abs=1.5 * grid.mm_per_pixel)
    assert not grid.inside[:, -8:].any()  # the ruler's columns stay free
