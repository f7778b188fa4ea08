"""Scores become clusters; nobody looks at labels."""

import inspect
import json
from dataclasses import replace

import numpy as np
import pytest

from assistants.qbench.clustering import CutPoints, brief, choose, fit, load, place, save

SOURCE = {"model": "m", "prompt": "basic", "wording": "w", "language": "zh"}


def fitted(scores):
    return fit(scores, "twelve images", **SOURCE)


def test_three_clumps_are_cut_halfway_between_their_means():
    found = fitted([1, 1.2, 0.8, 5, 5.2, 4.8, 9, 9.2, 8.8])
    assert found.centroids == pytest.approx((1, 5, 9)) and found.cuts == pytest.approx((3, 7))
    assert (found.n, found.population, found.method) == (9, "twelve images", "k-means")


def test_cuts_depend_on_the_scores_alone():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 10, 200)
    assert fitted(scores) == fitted(scores) == fitted(rng.permutation(scores))
    assert fitted(scores + 0.01).scores != fitted(scores).scores
    names = set(inspect.signature(fit).parameters)
    assert names == {"scores", "population", "organ", *SOURCE}  # there is no way to hand labels in


@pytest.mark.parametrize("scores", [[4.0], [4.0] * 9, [2.0, 8.0] * 3])
def test_fewer_than_three_distinct_scores_are_cut_at_thirds_of_the_scale(scores):
    found = fitted(scores)
    assert found.method == "thirds of the scale" and found.cuts == pytest.approx((10 / 3, 20 / 3))


@pytest.mark.parametrize("scores", [[], [1.0, float("nan"), 3.0], [1.0, float("inf")]])
def test_what_is_no_population(scores):
    with pytest.raises(ValueError, match="scores to cluster"):
        fitted(scores)


EXAMPLE = replace(fitted([1, 5, 9]), cuts=(3.0, 7.0), centroids=(1.0, 5.0, 9.0))


@pytest.mark.parametrize(
    ("score", "level", "borderline"),
    [
        (0.0, "low", False), (2.5, "low", False), (2.7, "low", True), (3.0, "medium", True),
        (3.3, "medium", True),
        (3.5, "medium", False), (6.7, "medium", True), (7.0, "high", True), (7.5, "high", False),
        (10.0, "high", False),
    ],
)  # fmt: skip
def test_one_image_is_placed(score, level, borderline):
    assert place(score, EXAMPLE) == (level, borderline)


def test_cuts_are_for_their_own_model_prompt_wording_and_language():
    assert EXAMPLE.fits(**SOURCE)
    for key in SOURCE:
        assert not EXAMPLE.fits(**(SOURCE | {key: "other"}))


@pytest.mark.parametrize(
    ("organ", "stored", "chosen"),
    [
        ("heart", ("vessel", None, "heart"), "heart"), ("liver", ("vessel", None, "heart"), None),
        (None, ("vessel", None, "heart"), None), (None, ("vessel", "heart"), "vessel"),
        ("liver", ("vessel", "heart"), "no cuts"), (None, (), "no cuts"),
    ],
)  # fmt: skip
def test_an_image_is_placed_by_cuts_of_its_own_organ(organ, stored, chosen):
    cuts = [replace(EXAMPLE, organ=each) for each in stored]
    found = choose(cuts, organ, **SOURCE)
    assert (found.organ if found else "no cuts") == chosen
    assert choose(cuts, organ, **(SOURCE | {"model": "other"})) is None


def test_what_is_saved_is_what_is_loaded(tmp_path):
    path = tmp_path / "cut_points.json"
    assert load(path) == ()
    save([EXAMPLE, fitted([1, 2])], path)
    assert load(path) == (EXAMPLE, fitted([1, 2]))
    assert [child.name for child in tmp_path.iterdir()] == ["cut_points.json"]
    assert isinstance(load(path)[0], CutPoints)


@pytest.mark.parametrize(
    "change", [{"cuts": [7, 3]}, {"cuts": [3]}, {"centroids": [1, 5, float("nan")]}, {"x": 1}]
)
def test_a_file_of_another_kind_is_named(tmp_path, change):
    path = tmp_path / "cut_points.json"
    save([EXAMPLE], path)
    entry = json.loads(path.read_text())[0] | change
    path.write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match="cut_points.json does not hold cut points"):
        load(path)


def test_many_sets_together_have_a_short_name():
    assert [brief(name) for name in ("A", "A + B", "A + B + C")] == ["A", "A + B", "A + … (3)"]
