"""Images say what the examination says: same seed same pixels, sizes in mm, every kind of lesion visible."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from simulator.anatomy import kidney
from simulator.anatomy.heart_chambers import Heart, sample_heart
from simulator.anatomy.registry import DRAW, GROUND, VIEWS
from simulator.anatomy.vessels import Stand
from simulator.calipers import measure
from simulator.draw import (
    BAR_COLUMNS,
    BAR_ROWS,
    BAR_TOP,
    BOX_INK,
    Picture,
    _colour_box,
    _colours,
    _speed,
    draw_view,
)
from simulator.examination import KINDS, ORGANS, Examination, Lesion, View
from simulator.population import MEASURE_RANGES, sample_examination
from simulator.probe import CONVEX, LINEAR, PHASED, RULER, SIZE, scan_grid
from simulator.scene import Scene
from simulator.tissue import FLUID, LABELS, LESION

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


# ------------ heart and colour Doppler ------------


def heart_scene(view: str, seed: int, measures: dict[str, float]) -> tuple[Scene, Heart]:
    """A heart as it is drawn, and its proportions."""
    exam = replace(examination("heart", view, seed=seed), measures=measures)
    scene = Scene(scan_grid(PHASED, 160.0), np.random.default_rng(seed), GROUND["heart"])
    body = sample_heart(deepcopy(scene.rng), measures, view == "apical_two_chamber")
    DRAW["heart"](scene, exam, exam.views[0])
    return scene, body


def blood_across(scene: Scene, body: Heart, v: float, u: float) -> tuple[float, float]:
    """First and last u (mm) of the blood around a point of the heart, on the picture's own label map."""
    labels = scene.grid.labels_to_image(scene.label)
    line = np.arange(-80, 80, 0.1)
    places = [scene.grid.to_pixel(*body.screen(each, v)) for each in line]
    blood = np.array([labels[round(row), round(column)] == FLUID for column, row in places])
    walls = np.flatnonzero(~blood)
    return line[walls[line[walls] < u].max()], line[walls[line[walls] > u].min()]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("view", list(VIEWS["heart"]))
def test_a_heart_measures_what_is_stated(view, seed):
    measures = {
        name: limits[(seed + i) % 2] for i, (name, limits) in enumerate(MEASURE_RANGES["heart"].items())
    }
    scene, body = heart_scene(view, seed, measures)
    spare = 1.5 * scene.grid.mm_per_pixel
    for name in ("left_ventricle", "left_atrium"):
        chamber = body.chambers[name]
        first, last = blood_across(scene, body, chamber.v, chamber.u)
        assert last - first == pytest.approx(measures[name], abs=spare)
    if view == "apical_four_chamber":
        ventricle = body.chambers["left_ventricle"]
        septal, _ = blood_across(scene, body, ventricle.v, 0.0)
        _, right = blood_across(scene, body, ventricle.v, septal - measures["septum"] - 6)
        assert septal - right == pytest.approx(measures["septum"], abs=spare)


def test_a_heart_keeps_its_place_and_moment_whatever_its_measures_are():
    hearts = [
        sample_heart(
            np.random.default_rng(3), {n: limits[i] for n, limits in MEASURE_RANGES["heart"].items()}, False
        )
        for i in (0, 1)
    ]
    for name in ("apex", "turn", "base", "offset", "opening"):
        assert getattr(hearts[0], name) == getattr(hearts[1], name)
    assert hearts[0].chambers["left_ventricle"].half < hearts[1].chambers["left_ventricle"].half


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("place", ["left_ventricle", "left_atrium", "right_atrium"])
@pytest.mark.parametrize(("long_mm", "short_mm"), [(25.0, 15.0), (14.0, 13.0)])
def test_a_mass_lies_whole_in_the_blood_of_the_heart_and_is_attached(place, long_mm, short_mm, seed):
    exam = examination(
        "heart", "apical_four_chamber", lesion("hyperechoic", place, long_mm, short_mm), seed=seed
    )
    picture = draw_view(exam, exam.views[0])
    without = draw_view(replace(exam, lesion=None), replace(exam.views[0], shows_lesion=False))
    mask = picture.labels == LESION
    assert mask.sum() * picture.mm_per_pixel**2 == pytest.approx(np.pi / 4 * long_mm * short_mm, rel=0.12)
    assert (without.labels[mask] == FLUID).mean() > 0.97
    rim = ndimage.binary_dilation(mask, iterations=2) & ~mask
    assert 0.02 < (picture.labels[rim] != FLUID).mean() < 0.75


def coloured(picture: Picture) -> np.ndarray:
    """The pixels that show flow: coloured, neither the box's outline nor the bar."""
    pixels = picture.pixels.astype(int)
    found = np.abs(pixels[..., 0] - pixels[..., 2]) > 30
    found[:, SIZE - RULER :] = False
    return found & (picture.pixels != BOX_INK).any(-1)


@pytest.mark.parametrize(
    ("organ", "view"),
    [("heart", "apical_four_chamber"), ("heart", "apical_two_chamber"), ("liver", "right_intercostal")],
)
def test_colour_is_limited_to_blood(organ, view):
    for seed in range(5):
        exam = examination(organ, view, seed=seed, doppler=True)
        picture = draw_view(exam, exam.views[0])
        blood = ndimage.binary_dilation(picture.labels == FLUID, iterations=2)
        assert not (coloured(picture) & ~blood).any()


SHOWN = {"none": (0.0, 0.003), "sparse": (0.04, 0.32), "rich": (0.18, 0.75)}  # coloured share of the lesion


@pytest.mark.parametrize("organ", ORGANS)
def test_the_blood_flow_that_is_stated_is_coloured_inside_the_lesion_and_no_other(organ):
    rng, seen = np.random.default_rng(0), []
    while len(seen) < 24:
        exam = sample_examination(rng, organ)
        for view in exam.views:
            if view.doppler and view.shows_lesion:
                picture, stated = draw_view(exam, view), exam.lesion.vascularity
                inside = picture.labels == LESION
                if stated == "none":  # the pixels of the outline are half blood where a mass lies in blood
                    inside = ndimage.binary_erosion(inside)
                low, high = SHOWN[stated]
                assert low <= (coloured(picture) & inside).sum() / max(inside.sum(), 1) <= high, exam.lesion
                seen.append(stated)
    assert set(seen) == {"none"} if organ == "vessel" else {"none", "sparse", "rich"}


def test_the_uterus_stands_out_from_what_lies_around_it():
    """Its muscle is darker than the fat, and a bright line runs between the two; in grey levels."""
    for seed in range(6):
        exam = examination("gynaecology", "sagittal", seed=seed)
        picture = draw_view(exam, exam.views[0])
        grey = picture.pixels[..., 0].astype(float)
        pieces, _ = ndimage.label(picture.labels == LABELS["parenchyma"])
        uterus = ndimage.binary_fill_holes(pieces == np.bincount(pieces[pieces > 0]).argmax())
        muscle = ndimage.binary_erosion(uterus, iterations=3) & (picture.labels == LABELS["parenchyma"])
        near, far = (ndimage.binary_dilation(uterus, iterations=n) for n in (4, 12))
        around = far & ~near & (picture.labels == LABELS["other"])
        line = near & ~ndimage.binary_erosion(uterus)
        assert grey[around].mean() - grey[muscle].mean() > 22
        assert grey[line].mean() - grey[muscle].mean() > 28


def test_flow_is_laminar_and_stands_still_at_the_wall():
    flow = np.zeros((SIZE, SIZE), np.float32)
    flow[60:81] = 0.8
    speed = _speed(flow, np.random.default_rng(0)).mean(axis=1)
    assert speed[70] > 1.3 * speed[64] > 1.3 * 1.5 * speed[60] > 0
    assert not speed[:60].any() and not speed[81:].any()


def test_colours_run_over_yellow_and_cyan_into_the_other_colour_past_nyquist():
    slow, fast = _colours(np.array([0.2, -0.2])).astype(int), _colours(np.array([0.99, -0.99])).astype(int)
    assert slow[0, 0] > 80 > slow[0, 2] and slow[1, 2] > 80 > slow[1, 0]
    assert fast[0, :2].min() > 200 > fast[0, 2] and fast[1, 1:].min() > 200 > fast[1, 0]  # yellow, cyan
    shares = []
    for seed in range(
        12
    ):  # one stream, all of it towards the probe: in two colours where the scale is too low
        scene = Scene(scan_grid(LINEAR, 40.0), np.random.default_rng(seed), GROUND["vessel"])
        scene.flow[(scene.z > 14) & (scene.z < 22)] = 0.9
        pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
        _colour_box(pixels, scene, "vessel")
        seen = pixels[coloured(Picture(pixels, pixels[..., 0], 1.0))].astype(int)
        shares.append((seen[:, 2] > seen[:, 0]).mean())
    assert max(shares) > 0.1 and min(shares) < 0.02


@pytest.mark.parametrize("organ", ["breast", "thyroid", "liver", "heart"])
def test_the_bar_is_the_same_and_the_box_lies_about_with_and_without_a_lesion(organ):
    rng, bars, corners = np.random.default_rng(1), set(), {True: [], False: []}
    for _ in range(30):
        exam = sample_examination(rng, organ)
        view = replace(exam.views[0], doppler=True)
        pixels = draw_view(exam, view).pixels
        bars.add(pixels[BAR_TOP : BAR_TOP + BAR_ROWS, SIZE - RULER : SIZE - RULER + BAR_COLUMNS].tobytes())
        rows, columns = np.nonzero((pixels == BOX_INK).all(-1))
        corners[view.shows_lesion].append((rows.min(), columns.min()))
    assert len(bars) == 1
    for side in (0, 1):
        (least, most), (least_without, most_without) = (
            (min(at), max(at))
            for at in ([corner[side] for corner in corners[seen]] for seen in (True, False))
        )
        assert least < most_without and least_without < most and least_without < most_without


# Abdomen and pelvis -------------------------------------------------------------------------------------


def longest_chord(mask: np.ndarray) -> float:
    """The largest extent of a mask over all directions, in pixels."""
    points = np.argwhere(mask & ~ndimage.binary_erosion(mask)).astype(float)
    turns = np.deg2rad(np.arange(0, 180, 2))
    return float(np.ptp(points @ np.stack([np.cos(turns), np.sin(turns)]), axis=0).max() + 1)


@pytest.mark.parametrize("view", VIEWS["liver"])
def test_a_liver_lesion_is_whole_in_the_parenchyma_and_clear_of_large_vessels(view):
    """Seen on the label map of the same seed without the lesion: no tissue but liver, and of blood only
    twigs."""
    for seed, (long_mm, short_mm) in enumerate([(16.0, 12.0), (24.0, 20.0), (32.0, 24.0)] * 3):
        exam = examination("liver", view, lesion("hypoechoic", "right_lobe", long_mm, short_mm), seed=seed)
        picture = draw_view(exam, exam.views[0])
        before = draw_view(exam, replace(exam.views[0], shows_lesion=False)).labels
        mask = picture.labels == LESION
        area = np.pi / 4 * long_mm * short_mm
        assert mask.sum() * picture.mm_per_pixel**2 == pytest.approx(area, rel=0.1)
        assert np.isin(before[mask], (LABELS["other"], LABELS["interface"])).mean() < 0.06
        blood = ndimage.distance_transform_edt(before == LABELS["fluid"]) * picture.mm_per_pixel
        assert blood[mask].max() <= 2.6


def test_a_liver_lesion_may_lie_anywhere_in_the_view_also_beside_a_vein():
    places, gaps = [], []
    for seed in range(12):
        small = lesion("hypoechoic", "right_lobe", 16.0, 12.0)
        exam = examination("liver", "right_intercostal", small, seed=seed)
        picture = draw_view(exam, exam.views[0])
        mask = picture.labels == LESION
        places.append(np.argwhere(mask).mean(0) * picture.mm_per_pixel)
        blood = ndimage.binary_opening(picture.labels == LABELS["fluid"], iterations=3)  # no twigs
        gaps.append(ndimage.distance_transform_edt(~blood)[mask].min() * picture.mm_per_pixel)
    assert (np.std(places, axis=0) > 12).all()
    assert min(gaps) < 9 and max(gaps) > 20


@pytest.mark.parametrize(
    ("turn", "scale", "point"), [(0, 1, (23, 53)), (90, 1, (9, 59)), (90, 2, (5, 69)), (-90, 1, (17, 39))]
)
def test_a_stand_turns_and_scales_around_its_pivot_and_then_shifts(turn, scale, point):
    here = Stand((10.0, 50.0), (3.0, -1.0), turn, scale)
    assert here.place([(20.0, 54.0)])[0] == pytest.approx(point)


@pytest.mark.parametrize("view", VIEWS["liver"])
def test_the_vessels_of_the_liver_lie_elsewhere_in_every_scene(view):
    exam = examination("liver", view)
    maps = [draw_view(exam, replace(exam.views[0], seed=seed)).labels == LABELS["fluid"] for seed in range(6)]
    shared = [(a & b).sum() / (a | b).sum() for i, a in enumerate(maps) for b in maps[:i]]
    assert np.median(shared) < 0.5 and all(blood.any() for blood in maps)


@pytest.mark.parametrize(
    ("organ", "view"),
    [("liver", "right_intercostal"), ("kidney", "longitudinal"), ("gynaecology", "sagittal")],
)
def test_what_is_stated_can_be_measured_in_nearly_every_normal_view(organ, view):
    """Whatever else lies in the view: another bladder, bowel gas, a rib, the gallbladder."""
    exam = examination(organ, view)
    seeds = range(20)
    found = [bool(measure(exam, view, draw_view(exam, replace(exam.views[0], seed=s)))) for s in seeds]
    assert sum(found) >= 18


def test_a_portal_vein_is_measured_on_itself_and_not_on_the_gallbladder():
    """The gallbladder, where there is one, lies in the near part of the view; the vein crosses the middle."""
    for width in (9.0, 11.0, 13.0):
        exam = examination("liver", "right_intercostal")
        exam = replace(exam, measures={"portal_vein": width})
        for seed in range(8):
            picture = draw_view(exam, replace(exam.views[0], seed=seed))
            (caliper,) = measure(exam, "right_intercostal", picture)
            column, row = np.mean(caliper.ends, axis=0)
            assert picture.labels[round(row), round(column)] == LABELS["fluid"]
            assert row * picture.mm_per_pixel > 68


def test_the_uterus_is_as_long_and_its_lining_as_thick_as_stated():
    for seed in range(10):
        exam = examination("gynaecology", "sagittal", seed=seed)
        picture = draw_view(exam, exam.views[0])
        pieces, _ = ndimage.label(picture.labels == LABELS["parenchyma"])
        uterus = ndimage.binary_fill_holes(pieces == np.bincount(pieces[pieces > 0]).argmax())
        length = longest_chord(uterus) * picture.mm_per_pixel
        assert length == pytest.approx(exam.measures["uterus_length"], rel=0.05)
        lining = uterus & (picture.labels == LABELS["other"])
        thickness = 2 * ndimage.distance_transform_edt(lining).max() * picture.mm_per_pixel
        assert thickness == pytest.approx(exam.measures["endometrium"], abs=1.6)


def test_a_rib_never_shades_the_lesion_of_a_kidney(monkeypatch):
    shades = []
    monkeypatch.setattr(kidney, "shade", lambda scene, middle, half, *_: shades.append((middle, half)))
    for seed in range(120):
        place = ("upper_pole", "middle", "lower_pole")[seed % 3]
        exam = examination("kidney", "longitudinal", lesion("hypoechoic", place, 24.0, 20.0), seed=seed)
        before = len(shades)
        picture = draw_view(exam, exam.views[0])
        for middle, half in shades[before:]:
            grid = scan_grid(CONVEX, exam.views[0].depth_mm)
            rows, columns = np.nonzero(picture.labels == LESION)
            column, row = grid.to_pixel(0.0, 0.0)
            x, z = (columns - column) * grid.mm_per_pixel, (rows - row) * grid.mm_per_pixel
            assert np.abs(np.arctan2(x, z + CONVEX.radius_mm) - middle).min() > half
    assert len(shades) >= 5
