"""Boxes against stated expected values, a brute-force matcher, and everything that a model may write."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.measure import Measure
from eval.metrics.detection import MATCHERS, intersection_over_union, measures
from eval.pairs import Pair, PairError

FIXTURE = Path(__file__).parent / "fixtures" / "eval_extra.json"
NAN = float("nan")


def boxes(*rows) -> list[dict]:
    return [{"label": label, "box": list(corners)} for label, *corners in rows]


def pair(true=None, said=None, prediction: str | None = "text", name: str = "c1") -> Pair:
    values = {"boxes": true, "prediction_boxes": said}
    return Pair(name, prediction, values={key: value for key, value in values.items() if value is not None})


def figures(columns: list[Measure]) -> dict[str, float]:
    return {column.name: float(column.of(column.counts.sum(axis=0))) for column in columns}


@pytest.fixture(scope="module")
def block() -> dict:
    return json.loads(FIXTURE.read_text(encoding="utf-8"))["detection"]


@pytest.mark.parametrize("matching", MATCHERS)
@pytest.mark.parametrize("iou", [0.3, 0.5, 0.75])
def test_the_fixtures_values(block, iou, matching):
    pairs = [pair(boxes(*item["gt"]), boxes(*item["prediction"])) for item in block["items"]]
    expected = block["expected"][f"iou{iou}_{'greedy_by_iou' if matching == 'greedy' else matching}"]
    found = figures(measures(pairs, iou=iou, matching=matching, per_structure=True))
    assert found["Precision"] == pytest.approx(100 * expected["precision"])
    assert found["Recall"] == pytest.approx(100 * expected["recall_micro"])
    assert found["Mean recall"] == pytest.approx(100 * expected["recall_macro_over_classes"])
    assert found["Mean IoU"] == pytest.approx(expected["mean_iou_over_tp"])
    assert found["FP"] == expected["fp"] and found["FP per image"] == pytest.approx(expected["fp"] / 30)
    assert found["F1"] == pytest.approx(
        200 * expected["tp"] / (2 * expected["tp"] + expected["fp"] + expected["fn"])
    )
    for structure, (right, wrong, missed) in expected["per_class_tp_fp_fn"].items():
        assert found[f"Precision {structure}"] == pytest.approx(100 * right / (right + wrong))
        assert found[f"Recall {structure}"] == pytest.approx(100 * right / (right + missed))
        assert found[f"FP {structure}"] == wrong


KIDNEY = ("kidney", 20, 20, 40, 40)
TRUE = boxes(("liver", 0, 0, 10, 10), KIDNEY)


@pytest.mark.parametrize(
    ("said", "right", "stated", "broken"),
    [
        (TRUE, 2, 2, 0),
        (TRUE[::-1], 2, 2, 0),
        ([], 0, 0, 0),
        (boxes(("kidney", 0, 0, 10, 10), ("liver", 20, 20, 40, 40)), 0, 2, 0),  # the labels are exchanged
        (TRUE + TRUE, 2, 4, 0),  # each box counts once
        (boxes(("liver ", 0, 0, 10, 10)), 1, 1, 0),
        (boxes(("liver", 0, 0, 10, 5)), 1, 1, 0),  # exactly one half
        (boxes(("liver", 0, 0, 10, 4.99)), 0, 1, 0),
        (boxes(("liver", 10, 10, 0, 0)), 0, 1, 1),  # reversed
        (boxes(("liver", 0, 0, 0, 10)), 0, 1, 1),  # empty
        (boxes(("liver", 0, 0, 1e-200, 1e-200)), 0, 1, 1),  # its area is zero in floating point
        (boxes(("liver", 0, 0, NAN, 10)), 0, 1, 1),
        (boxes(("liver", 0, 0, float("inf"), 10)), 0, 1, 1),
        (boxes(("liver", 0, 0, 10**400, 10)), 0, 1, 1),
        (boxes(("liver", 0, 0, 10)), 0, 1, 1),
        (boxes(("liver", 0, 0, "10", 10)), 0, 1, 1),
        (boxes(("liver", 0, 0, True, 10)), 0, 1, 1),
        ([{"label": "liver"}], 0, 1, 1),
        ([{"label": None, "box": [0, 0, 10, 10]}], 0, 1, 1),
        ([{"label": " ", "box": [0, 0, 10, 10]}], 0, 1, 1),
        ([None, 3, "box", []], 0, 4, 4),
        ("no box", 0, 1, 1),
        ({"label": "liver", "box": [0, 0, 10, 10]}, 0, 1, 1),  # not in a list
    ],
)
def test_what_a_model_may_write(said, right, stated, broken):
    columns = {column.name: column for column in measures([pair(TRUE, said)])}
    assert columns["F1"].counts.tolist() == [[right, stated, 2]]
    assert columns["FP"].counts.tolist() == [[stated - right, 1]]
    assert columns["Invalid boxes"].counts.tolist() == [[broken, 1]]


def test_a_broken_box_is_a_false_positive_of_its_structure():
    said = boxes(("liver", 9, 9, 0, 0), ("spleen", 0, 0, 10, 10))
    found = figures(measures([pair(TRUE, said)], per_structure=True))
    assert (found["FP liver"], found["FP kidney"], found["FP"]) == (1, 0, 2)
    assert "FP spleen" not in found  # true nowhere


def test_a_perfect_prediction_scores_100_and_a_missing_one_0():
    pairs = [pair(TRUE, TRUE), pair(TRUE, TRUE)]
    perfect = figures(measures(pairs))
    assert all(perfect[name] == 100 for name in ("Precision", "Recall", "Mean recall", "F1"))
    assert (perfect["Mean IoU"], perfect["FP"], perfect["FP per image"]) == (1, 0, 0)
    for missing in (pair(TRUE, TRUE, prediction=None), pair(TRUE)):
        found = figures(measures([missing]))
        assert found["Recall"] == found["Mean recall"] == found["F1"] == 0
        assert np.isnan(found["Precision"]) and np.isnan(found["Mean IoU"])


def test_a_failed_case_does_not_lower_the_false_positives_of_an_image():
    wrong = pair(TRUE, boxes(("liver", 90, 90, 99, 99)))
    assert figures(measures([wrong, pair(TRUE, prediction=None)]))["FP per image"] == 1


def test_an_image_with_nothing_on_it_counts_for_false_positives():
    found = figures(measures([pair([], boxes(("liver", 0, 0, 1, 1))), pair([], [])]))
    assert found["FP per image"] == 0.5 and found["Precision"] == 0 and np.isnan(found["Recall"])


def test_a_pair_without_truth_does_not_count():
    for column in measures([pair(None, TRUE), pair(TRUE, TRUE)], per_structure=True):
        assert not column.counts[0].any() and not column.applies[0]
    assert all(not column.counts.any() for column in measures([pair(None, TRUE)]))
    assert {len(column.counts) for column in measures([])} == {0}


def test_the_mean_over_structures_is_not_that_over_boxes():
    true = boxes(("liver", 0, 0, 10, 10), ("liver", 50, 50, 60, 60), ("liver", 70, 70, 80, 80), KIDNEY)
    found = figures(measures([pair(true, boxes(KIDNEY))]))
    assert (found["Recall"], found["Mean recall"]) == (25, 50)


def test_a_pair_below_the_threshold_draws_no_box_away():
    """Two overlaps of 0.43 are more in sum than the one of 0.6 that counts."""
    true = boxes(("liver", 0, 0, 10, 10), ("liver", 6.5, 0, 16.5, 10))
    said = boxes(("liver", -4, 0, 6, 10), ("liver", 2.5, 0, 12.5, 10))
    found = figures(measures([pair(true, said)], matching="hungarian"))
    assert (found["Recall"], found["FP"], found["Mean IoU"]) == (50, 1, pytest.approx(0.6))


def test_further_thresholds_have_their_own_columns():
    pairs = [pair(TRUE, boxes(("liver", 0, 0, 10, 4)))]
    found = figures(measures(pairs, iou=(0.5, 0.3)))
    assert (found["Recall"], found["Recall @0.3"]) == (0, 50)
    assert len(found) == len(measures(pairs, iou=(0.5, 0.3, 0.5)))
    assert figures(measures(pairs, iou=[0.3]))["Recall"] == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou": 0}, "above 0"),
        ({"iou": 50}, "no more than 1"),
        ({"iou": ()}, "iou"),
        ({"iou": NAN}, "iou"),
        ({"matching": "best"}, "greedy, hungarian"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        measures([], **options)


@pytest.mark.parametrize(
    "true", ["liver", 3, {}, [None], boxes(("liver", 5, 5, 0, 0)), boxes(("liver", 0, 0, NAN, 1)), TRUE[0]]
)
def test_a_true_box_that_is_none_names_the_case(true):
    with pytest.raises(PairError, match="id 'c7': boxes"):
        measures([pair(true, [], name="c7")])


corner = st.integers(0, 12)
box = st.builds(
    lambda label, x, y, w, h: (label, x, y, x + w, y + h),
    st.sampled_from(["liver", "kidney"]),
    corner,
    corner,
    st.integers(1, 8),
    st.integers(1, 8),
)


def plain_iou(a: tuple, b: tuple) -> float:
    width = min(a[3], b[3]) - max(a[1], b[1])
    height = min(a[4], b[4]) - max(a[2], b[2])
    common = width * height if width > 0 and height > 0 else 0
    area = (a[3] - a[1]) * (a[4] - a[2]) + (b[3] - b[1]) * (b[4] - b[2]) - common
    return common / area if a[0] == b[0] else 0.0


def by_rule(true: list[tuple], said: list[tuple], iou: float) -> list[float]:
    """Greedy as it is told: take the best pair that is left, until none reaches the threshold."""
    true, said, taken = list(true), list(said), []
    while true and said:
        best = max(plain_iou(s, t) for s in said for t in true)
        if best < iou:
            break
        s, t = next((s, t) for s in said for t in true if plain_iou(s, t) == best)
        said.remove(s)
        true.remove(t)
        taken.append(best)
    return taken


def best_sum(true: list[tuple], said: list[tuple], iou: float) -> float:
    """The largest sum of overlaps over every one-to-one assignment, tried one by one."""
    few, many = sorted((true, said), key=len)
    sums = [
        sum(o for a, b in zip(few, chosen, strict=True) if (o := plain_iou(a, b)) >= iou)
        for chosen in permutations(many, len(few))
    ]
    return max(sums)


@settings(max_examples=150, deadline=None)
@given(st.lists(box, max_size=5), st.lists(box, max_size=5), st.sampled_from([0.1, 0.3, 0.5, 1.0]))
def test_matching_against_trying_everything(true, said, iou):
    rows = [pair(boxes(*true), boxes(*said))]
    columns = {column.name: column.counts[0] for column in measures(rows, iou=iou)}
    taken = by_rule(true, said, iou)
    assert columns["Mean IoU"] == pytest.approx([sum(taken), len(taken)])
    assert columns["F1"].tolist() == [len(taken), len(said), len(true)]
    best = {column.name: column.counts[0] for column in measures(rows, iou=iou, matching="hungarian")}
    assert best["Mean IoU"][0] == pytest.approx(best_sum(true, said, iou))


@settings(max_examples=50, deadline=None)
@given(st.lists(box, max_size=6), st.lists(box, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_boxes_does_not_matter(true, said, chance):
    mixed = [chance.sample(rows, len(rows)) for rows in (true, said)]
    before, after = (figures(measures([pair(boxes(*t), boxes(*s))], iou=0.3, matching="hungarian"))
                     for t, s in ((true, said), mixed))  # fmt: skip
    assert before["Mean recall"] == pytest.approx(after["Mean recall"], nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(box, min_size=1, max_size=4), st.lists(box, min_size=1, max_size=4))
def test_overlaps_are_those_of_counted_cells(a, b):
    found = intersection_over_union(*(np.array([row[1:] for row in rows], float) for rows in (a, b)))
    cells = [
        [{(x, y) for x in range(r[1], r[3]) for y in range(r[2], r[4])} for r in rows] for rows in (a, b)
    ]
    expected = [[len(one & other) / len(one | other) for other in cells[1]] for one in cells[0]]
    np.testing.assert_allclose(found, expected)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["label", "box", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(anything)
def test_no_prediction_stops_the_scoring(said):
    found = figures(measures([pair(TRUE, said), pair(TRUE, TRUE)]))
    assert found["Recall"] >= 50 and 0 < found["Precision"] <= 100
