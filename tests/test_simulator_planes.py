"""Standard planes: what a row states is read off its picture again, by rules written out a second time."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from imaging.case import read_cases
from imaging.planes import NON_STANDARD, load_planes
from simulator import plane_views as v
from simulator import planes as p
from simulator import tissue as t
from simulator.__main__ import main
from simulator.anatomy.standard_planes import PANCREAS, Ground, Tube, free_ends, paint
from simulator.cases import Order, OrderError
from simulator.probe import BEAMS, SAMPLES, SIZE, scan_grid
from simulator.scene import Scene
from simulator.shadows import DARK_DB, KINDS, LARGEST, LOSS_DB, Shadow, cast, loss_db, sample_shadows
from simulator.speckle import Machine, form_image
from simulator.tissue import LIVER

COUNT, SEED = 200, 31
NEEDS = {  # plane: (needed structures, structures, how many of them)
    key: (set(plane.needs), set(plane.structures), plane.at_least)
    for key, plane in load_planes().planes.items()
}


@pytest.fixture(scope="module")
def shots() -> list[p.Shot]:
    return [p.draw(np.random.default_rng([SEED, number])) for number in range(COUNT)]


@pytest.fixture(scope="module")
def examined() -> list:
    order = Order(SEED, ("plane",), language="both")
    return [p.make(order, number) for number in range(60)]


def test_states_planes_deductions_and_score_can_be_recomputed_from_the_label_map(examined):
    faults = Counter()
    for one in examined:
        (row,), labels = one.rows, one.pictures[0].labels
        pixel = one.pictures[0].mm_per_pixel ** 2
        states = {}
        for name, truth in row["structures"].items():
            share = (labels == truth["label"]).sum() * pixel / truth["whole_mm2"]
            states[name] = "not_displayed" if share < 0.12 else "incomplete" if share < 0.85 else "displayed"
            assert truth["state"] == states[name], (one.name, name, share)
            assert truth["share"] == pytest.approx(min(share, 1), abs=0.03)  # a few pixels do not count
        seen = {name for name, state in states.items() if state != "not_displayed"}
        planes = [k for k, (need, of, n) in NEEDS.items() if need <= seen and len(seen & of) >= n]
        assert row["plane"] == (planes or ["non_standard"])
        dark = (labels == p.ATTENUATED).sum() / (labels > 0).sum()
        assert row["attenuation_share"] == pytest.approx(dark, abs=1e-4)
        if not planes:
            assert row["score"] is None and row["deductions"] == []
            continue
        points = 0 if dark <= 0.01 else 2 if dark < 0.25 else 4 if dark <= 0.5 else 6
        for name in set().union(*(NEEDS[plane][1] for plane in planes)):
            state = states.get(name, "not_displayed")
            demands = [d for plane in planes for d in load_planes().planes[plane].demands]
            points += max(d.points.get(state, 0) for d in demands if d.structure == name)
            faults[state] += 1
        assert sum(deduction["points"] for deduction in row["deductions"]) == points
        assert row["score"] == max(0, 10 - points)
    assert min(faults.values()) >= 3 and len(faults) == 3


def test_boxes_are_inside_the_image_and_tight_to_the_mask(shots):
    ids = v.structure_ids()
    for shot in shots:
        shown = {name for name, state in shot.states.items() if state != "not_displayed"}
        assert set(shot.boxes) == shown | set(shot.beside) and shown.isdisjoint(shot.beside)
        for name, (x1, y1, x2, y2) in shot.boxes.items():
            mask = shot.picture.labels == ids[name]
            assert 0 <= x1 < x2 <= SIZE and 0 <= y1 < y2 <= SIZE
            main = p.main_pieces(mask)
            inside = main[y1:y2, x1:x2]
            assert mask.sum() >= p.FEWEST_PIXELS and inside.sum() == main.sum() >= 0.85 * mask.sum()
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
    sides = [min(x2 - x1, y2 - y1) for shot in shots for x1, y1, x2, y2 in _judged(shot)]
    assert np.median(sides) > 20 and np.percentile(sides, 2) >= 8  # large enough to be learnt


def _judged(shot: p.Shot) -> list[tuple[int, int, int, int]]:
    return [box for name, box in shot.boxes.items() if name not in shot.beside]


def test_attenuation_is_deducted_with_the_box_of_the_shadows(examined):
    found = [(one, entry) for one in examined for entry in one.rows[0]["deductions"] if "boxes" in entry]
    assert found and all(entry["subject"] == "attenuation" for _, entry in found)
    for one, entry in found:
        ((x1, y1, x2, y2),) = entry["boxes"]
        dark = one.pictures[0].labels == p.ATTENUATED
        assert dark[y1:y2, x1:x2].sum() > 0.9 * dark.sum() > 0
    deducted = sum(
        entry["subject"] == "attenuation" for one in examined for entry in one.rows[0]["deductions"]
    )
    assert len(found) == deducted


def test_slivers_move_no_box_and_main_pieces_do():
    mask = np.zeros((SIZE, SIZE), bool)
    mask[60:90, 40:100] = True
    whole = (40, 60, 100, 90)
    for rows, columns in ((slice(20, 21), slice(10, 12)), (slice(150, 152), slice(180, 182))):
        mask[rows, columns] = True  # 2 and 4 pixels
        assert p.box_of(mask) == whole
    mask[70:75, 150:165] = True  # 4 % of the largest piece
    assert p.box_of(mask) == whole and p.main_pieces(mask).sum() == 1800
    mask[75:78, 150:165] = True  # 7 %: behind a rib's shadow it is still the structure
    assert p.box_of(mask) == (40, 60, 165, 90)
    small = np.zeros((SIZE, SIZE), bool)
    small[5:7, 5:12] = small[7:9, 12:14] = True  # connected by a corner
    assert p.box_of(small) == (5, 5, 14, 9)


def test_every_structure_in_the_label_map_that_can_be_seen_has_a_box_and_is_said(examined):
    """Whatever is painted is known: no class of the map is without a name, no box without its class."""
    named = {label: name for name, label in v.structure_ids().items()}
    kinds = Counter()
    for one in examined:
        (row,) = one.rows
        boxes = {box["label"] for box in row["boxes"]}
        classes, pixels = np.unique(one.pictures[0].labels, return_counts=True)
        for label, count in zip(classes.tolist(), pixels.tolist(), strict=True):
            if label >= v.FIRST_STRUCTURE and count >= p.FEWEST_PIXELS:
                name = named[label]
                judged = row["structures"].get(name)
                assert (name in row["beside"]) == (judged is None)
                assert (name in boxes) == (judged is None or judged["state"] != "not_displayed")
                assert name not in boxes or load_planes().name(name, row["language"]) in row["answer"]
                kinds["judged" if judged else "beside"] += 1
        assert all((one.pictures[0].labels == v.structure_ids()[name]).any() for name in boxes)
        assert not {deduction["subject"] for deduction in row["deductions"]} & set(row["beside"])
    assert min(kinds.values()) > 20 and len(kinds) == 2


ORGAN_TISSUES = (t.LIVER, t.SPLEEN, PANCREAS, t.SINUS, t.FLUID_CLEAR)
ANONYMOUS_VESSEL_MM = 4.0  # radius up to which a vessel is one of an organ's branches, no named one


@pytest.mark.parametrize(
    "make",
    [*(view.plan for view in v.VIEWS), *v.NOT_PLANES],
    ids=lambda make: getattr(make, "__self__", None) and make.__self__.make.__name__ or make.__name__,
)
def test_no_organ_and_no_large_vessel_is_drawn_without_its_name(make):
    """What is drawn of the protocol is named in the plan, by tissue and size; bowel is no structure of it."""
    for seed in range(4):
        plan = make(np.random.default_rng(seed))
        assert plan.ground is not t.LIVER or isinstance(plan.parts[0].shape, Ground)
        for part in plan.parts:
            large = part.tissue is t.BLOOD and _radius(part.shape) > ANONYMOUS_VESSEL_MM
            if (part.tissue in ORGAN_TISSUES or large) and make is not v.organs.bowel:
                assert part.names, (part.tissue, part.shape)
        assert set(plan.structures).isdisjoint(plan.beside)
        assert {*plan.structures, *plan.beside} <= set(load_planes().structures)


def _radius(shape) -> float:
    return max(shape.radii) if isinstance(shape, Tube) else min(shape.rx, shape.rz)


def test_what_lies_beside_makes_no_plane_and_what_is_left_out_is_not_beside():
    rng = np.random.default_rng(0)
    plan = v.organs.great_vessels_transverse(rng)  # lobe and aorta, but not lengthwise
    assert set(plan.beside) == {"left_lobe_of_liver", "abdominal_aorta", "inferior_vena_cava"}
    assert load_planes().shown(dict.fromkeys(plan.beside, "displayed")) != (NON_STANDARD,)
    setting = v.Setting(v.PROBES[0], v.STYLES[0])
    found = v.mapped(plan, setting)
    shot = p.scan(v.measured(plan, found, plan, found, setting, "liver")[0], rng)
    assert shot.planes == (NON_STANDARD,) and set(shot.beside) == set(plan.beside) == set(shot.boxes)
    whole = v.organs.spleen_longitudinal(rng)
    assert "spleen" not in whole.without("spleen").beside and whole.beside == ("splenic_vein",)


def test_what_lies_in_shadow_is_dark_and_not_displayed(shots):
    shaded = [shot for shot in shots if shot.attenuation > 0.01]
    for shot in shaded:
        grey, labels = shot.picture.pixels.mean(-1), shot.picture.labels
        dark = grey[labels == p.ATTENUATED]
        assert 2 < dark.mean() < 0.5 * grey[(labels > 0) & (labels != p.ATTENUATED)].mean()
        assert np.ptp(np.percentile(dark, (5, 95))) > 5  # noise, not a cut
        assert shot.view.setting.shadows
    for shot in shots:
        assert (shot.attenuation > 0) == bool(shot.view.setting.shadows)
    kinds = {shadow.kind for shot in shaded for shadow in shot.view.setting.shadows}
    assert kinds == set(KINDS)


def test_nothing_is_drawn_into_the_map_outside_the_sector(shots):
    for shot in shots:
        if shot.view.plan is not None:
            inside = scan_grid(shot.view.setting.probe, shot.view.plan.depth_mm).inside
            assert ((shot.picture.labels > 0) == inside).all()


@pytest.mark.parametrize("view", v.VIEWS, ids=lambda view: view.make.__name__)
def test_a_view_without_faults_is_its_planes_and_has_full_marks_nearly_always(view):
    perfect = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        plan = v.placed(rng, view.plan(rng))
        setting = v.Setting(v.PROBES[seed % len(v.PROBES)], v.STYLES[seed % len(v.STYLES)])
        found = v.mapped(plan, setting)
        measured, shares, dark = v.measured(plan, found, plan, found, setting, view.organ)
        states = {name: load_planes().state(share) for name, share in shares.items()}
        assert set(load_planes().shown(states)) == set(view.planes)
        assert dark == 0 and all(area > 40 for area in measured.whole_mm2.values())
        perfect += set(states.values()) == {"displayed"}
    assert perfect >= 7
    shot = p.scan(measured, rng)
    assert shot.shares == pytest.approx(shares, abs=0.09)  # the coarse raster steers, the picture decides


def test_all_planes_grades_and_causes_occur_in_sensible_shares(shots):
    planes = Counter(plane for shot in shots for plane in shot.planes)
    assert set(planes) == {*NEEDS, NON_STANDARD}
    assert 0.13 < planes[NON_STANDARD] / COUNT < 0.30
    assert all(planes[plane] >= 0.03 * COUNT for plane in NEEDS)
    assert 0.06 < np.mean([len(shot.planes) > 1 for shot in shots]) < 0.25
    scores = [shot.score for shot in shots if shot.score is not None]
    grades = Counter(load_planes().grade(score).key for score in scores)
    shares = {grade: count / len(scores) for grade, count in grades.items()}
    assert 0.3 < shares["excellent"] < 0.6 and min(shares.values()) > 0.05 and len(shares) == 4
    faults = Counter(
        (shot.states[d.subject], shot.view.causes[d.subject])
        for shot in shots
        for d in shot.deductions
        if d.subject in shot.view.causes
    )
    assert set(faults) == {(s, c) for s in ("incomplete", "not_displayed") for c in v.CAUSES}


def test_causes_are_what_was_done(shots):
    for shot in shots:
        for name, state in shot.states.items():
            if state != "displayed" and shot.view.causes[name] == "shadow":
                assert shot.view.setting.shadows
    rng = np.random.default_rng(3)
    whole = v.liver.gallbladder_longitudinal(rng)
    setting = v.Setting(v.PROBES[0], v.STYLES[0])
    before = v.mapped(whole, setting)
    done = {
        "plane": (whole.without("gallbladder_neck"), "gallbladder_neck"),
        "sector": (whole.moved(dx=45), "gallbladder_fundus"),
    }
    for cause, (plan, name) in done.items():
        view, shares, _ = v.measured(whole, before, plan, v.mapped(plan, setting), setting, "liver")
        assert view.causes[name] == cause and shares[name] < 0.5
    dark = v.Setting(setting.probe, setting.style, (v.Shadow("deep", -1.0, 1.0, 30.0),))
    view, shares, share = v.measured(whole, before, whole, before, dark, "liver")
    assert set(view.causes.values()) == {"shadow"} and max(shares.values()) == 0 and share > 0.5


def test_cutting_shortens_one_structure_and_leaves_the_others():
    rng = np.random.default_rng(5)
    whole = v.organs.pancreas_transverse(rng)
    setting = v.Setting(v.PROBES[0], v.STYLES[0])
    before, ids = v.mapped(whole, setting), v.structure_ids()
    for name, share in (("pancreas_tail", 0.5), ("pancreas_head", 0.4), ("splenic_vein", 0.3)):
        after = v.mapped(whole.shortened(name, share), setting)
        kept = {of: (after == ids[of]).sum() / (before == ids[of]).sum() for of in whole.structures}
        assert kept.pop(name) == pytest.approx(share, abs=0.2)
        assert min(kept.values()) > 0.97 and max(kept.values()) < 1.15  # a vein may have lain on it


STEP_MM = 0.5


def _drawn(plan) -> tuple[np.ndarray, np.ndarray, Scene]:
    """The mean echo of a plan over several scenes, its structures, and one of the scenes."""
    grid = scan_grid(v.PROBES[0], plan.depth_mm)
    scenes = [Scene(grid, np.random.default_rng(seed), plan.ground) for seed in range(8)]
    found = [paint(scene, plan, v.structure_ids()) for scene in scenes]
    return np.mean([scene.echo_db for scene in scenes], axis=0), found[0], scenes[0]


def _axis(tube: Tube, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and z (mm) on a tube's axis at positions along."""
    points = np.asarray(tube.points)
    starts = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    return tuple(np.interp(places, starts / starts[-1], points[:, i]) for i in (0, 1))


def _samples(scene: Scene, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column of the samples at points (mm), and which points the sector holds."""
    probe = scene.grid.probe
    row = np.round((np.hypot(x, z + probe.radius_mm) - probe.radius_mm) / scene.grid.sample_mm)
    beam = np.round((np.arctan2(x, z + probe.radius_mm) / np.deg2rad(probe.angle_deg) + 0.5) * (BEAMS - 1))
    inside = (row > 0) & (row < SAMPLES) & (beam > 0) & (beam < BEAMS)
    return row[inside].astype(int), beam[inside].astype(int), inside


CUT = [  # view, structure, how much of its length stays (0: left out), which end is cut
    (v.liver.gallbladder_longitudinal, "gallbladder_fundus", 0.3, 1),
    (v.liver.gallbladder_longitudinal, "gallbladder_fundus", 0.0, 1),
    (v.liver.gallbladder_longitudinal, "gallbladder_neck", 0.0, 0),
    (v.liver.left_lobe_aorta, "abdominal_aorta", 0.3, 1),
    (v.liver.left_lobe_aorta, "left_lobe_of_liver", 0.6, 1),
    (v.liver.right_portal_branch, "right_portal_vein", 0.5, 1),
    (v.organs.pancreas_transverse, "pancreas_tail", 0.3, 1),
]


@pytest.mark.parametrize(("make", "structure", "share", "end"), CUT)
def test_what_is_cut_fades_out_of_the_plane_and_has_no_closed_end(make, structure, share, end):
    """Along its axis from its own echo to the ground's over several millimetres, half of it at the border."""
    whole = make(np.random.default_rng(2))
    plan = whole.shortened(structure, share) if share else whole.without(structure)
    (part,) = (part for part in plan.parts if part.kept != (0.0, 1.0))
    plan = replace(
        plan, parts=tuple(one for one in plan.parts if one.names or not one.vessel)
    )  # no twigs on it
    echo_db, found, scene = _drawn(plan)
    beyond = np.arange(-18, 18, STEP_MM)  # mm beyond the border
    tube, border, way = part.shape, part.kept[end], 1 if end else -1
    row, beam, inside = _samples(scene, *_axis(tube, border + way * beyond / tube.length))
    echo, beyond = echo_db[row, beam], beyond[inside]
    own, ground = echo[beyond < -15].mean(), echo[beyond > 13].mean()
    left = (echo - ground) / (own - ground)
    assert abs(own - ground) > 5
    assert 5 <= ((left > 0.1) & (left < 0.9)).sum() * STEP_MM <= 30
    own_label = v.structure_ids()[structure if share else part.names[1][1]]
    marked = found[row, beam] == own_label
    assert marked[(beyond > -6) & (beyond < -3)].mean() > 0.8 and not marked[beyond > 3].any()
    assert echo.max() < max(own, ground) + 6  # no wall across


JOINED = [
    (v.liver.hepatic_veins, ("right_hepatic_vein", "middle_hepatic_vein", "left_hepatic_vein")),
    (v.liver.left_portal_branch, ("left_portal_vein_transverse_part", "left_portal_vein_umbilical_part")),
    (
        v.liver.right_portal_branch,
        ("right_portal_vein", "right_anterior_portal_branch", "right_posterior_portal_branch"),
    ),
    (v.liver.left_lobe_aorta, ("superior_mesenteric_artery",)),
]


@pytest.mark.parametrize(("make", "names"), JOINED)
def test_vessels_open_into_each_other(make, names):
    """From inside the stem along each vessel there is blood and no wall."""
    for seed in range(3):
        plan = make(np.random.default_rng(seed))
        echo_db, _, scene = _drawn(plan)
        for part in plan.parts:
            if set(part.structures) & set(names):
                row, beam, inside = _samples(scene, *_axis(part.shape, np.linspace(0, 0.4, 60)))
                assert inside.all() and echo_db[row, beam].max() < -25, part.structures


FREE_ENDS = {  # how many of a plane drawn with seed 4 can be looked at; the others have none
    "left_lobe_aorta": 1,
    "left_portal_branch": 2,
    "hepatic_veins": 2,
    "right_portal_branch": 3,
    "right_portal_branch_with_gallbladder": 3,
    "bile_duct_longitudinal": 2,
    "pancreas_transverse": 1,
}


@pytest.mark.parametrize("name", FREE_ENDS)
def test_vessels_that_open_into_no_other_taper_and_fade(name):
    (view,) = (view for view in v.VIEWS if view.make.__name__ == name)
    plan, checked = view.plan(np.random.default_rng(4)), 0
    echo_db, _, scene = _drawn(plan)
    for part, free in zip(plan.parts, free_ends(plan.parts), strict=True):
        for end in (0, 1):
            if not free[end] or part.shape.length < 40 or (part.round_start and not end):
                continue
            off = np.linspace(0, 25, 50) / part.shape.length
            x, z = _axis(part.shape, np.abs(end - off))
            row, beam, inside = _samples(scene, x, z)
            if inside.all():
                echo = echo_db[row, beam]
                assert echo[-5:].max() < -20 and echo[:3].min() > -20  # blood, and none at the end
                place = part.locate(x.astype(np.float32), z.astype(np.float32), free)
                border = np.flatnonzero(place.inside)[0]
                assert off[border] * part.shape.length > 3
                assert place.distance[border] > 0.85 * part.shape.locate(*map(np.float32, (x, z)))[0][border]
                checked += 1
    assert checked == FREE_ENDS[name]


def test_a_cut_takes_nameless_branches_along_and_leaves_the_roots_of_named_ones():
    rng = np.random.default_rng(1)
    whole = v.liver.left_portal_branch(rng)
    cut = whole.shortened("left_portal_vein_umbilical_part", 0.4)
    assert len(cut.parts) == len(whole.parts) - 2  # the two that leave it at its tip
    assert len(whole.without("left_portal_vein_umbilical_part").parts) == len(whole.parts) - 3
    cut = v.liver.left_lobe_aorta(rng).shortened("abdominal_aorta", 0.1)
    (artery,) = (k for k, part in enumerate(cut.parts) if "superior_mesenteric_artery" in part.structures)
    assert free_ends(cut.parts)[artery] == (False, True)


@pytest.mark.parametrize("probe", v.PROBES, ids=lambda probe: probe.name)
def test_gas_is_in_loops_at_a_side_behind_the_wall_and_repeats_its_front_in_a_dirty_shadow(probe):
    grid, done = scan_grid(probe, 120.0), 0
    beam = np.linspace(-1, 1, BEAMS, dtype=np.float32)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        (shadow, *others) = sample_shadows(rng, probe, 120.0, 12.0, float(rng.uniform(0.1, 0.4)))
        if shadow.kind != "gas":
            continue
        done += 1
        assert not others and (shadow.left == -1 or shadow.right == pytest.approx(1))
        front = shadow.front_mm(beam)[(beam > shadow.left) & (beam < shadow.right)]
        assert 12 + 5 < front.min() < front.max() < 12 + 20 and np.ptp(front) > 4  # curved
        scene = Scene(grid, rng, LIVER)
        cast(scene, [shadow])
        middle = np.argmin(shadow.off(beam) + 9 * (np.abs(beam - (shadow.left + shadow.right) / 2) > 0.3))
        line = scene.echo_db[:, max(middle - 2, 0) : middle + 3].mean(axis=1)
        front = float(shadow.front_mm(beam[middle]))
        at = [round(depth / grid.sample_mm) for depth in (front - 1, 1.5 * front, 2 * front, 2.5 * front)]
        surface, before, echo, after = (line[k - 2 : k + 3].max() for k in at)
        assert surface > 8 and echo > max(before, after) + 4
        assert line[round((front + 8) / grid.sample_mm)] > line[-30:].mean() + 4  # dirty, not empty
    assert done >= 4


@pytest.mark.parametrize("probe", v.PROBES, ids=lambda probe: probe.name)
@pytest.mark.parametrize("left", [-0.5, 0.1])
def test_the_border_of_a_shadow_is_where_half_of_its_loss_is_reached_and_it_widens_with_depth(probe, left):
    grid = scan_grid(probe, 120.0)
    beam = np.linspace(-1, 1, BEAMS, dtype=np.float32)[None]
    reach = np.linspace(0, 120, SAMPLES, dtype=np.float32)[:, None]
    shadow = Shadow("rib", left, left + 0.4, 12.0)
    loss = loss_db(shadow, probe, beam, reach)
    assert ((loss >= DARK_DB) == shadow.covers(*np.broadcast_arrays(beam, reach))).all()
    widths = []
    for depth in (30.0, 110.0):
        row = round(depth / grid.sample_mm)
        edge = (loss[row] > 0.1 * LOSS_DB) & (loss[row] < 0.9 * LOSS_DB) & (beam[0] < left + 0.2)
        widths.append(edge.sum() * grid.beam_mm()[row])
    assert 2 < widths[0] < widths[1] < 10
    dark = cast(Scene(grid, np.random.default_rng(0), LIVER), [shadow])
    assert (dark == (loss >= DARK_DB)).all()


def test_what_comes_from_below_a_drop_out_fades_over_several_millimetres():
    grid = scan_grid(v.PROBES[0], 120.0)
    scene = Scene(grid, np.random.default_rng(0), LIVER)
    cast(scene, [Shadow("deep", -1.0, 1.0, 60.0)])
    grey = form_image(scene, Machine(looks=3))
    column = grey[:, SIZE // 2 - 40 : SIZE // 2 + 30].mean(axis=1)
    rows = [round(grid.to_pixel(0, depth)[1]) for depth in (45, 85)]
    lit, dark = column[rows[0] - 4 : rows[0] + 5].mean(), column[rows[1] - 4 : rows[1] + 5].mean()
    middle = np.convolve(column, np.ones(3) / 3, "same")[rows[0] : rows[1]]
    fading = (middle < lit - 0.1 * (lit - dark)) & (middle > lit - 0.9 * (lit - dark))
    assert 5 <= fading.sum() * grid.mm_per_pixel <= 16 and dark > 5


@pytest.mark.parametrize("kind", KINDS)
def test_shadows_cover_the_share_that_is_asked_for(kind):
    probe = v.PROBES[0]
    grid = scan_grid(probe, 120.0)
    done = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        share = float(rng.uniform(0.05, LARGEST[kind]))
        shadows = sample_shadows(rng, probe, 120.0, 12.0, share)
        if shadows[0].kind == kind:
            dark = cast(Scene(grid, rng, LIVER), shadows)
            covered = grid.labels_to_image(dark.astype(np.uint8)).sum() / grid.inside.sum()
            assert covered == pytest.approx(share, abs=0.02)
            done += 1
    assert done >= 5


def test_the_same_seed_and_number_give_the_same_and_others_differ():
    order = Order(4, ("plane",), rows=8)
    first, again, other = p.make(order, 7), p.make(order, 7), p.make(order, 8)
    assert first.name == "s4-000007" and len(first.rows) == 8 and first.rows == again.rows
    assert (first.pictures[0].pixels == again.pictures[0].pixels).all()
    assert (first.pictures[0].labels == again.pictures[0].labels).all()
    assert (first.pictures[0].pixels != other.pictures[0].pixels).any()


@pytest.mark.parametrize(
    ("language", "key", "other"), [("en", "Key structures", "Also displayed"), ("zh", "关键结构", "另可见")]
)
def test_the_line_of_key_structures_holds_what_the_planes_demand_and_nothing_else(language, key, other):
    protocol, beside = load_planes(), 0
    for number in range(24):
        (row,) = p.make(Order(17, ("plane",), language=language), number).rows
        lines = row["answer"].split("\n")
        demanded = protocol.key_structures(row["plane"])
        line = next((line for line in lines if line.startswith(key)), "")
        assert bool(line) == bool(demanded)
        said = {name for name in protocol.structures if f"{protocol.name(name, language)}" in line}
        assert set(demanded) <= said and line.count("(" if language == "en" else "（") == len(demanded)
        boxed = {box["label"] for box in row["boxes"]}
        also = next((line for line in lines if line.startswith(other)), "")
        assert all(protocol.name(name, language) in also for name in boxed - set(demanded) if demanded)
        assert not demanded or bool(also) == bool(boxed - set(demanded))
        beside += bool(also)
    assert beside >= 4


@pytest.mark.parametrize("language", ["zh", "en"])
def test_texts_state_what_the_row_states(language):
    protocol = load_planes()
    for number in range(12):
        (row,) = p.make(Order(11, ("plane",), language=language), number).rows
        answer = row["answer"]
        assert row["language"] == language and row["question"] and "{" not in answer
        assert any("一" <= letter <= "鿿" for letter in answer) == (language == "zh")
        assert all(protocol.name(plane, language) in answer for plane in row["plane"])
        assert all(protocol.name(box["label"], language) in answer for box in row["boxes"])
        for deduction in row["deductions"]:
            assert protocol.name(deduction["subject"], language) in answer
        points = sum(answer.count(f"扣{n}分" if language == "zh" else f"−{n}") * n for n in range(1, 7))
        assert points == sum(deduction["points"] for deduction in row["deductions"])
        assert ("/10" in answer) == (row["score"] is not None)
        if row["score"] is not None:
            assert f" {row['score']:g}/10" in answer.replace("：", " ")


def test_an_organ_can_be_chosen_and_one_without_planes_is_refused():
    found = {p.make(Order(2, ("plane",), organ="kidney"), n).rows[0]["organ"] for n in range(12)}
    assert found == {"kidney"}
    found = {p.make(Order(2, ("plane",), organ="spleen"), n).rows[0]["plane"][0] for n in range(12)}
    assert {"spleen_longitudinal", "non_standard"} <= found
    found = {tuple(p.make(Order(2, ("plane",), organ="abdomen"), n).rows[0]["plane"]) for n in range(4)}
    assert found == {(NON_STANDARD,)}  # bowel: no organ, and no plane
    assert {view.organ for view in v.VIEWS} < set(p.ORGANS)
    with pytest.raises(OrderError, match="no abdominal view shows the organ breast"):
        p.make(Order(2, ("plane",), organ="breast"), 0)


def test_the_command_writes_planes_that_can_be_read(tmp_path):
    assert main(["--cases", "5", "--seed", "3", "--task", "plane", "--labels", "--quiet", str(tmp_path)]) == 0
    cases = read_cases(tmp_path / "cases.jsonl")
    assert len(cases) == 5 and {case.task for case in cases} == {"plane"}
    for case, line in zip(cases, (tmp_path / "cases.jsonl").read_text("utf-8").splitlines(), strict=True):
        assert case.plane and json.loads(line)["vendor"] in {style.name for style in v.STYLES}
        assert case.extra["probe"] and (tmp_path / case.extra["labels"][0]).is_file()
