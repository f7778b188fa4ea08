"""Standard planes: what a row states is read off its picture again, by rules written out a second time."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from imaging.case import read_cases
from imaging.planes import NON_STANDARD, load_planes
from simulator import plane_views as v
from simulator import planes as p
from simulator.__main__ import main
from simulator.cases import Order, OrderError
from simulator.probe import SIZE, scan_grid
from simulator.scene import Scene
from simulator.shadows import KINDS, LARGEST, cast, sample_shadows
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
        assert set(shot.boxes) == {name for name, state in shot.states.items() if state != "not_displayed"}
        for name, (x1, y1, x2, y2) in shot.boxes.items():
            mask = shot.picture.labels == ids[name]
            assert 0 <= x1 < x2 <= SIZE and 0 <= y1 < y2 <= SIZE
            inside = mask[y1:y2, x1:x2]
            assert inside.sum() == mask.sum() >= p.FEWEST_PIXELS
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
    sides = [min(x2 - x1, y2 - y1) for shot in shots for x1, y1, x2, y2 in shot.boxes.values()]
    assert np.median(sides) > 20 and np.percentile(sides, 2) >= 8  # large enough to be learnt


def test_what_lies_in_shadow_is_dark_and_not_displayed(shots):
    shaded = [shot for shot in shots if shot.attenuation > 0.01]
    for shot in shaded:
        grey, labels = shot.picture.pixels.mean(-1), shot.picture.labels
        assert grey[labels == p.ATTENUATED].mean() < 0.45 * grey[labels == p.OTHER].mean()
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
        plan = v.placed(rng, view.make(rng))
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
    with pytest.raises(OrderError, match="no standard plane shows the organ breast"):
        p.make(Order(2, ("plane",), organ="breast"), 0)


def test_the_command_writes_planes_that_can_be_read(tmp_path):
    assert main(["--cases", "5", "--seed", "3", "--task", "plane", "--labels", "--quiet", str(tmp_path)]) == 0
    cases = read_cases(tmp_path / "cases.jsonl")
    assert len(cases) == 5 and {case.task for case in cases} == {"plane"}
    for case, line in zip(cases, (tmp_path / "cases.jsonl").read_text("utf-8").splitlines(), strict=True):
        assert case.plane and json.loads(line)["vendor"] in {style.name for style in v.STYLES}
        assert case.extra["probe"] and (tmp_path / case.extra["labels"][0]).is_file()
