"""Several labels at once, against scikit-learn and at the edges that it leaves open."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.measure import Measure
from eval.metrics.planes import measures
from eval.pairs import Pair, PairError

FIXTURE = Path(__file__).parent / "fixtures" / "eval_extra.json"
LABELS = ("gallbladder", "kidney", "liver", "portal vein")


def pair(true=None, said=None, prediction: str | None = "text", name: str = "c1") -> Pair:
    values = {"plane": true, "prediction_plane": said}
    return Pair(name, prediction, values={key: value for key, value in values.items() if value is not None})


def figures(columns: list[Measure]) -> dict[str, float]:
    return {column.name: float(column.of(column.counts.sum(axis=0))) for column in columns}


@pytest.mark.parametrize("given_labels", [True, False])
def test_the_fixtures_values(given_labels):
    block = json.loads(FIXTURE.read_text(encoding="utf-8"))["multilabel"]
    pairs = [pair(true, said) for true, said in zip(block["y_true"], block["y_pred"], strict=True)]
    found = figures(measures(pairs, block["labels"] if given_labels else None))
    names = {"Label accuracy": "label_accuracy", "Subset accuracy": "subset_accuracy"}
    names |= {"Micro F1": "f1_micro", "Macro F1": "f1_macro"}
    for name, key in names.items():
        assert found[name] == pytest.approx(100 * block["expected"][key])


names = st.lists(st.sampled_from(LABELS), max_size=3, unique=True)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(names, names), min_size=1, max_size=8))
def test_equal_to_scikit_learn(rows):
    from sklearn.metrics import accuracy_score, f1_score, hamming_loss
    from sklearn.preprocessing import MultiLabelBinarizer

    truths, said = zip(*rows, strict=True)
    indicator = MultiLabelBinarizer(classes=LABELS)
    y, p = indicator.fit_transform(truths), indicator.transform(said)
    found = figures(measures([pair(*row) for row in rows], LABELS))
    assert found["Label accuracy"] == pytest.approx(100 * (1 - hamming_loss(y, p)))
    assert found["Subset accuracy"] == pytest.approx(100 * accuracy_score(y, p))
    if not y.any() and not p.any():
        assert np.isnan(found["Micro F1"]) and np.isnan(found["Macro F1"])  # nothing was counted
        return
    assert found["Micro F1"] == pytest.approx(100 * f1_score(y, p, average="micro", zero_division=0))
    assert found["Macro F1"] == pytest.approx(100 * f1_score(y, p, average="macro", zero_division=0))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(names, names), min_size=2, max_size=8))
def test_without_labels_a_group_is_scored_on_those_that_occur_in_it(rows):
    from sklearn.metrics import f1_score

    column = next(m for m in measures([pair(*row) for row in rows]) if m.name == "Macro F1")
    known = {name for true, _ in rows for name in true}
    group = rows[: len(rows) // 2]
    truths = [set(true) for true, _ in group]
    said = [set(names) & known for _, names in group]  # other names belong to no label
    labels = sorted(set().union(*truths, *said))
    found = float(column.of(column.counts[: len(group)].sum(axis=0)))
    if not labels:
        assert np.isnan(found)
        return
    per_label = [
        f1_score([name in t for t in truths], [name in s for s in said], zero_division=0) for name in labels
    ]
    assert found == pytest.approx(100 * np.mean(per_label))


@pytest.mark.parametrize(
    ("true", "said", "label_accuracy", "subset", "counts"),
    [
        (["liver"], ["liver"], 1, True, [1, 1, 1]),
        (["liver", "kidney"], ["kidney", "liver", "liver"], 1, True, [2, 2, 2]),
        (["liver"], "liver", 1, True, [1, 1, 1]),
        ("liver", [" liver "], 1, True, [1, 1, 1]),
        (["liver"], ["kidney"], 0.5, False, [0, 1, 1]),
        (["liver"], [], 0.75, False, [0, 0, 1]),
        ([], [], 1, True, [0, 0, 0]),
        ([], ["liver"], 0.75, False, [0, 1, 0]),
        (
            ["liver"],
            ["liver", "heart"],
            0.75,
            False,
            [1, 2, 1],
        ),  # a name outside the labels is one wrong label
        (["liver"], list("abcdefgh"), 0, False, [0, 8, 1]),  # and no accuracy falls below zero
        (["liver"], None, 0, False, [0, 0, 1]),  # no planes were found in the answer
        (["liver"], 7, 0, False, [0, 0, 1]),
        (["liver"], [None, {}, "liver"], 0.5, False, [1, 3, 1]),
        ([], None, 0, False, [0, 0, 0]),
    ],
)
def test_one_image(true, said, label_accuracy, subset, counts):
    columns = {column.name: column for column in measures([pair(true, said)], LABELS)}
    assert columns["Label accuracy"].counts.tolist() == [[label_accuracy, 1]]
    assert columns["Subset accuracy"].counts.tolist() == [[subset, 1]]
    assert columns["Micro F1"].counts.tolist() == [counts]


def test_a_case_without_an_answer_is_wrong_on_everything():
    assert set(figures(measures([pair(["liver"], ["liver"], prediction=None)])).values()) == {0.0}


def test_a_perfect_prediction_scores_100():
    pairs = [pair([name], [name]) for name in LABELS] + [pair([], [])]
    assert set(figures(measures(pairs)).values()) == {100.0}


def test_a_given_label_that_never_occurs_scores_0_in_the_macro_mean():
    assert figures(measures([pair(["liver"], ["liver"])], LABELS))["Macro F1"] == 25
    assert figures(measures([pair(["liver"], ["liver"])]))["Macro F1"] == 100


def test_a_pair_without_truth_does_not_count():
    for column in measures([pair(None, ["liver"]), pair(["liver"], ["liver"])]):
        assert not column.counts[0].any() and column.applies.tolist() == [False, True]
    assert all(not column.counts.any() for column in measures([pair(None, ["liver"])]))
    assert {len(column.counts) for column in measures([])} == {0}


@pytest.mark.parametrize("true", [3, {"liver": 1}, [None], [""], ["liver", 3]])
def test_a_truth_that_is_no_list_of_names_is_refused(true):
    with pytest.raises(PairError, match="id 'c7': plane .* is not a list of names"):
        measures([pair(true, [], name="c7")])


def test_a_truth_outside_the_labels_is_refused():
    with pytest.raises(PairError, match="id 'c7': plane 'heart' is not one of gallbladder, kidney"):
        measures([pair(["liver", "heart"], [], name="c7")], LABELS)
    with pytest.raises(ValueError, match="twice"):
        measures([], ("liver", "liver"))
