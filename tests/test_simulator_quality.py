"""Images of known quality: the figures of the rule, even levels, rows that follow from the artefacts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from imaging.case import KEYS, LISTS, Case
from simulator import tissue as t
from simulator.anatomy import heart, ivus
from simulator.anatomy.registry import GROUND
from simulator.artefacts import ARTEFACTS, STEPS, check
from simulator.cases import Order, OrderError
from simulator.draw import Picture
from simulator.population import sample_examination
from simulator.probe import PHASED, ROTATIONAL, SIZE, SOLID_STATE, scan_grid
from simulator.quality import (
    LETTERS,
    LEVELS,
    PROMPTS,
    attribute_scores,
    level_of,
    make,
    overall_score,
    rounded,
    rules,
    sample_strengths,
    sample_subject,
)
from simulator.scene import Scene
from simulator.speckle import Machine, form_image

INDICATORS = {"clarity", "contrast", "noise", "detail_resolution", "uniformity", "artefacts", "overall"}


# ------------ the rule ------------


@pytest.mark.parametrize(
    ("strengths", "score", "level"),
    [
        ({}, 10.0, "high"),
        ({"noise": 0.2}, 8.6, "high"),
        ({"blur": 0.5}, 6.0, "medium"),
        ({"blur": 1.0}, 2.0, "low"),
        ({"reverberation": 1.0}, 4.0, "medium"),
        ({"blur": 0.5, "noise": 0.5}, 5.51, "medium"),  # (4^4 + 3.5^4)^(1/4) = 4.49
        ({"depth_shallow": 0.05}, 6.5, "medium"),  # cut at all: 3.5 at least
        ({"depth_shallow": 0.7}, 3.7, "low"),
        ({"depth_shallow": 0.0}, 10.0, "high"),
        ({"drop_out": 0.45}, 5.5, "medium"),  # a band in which the walls of a chamber are lost
        ({"depth_deep": 0.375, "gain_low": 0.39, "noise": 0.56}, 5.68, "medium"),  # all is recognisable
        ({"depth_deep": 0.375, "gain_low": 0.21, "reverberation": 0.92}, 4.44, "medium"),
        ({"blur": 1.0, "noise": 1.0, "drop_out": 1.0}, 0.0, "low"),
    ],
)
def test_scores_and_levels_by_hand(strengths, score, level):
    assert overall_score(strengths) == pytest.approx(score, abs=0.005)
    assert level_of(overall_score(strengths)) == level


@pytest.mark.parametrize(
    ("score", "level"),
    [(10, "high"), (7.0, "high"), (6.99, "medium"), (4.0, "medium"), (3.99, "low"), (0, "low")],
)
def test_levels_begin_where_the_rule_says(score, level):
    assert level_of(score) == level


@pytest.mark.parametrize(
    ("score", "digits", "shown"),
    [(3.998, 2, 3.99), (6.96, 1, 6.9), (6.995, 2, 6.99), (4.0, 2, 4.0), (5.127, 2, 5.13), (9.97, 1, 10.0)],
)
def test_a_score_is_never_rounded_over_the_border_of_its_level(score, digits, shown):
    assert rounded(score, digits) == shown and level_of(shown) == level_of(score)


def test_the_scores_that_are_written_have_the_level_that_is_written():
    rng = np.random.default_rng(5)
    for _ in range(3000):
        strengths = {name: float(rng.uniform()) for name in rng.choice(ARTEFACTS[:5], 2, replace=False)}
        score = overall_score(strengths)
        assert level_of(rounded(score, 2)) == level_of(attribute_scores(strengths)["overall"])
        assert level_of(rounded(score, 2)) == level_of(score)


@pytest.mark.parametrize("name", ARTEFACTS)
def test_every_artefact_costs_and_more_of_it_costs_more(name):
    base = {"noise" if name != "noise" else "blur": 0.3}
    scores = [overall_score(base | {name: strength}) for strength in (0.0, 0.2, 0.6, 1.0)]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[1]
    alone = attribute_scores({name: 1.0})
    assert set(alone) == INDICATORS and min(alone.values()) < 10
    assert attribute_scores({}) == dict.fromkeys(INDICATORS, 10.0)


def test_the_rules_are_complete():
    assert tuple(rules()["levels"]) == LEVELS and set(rules()["artefacts"]) == set(ARTEFACTS)
    assert {name for row in rules()["attributes"].values() for name in row} <= set(ARTEFACTS)
    assert set(rules()["attributes"]) == INDICATORS - {"overall"}
    assert all(row["why"] and row["zh"] and row["en"] for row in rules()["artefacts"].values())
    assert tuple(rules()["prompts"]) == PROMPTS


@pytest.mark.parametrize("level", LEVELS)
def test_sampled_artefacts_have_the_level_and_fill_its_range(level):
    rng = np.random.default_rng(0)
    shallow = dict.fromkeys((0.06, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0), 80.0)
    drawn = [sample_strengths(rng, level, lambda: shallow) for _ in range(300)]
    for strengths in drawn:
        check(strengths)
        assert all(
            (strength * STEPS[name]).is_integer() for name, strength in strengths.items() if name in STEPS
        )
        assert strengths.get("depth_shallow", 1.0) in shallow
    scores = np.array([overall_score(strengths) for strengths in drawn])
    assert {level_of(score) for score in scores} == {level}
    low, high = {"high": (7, 10), "medium": (4, 7), "low": (0.5, 4)}[level]
    thirds = np.histogram(scores, bins=np.linspace(low, high, 4))[0]
    assert thirds.min() > 50  # borderline images occur as often as clear ones
    cut = {"depth_shallow"} if level == "high" else set()  # what is cut off is not complete
    assert {name for strengths in drawn for name in strengths} == set(ARTEFACTS) - cut


def test_no_image_is_too_shallow_where_no_setting_cuts_the_target():
    rng = np.random.default_rng(0)
    assert not any("depth_shallow" in sample_strengths(rng, "low", dict) for _ in range(100))


# ------------ examinations ------------


def test_views_and_levels_are_even():
    rows = [make(Order(3, ("quality",)), number).rows[0] for number in range(12)]
    counts = Counter((row["view"], row["level"]) for row in rows)
    assert set(counts.values()) == {2} and len(counts) == 6
    assert {(row["view"], row["organ"]) for row in rows} == {
        ("ivus", "vessel"),
        ("apical_four_chamber", "heart"),
    }
    assert [row["level"] for row in rows[:6]] != [row["level"] for row in rows[6:]]


def test_views_of_all_organs_can_be_ordered_evenly():
    rows = [make(Order(3, ("quality",), "all"), number).rows[0] for number in range(21)]
    counts = Counter((row["view"], row["level"]) for row in rows)
    assert set(counts.values()) == {1} and len(counts) == 21
    assert {row["organ"] for row in rows} == {view["organ"] for view in rules()["views"].values()}


def test_the_same_order_gives_the_same_examination_and_another_seed_another():
    first, again, other = (make(Order(seed, ("quality", "compare")), 4) for seed in (1, 1, 2))
    assert first.name == "s1-000004" and first.rows == again.rows
    for one, same in zip(first.pictures, again.pictures, strict=True):
        assert (one.pixels == same.pixels).all() and (one.labels == same.labels).all()
    assert (first.pictures[0].pixels != other.pictures[0].pixels).any()


@pytest.mark.parametrize("organ", ["vessel", "heart", "thyroid", "breast", "liver", "kidney", "gynaecology"])
def test_quality_rows_follow_from_their_artefacts(organ):
    examined = make(Order(5, ("quality",), organ, rows=6), 1)
    assert len(examined.pictures) == 1 and examined.pictures[0].pixels.shape == (SIZE, SIZE, 3)
    for row in examined.rows:
        assert row["organ"] == organ and row["task"] == "quality" and row["answer_type"] == "closed"
        assert row["score"] == rounded(overall_score(row["artefacts"]), 2)
        assert level_of(row["score"]) == row["level"]
        assert row["level"] == level_of(overall_score(row["artefacts"]))
        assert row["attributes"] == attribute_scores(row["artefacts"])
        assert row["answer"] == rules()["answers"][row["language"]][row["level"]]
        assert "{" not in row["question"]
        known = {key: tuple(row[key]) if key in LISTS else row[key] for key in KEYS if key in row}
        Case(id="x", images=("x.png",), **known)
    assert Counter(row["prompt"] for row in examined.rows) == dict.fromkeys(PROMPTS, 2)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_texts_are_in_the_language_ordered_and_prompts_tell_more_and_more(language):
    rows = make(Order(8, ("quality",), "vessel", language, rows=3), 0).rows
    length = {row["prompt"]: len(row["question"]) for row in rows}
    assert length["basic"] < length["contextual"] < length["diagnostic"]
    for row in [*rows, *make(Order(8, ("compare",), "heart", language, rows=4), 0).rows]:
        assert row["language"] == language
        assert any("一" <= sign <= "鿿" for sign in row["question"]) == (language == "zh")


def test_comparisons_name_the_true_option():
    about, sizes = Counter(), Counter()
    for number in range(14):
        examined = make(Order(6, ("compare",), rows=4), number)
        sizes[len(examined.pictures)] += 1
        for row in examined.rows:
            scores = [overall_score(strengths) for strengths in row["artefacts"]]
            assert row["pictures"] == tuple(range(len(examined.pictures))) and "level" not in row
            assert row["levels"] == [level_of(score) for score in scores]
            assert np.diff(sorted(scores)).min() >= rules()["compare"]["least_gap"]
            assert len(set(row["levels"])) == min(len(scores), 3)
            question, *options = row["question"].split("\n")
            assert [option[:2] for option in options] == [f"{letter}." for letter in LETTERS[: len(options)]]
            assert row["answer"] in options and len(set(options)) == len(options)
            assert row["answer"] == options[meant(row["about"], scores, options)]
            about[row["about"]] += 1
    assert set(sizes) == {2, 3, 4} and set(about) == {"best", "worst", "order"}


def meant(about: str, scores: list[float], options: list[str]) -> int:
    """The index of the option that is true, found from the scores alone."""
    if about != "order":
        return int(np.argmax(scores) if about == "best" else np.argmin(scores))
    ranked = [[int(sign) - 1 for sign in option[2:] if sign.isdigit()] for option in options]
    return ranked.index([int(i) for i in np.argsort(scores)[::-1]])


TARGETS = {  # of the label map, written out a second time
    "ivus": [t.INTERFACE],
    **dict.fromkeys(("thyroid", "breast", "liver", "kidney", "gynaecology"), [t.PARENCHYMA, t.LESION]),
}
VIEWS_TO_CUT = (*TARGETS, "apical_four_chamber")


def lost(view: str, rng_seed: int, seed: int, right_mm: float, whole: Picture, cut: Picture) -> float:
    """The share that the worst part of the target has in `whole` and not in `cut`, by its area in mm²."""
    if view == "apical_four_chamber":
        scale = cut.mm_per_pixel / whole.mm_per_pixel
        return max(chambers_lost(rng_seed, seed, right_mm, scale).values())
    was, seen = (np.isin(p.labels, TARGETS[view]).sum() * p.mm_per_pixel**2 for p in (whole, cut))
    return 1 - seen / was


def chambers_lost(rng_seed: list[int] | int, seed: int, right_mm: float, scale: float) -> dict[str, float]:
    """Of each chamber of the heart that `sample_subject` draws: its area on the screen at both depths."""
    exam = sample_examination(np.random.default_rng(rng_seed), "heart")
    areas = []
    for depth_mm in (right_mm, right_mm * scale):
        scene = Scene(scan_grid(PHASED, depth_mm), np.random.default_rng(seed), GROUND["heart"])
        masks = heart.chambers(scene, exam, exam.views[0])
        mm2 = scene.grid.mm_per_pixel**2
        areas.append({name: scene.grid.labels_to_image(mask).sum() * mm2 for name, mask in masks.items()})
    return {name: 1 - areas[1][name] / areas[0][name] for name in areas[0]}


@pytest.mark.parametrize("view", VIEWS_TO_CUT)
def test_how_shallow_an_image_is_can_be_recomputed_from_two_pictures(view):
    """The target's area in the picture against that in the same picture at its right depth, in mm²."""
    strengths = []
    for seed in range(3):
        subject = sample_subject(np.random.default_rng(seed), view)
        whole = subject.shoot({}, seed)
        for strength in subject.shallow(seed):
            cut = subject.shoot({"depth_shallow": strength}, seed)
            share = lost(view, seed, seed, subject.right_mm, whole, cut)
            assert strength == pytest.approx(min(share / 0.75, 1), abs=0.05)
            strengths.append(strength)
    assert max(strengths) > 0.3 and len(set(strengths)) >= 3


def test_a_heart_that_is_cut_is_not_high_and_one_with_half_a_chamber_lost_is_low():
    """Rows of the maker: the chambers are counted again, each for itself."""
    checked = 0
    for number in range(60):
        examined = make(Order(21, ("quality",), "heart"), number)
        row, picture = examined.rows[0], examined.pictures[0]
        rng = np.random.default_rng([21, number])
        subject = sample_subject(rng, "apical_four_chamber")
        seed = int(rng.integers(2**31))
        scale = picture.mm_per_pixel / subject.shoot({}, seed).mm_per_pixel
        worst = max(chambers_lost([21, number], seed, subject.right_mm, scale).values())
        assert worst < 0.02 or row["level"] != "high", (number, worst)
        assert worst < 0.53 or row["level"] == "low", (number, worst)
        assert ("depth_shallow" in row["artefacts"]) == (worst > 0.02)
        checked += worst > 0.02
    assert checked >= 4


def test_cut_atria_are_seen_although_most_of_the_blood_is_there():
    subject = sample_subject(np.random.default_rng(4), "apical_four_chamber")
    mildest = max(subject.shallow(4).items(), key=lambda item: item[1])
    fluid = [
        (picture.labels == t.FLUID).sum() * picture.mm_per_pixel**2
        for picture in (subject.shoot({}, 4), subject.shoot({"depth_shallow": mildest[0]}, 4))
    ]
    of_all_blood = 1 - fluid[1] / fluid[0]
    assert 0.75 * mildest[0] > 1.2 * of_all_blood


def test_ordered_together_both_tasks_share_the_pictures():
    examined = make(Order(9, ("quality", "compare"), rows=2), 0)
    tasks = [row["task"] for row in examined.rows]
    assert tasks == ["quality", "quality", "compare", "compare"]
    for row in examined.rows[:2]:
        assert len(row["pictures"]) == 1
        assert row["artefacts"] == examined.rows[2]["artefacts"][row["pictures"][0]]


def test_an_unknown_organ_is_refused():
    with pytest.raises(OrderError, match="no image quality view of the organ 'spleen'.*heart"):
        make(Order(1, ("quality",), "spleen"), 0)


def test_worse_images_look_worse():
    """Levels can be seen: the contrast between blood and wall falls with the level, over 90 images less those
    of a wrong depth, which moves no grey."""
    contrast = {level: [] for level in LEVELS}
    for number in range(90):
        examined = make(Order(12, ("quality",)), number)
        if not {"depth_shallow", "depth_deep"}.isdisjoint(examined.rows[0]["artefacts"]):
            continue
        grey, labels = examined.pictures[0].pixels[..., 0].astype(float), examined.pictures[0].labels
        wall = (labels > 0) & (labels != t.FLUID)
        contrast[examined.rows[0]["level"]].append(
            abs(np.median(grey[wall]) - np.median(grey[labels == t.FLUID]))
        )
    means = [np.mean(contrast[level]) for level in LEVELS]
    assert means[0] > means[1] > means[2], means


# ------------ the artery ------------


def drawn(artery: ivus.Artery, seed: int = 0) -> tuple[Scene, np.ndarray]:
    scene = Scene(scan_grid(artery.probe, artery.depth_mm), np.random.default_rng(seed), ivus.GROUND)
    ivus.draw(scene, artery)
    return scene, form_image(scene, Machine())


@pytest.mark.parametrize("probe", [SOLID_STATE, ROTATIONAL])
@pytest.mark.parametrize(("lumen_mm", "vessel_mm"), [(2.2, 3.6), (3.0, 4.4), (3.6, 4.4)])
def test_the_lumen_is_as_wide_as_stated(probe, lumen_mm, vessel_mm):
    scene, _ = drawn(ivus.Artery(probe, lumen_mm, vessel_mm, "soft", 40.0, 0.0, None))
    labels = scene.grid.labels_to_image(scene.label)
    reach = scene.grid.to_image(np.hypot(scene.x, scene.z).astype(np.float32))
    inside = (labels == t.FLUID) | (scene.grid.inside & (reach < ivus.CATHETER_MM))
    diameter = 2 * np.sqrt(inside.sum() / np.pi) * scene.grid.mm_per_pixel
    assert diameter == pytest.approx(lumen_mm, rel=0.06)


def test_the_layers_have_the_greys_that_are_taught():
    artery = ivus.Artery(SOLID_STATE, 3.0, 4.6, "soft", 90.0, 0.0, None)
    greys = []
    for seed in range(4):
        scene, grey = drawn(artery, seed)
        column, row = scene.grid.to_pixel(0.0, 0.0)
        y, x = np.mgrid[:SIZE, :SIZE]
        right = np.abs(np.rad2deg(np.arctan2(x - column, y - row)) - 90) < 20  # towards the plaque
        labels = scene.grid.labels_to_image(scene.label)
        plaque = right & (labels == t.LESION)
        outside = np.hypot(x - column, y - row)
        edge = outside[plaque].max()
        mm = scene.grid.mm_per_pixel
        adventitia = right & (outside > edge + 0.45 / mm) & (outside < edge + 0.6 / mm)
        greys.append([grey[labels == t.FLUID].mean(), grey[plaque].mean(), grey[adventitia].mean()])
    blood, plaque, adventitia = np.mean(greys, axis=0)
    assert blood + 15 < plaque < adventitia - 15


def test_calcium_is_bright_and_throws_a_shadow_where_the_plaque_is():
    artery = ivus.Artery(ROTATIONAL, 2.6, 4.4, "calcified", -60.0, 80.0, None)
    scene, grey = drawn(artery)
    column, row = scene.grid.to_pixel(0.0, 0.0)
    y, x = np.mgrid[:SIZE, :SIZE]
    turned = (np.rad2deg(np.arctan2(x - column, y - row)) + 60 + 180) % 360 - 180
    reach = np.hypot(x - column, y - row) * scene.grid.mm_per_pixel
    deep = scene.grid.inside & (reach > 3.4)
    behind, beside = grey[deep & (np.abs(turned) < 25)].mean(), grey[deep & (np.abs(turned) > 70)].mean()
    assert behind < 0.4 * beside
    near = (np.abs(turned) < 25) & (reach > 0.8) & (reach < 2.4)
    assert np.percentile(grey[near], 97) > 225


def test_a_guide_wire_throws_a_narrow_shadow():
    with_wire, without = (
        drawn(ivus.Artery(SOLID_STATE, 3.2, 4.4, "none", 0.0, 0.0, wire))[1] for wire in (90.0, None)
    )
    fall = without.mean() - with_wire.mean()
    assert 0.5 < fall < 15
    assert without[95:125, 150:200].mean() - with_wire[95:125, 150:200].mean() > 25


def test_sampled_arteries_fit_their_catheter_and_their_field_of_view():
    rng = np.random.default_rng(1)
    arteries = [ivus.sample_artery(rng) for _ in range(200)]
    assert {artery.plaque for artery in arteries} == set(ivus.PLAQUES)
    for artery in arteries:
        assert 2 * ivus.CATHETER_MM < artery.lumen_mm < artery.vessel_mm
        assert artery.depth_mm in ivus.DEPTHS_MM and artery.depth_mm > artery.vessel_mm / 2 + 1.8
        assert (artery.calcium_deg > 0) == (artery.plaque == "calcified")
        assert artery.truth()["probe"] == artery.probe.name
