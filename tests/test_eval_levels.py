"""Quality levels against stated expected values, scikit-learn, and answers that say nothing."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.measure import Measure
from eval.metrics.levels import LEVELS, confusion, measures
from eval.pairs import Pair, PairError

FIXTURE = Path(__file__).parent / "fixtures" / "eval_extra.json"
NAN, INF = float("nan"), float("inf")


def pair(true=None, said=None, logits=None, prediction: str | None = "text", name: str = "c1") -> Pair:
    values = {"level": true, "prediction_level": said, "prediction_logits": logits}
    return Pair(name, prediction, values={key: value for key, value in values.items() if value is not None})


def figures(columns: list[Measure]) -> dict[str, float]:
    return {column.name: float(column.of(column.counts.sum(axis=0))) for column in columns}


@pytest.fixture(scope="module")
def block() -> dict:
    return json.loads(FIXTURE.read_text(encoding="utf-8"))["quality"]


def test_the_fixtures_values_by_logits(block):
    rows = [(item["gt"], dict(zip(item["order"], item["logits"], strict=True))) for item in block["items"]]
    pairs = [pair(true, logits=logits, prediction="") for true, logits in rows]
    expected, found = block["expected"]["argmax_of_softmax"], figures(measures(pairs))
    assert found["Accuracy"] == pytest.approx(100 * expected["accuracy"])
    assert found["Balanced accuracy"] == pytest.approx(100 * expected["balanced_accuracy"])
    assert found["Macro F1"] == pytest.approx(100 * expected["f1_macro"])
    assert found["Kappa"] == pytest.approx(expected["kappa_quadratic"])
    assert found["Majority rate"] == pytest.approx(100 * block["expected"]["majority_class_accuracy"])
    for level in LEVELS:
        precision = 100 * expected["precision"][level] if expected["predicted_share"][level] else NAN
        assert found[f"Precision {level}"] == pytest.approx(precision, nan_ok=True)
        assert found[f"Recall {level}"] == pytest.approx(100 * expected["recall"][level])
        assert found[f"Predicted {level}"] == pytest.approx(100 * expected["predicted_share"][level])
    table = confusion(pairs)
    assert table[:, :3].tolist() == expected["confusion_rows_gt"] and not table[:, 3].any()


def test_the_fixtures_values_by_words(block):
    found = figures(measures([pair(item["gt"], item["text_label"]) for item in block["items"]]))
    assert found["Accuracy"] == pytest.approx(100 * block["expected"]["text_accuracy_unparsed_is_wrong"])
    assert found["Unparsed"] == pytest.approx(100 * block["expected"]["unparsed"] / 60)


def test_the_fixtures_clusters_are_scored_alike(block):
    """The expected values of its k-means, by the cut points given there."""
    weights = np.array([0, 0.5, 1])
    pairs = []
    for item in block["items"]:
        p = np.exp(item["logits"]) / np.exp(item["logits"]).sum()
        pairs.append(pair(item["gt"], LEVELS[int(np.searchsorted(block["expected"]["cuts"], p @ weights))]))
    expected, found = block["expected"]["kmeans_exact_1d"], figures(measures(pairs))
    assert found["Accuracy"] == pytest.approx(100 * expected["accuracy"])
    assert found["Balanced accuracy"] == pytest.approx(100 * expected["balanced_accuracy"])
    assert found["Macro F1"] == pytest.approx(100 * expected["f1_macro"])
    assert found["Kappa"] == pytest.approx(expected["kappa_quadratic"])
    assert confusion(pairs)[:, :3].tolist() == expected["confusion_rows_gt"]


level = st.sampled_from(LEVELS)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(level, level), min_size=1, max_size=15))
def test_equal_to_scikit_learn(rows):
    from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, f1_score

    y, p = zip(*rows, strict=True)
    found = figures(measures([pair(*row) for row in rows]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # levels that are missing on one side
        assert found["Balanced accuracy"] == pytest.approx(100 * balanced_accuracy_score(y, p))
        assert found["Macro F1"] == pytest.approx(100 * f1_score(y, p, average="macro", zero_division=0))
        kappa = cohen_kappa_score(y, p, labels=LEVELS, weights="quadratic")
    assert found["Kappa"] == pytest.approx(kappa, nan_ok=True)


@pytest.mark.parametrize(
    ("said", "logits", "read"),
    [
        ("high", None, "high"),
        (" High ", None, "high"),
        ("high", {"low": 9, "medium": 0, "high": 0}, "high"),  # the word before the logits
        ("good", {"low": 9, "medium": 0, "high": 0}, "low"),
        (None, {"low": 1, "medium": 2.5, "high": 2}, "medium"),
        (None, {"low": 1, "medium": 1, "high": 0}, "low"),  # of equal ones the lower
        (None, {"low": -INF, "medium": -INF, "high": -3}, "high"),  # ruled out
        (None, {"low": 0, "medium": 0, "high": 10**400}, "high"),
        (None, {"low": 1, "medium": 2, "high": 3, "best": 9}, "high"),
        (None, {"low": 1, "medium": NAN, "high": 2}, None),
        (None, {"low": 1, "medium": INF, "high": 2}, None),
        (None, {"low": -INF, "medium": -INF, "high": -INF}, None),
        (None, {"low": 1, "high": 2}, None),
        (None, {"low": "1", "medium": 0, "high": 0}, None),
        (None, {"low": True, "medium": 0, "high": 0}, None),
        (None, [1, 2, 3], None),
        (None, "high", None),
        ("unknown", None, None),
        ("", None, None),
        (3, None, None),
        (["high"], None, None),
        (None, None, None),
    ],
)
def test_how_a_level_is_read(said, logits, read):
    place = 3 if read is None else LEVELS.index(read)
    assert confusion([pair("low", said, logits)])[0].tolist() == np.eye(4, dtype=int)[place].tolist()


def test_a_case_without_an_answer_is_unparsed_and_wrong():
    pairs = [pair("low", "low", prediction=None), pair("high", "high")]
    found = figures(measures(pairs))
    assert (found["Accuracy"], found["Unparsed"], found["Recall low"]) == (50, 50, 0)
    assert found["Precision high"] == 100 and np.isnan(found["Precision low"])


def test_silence_costs_kappa():
    rows = [("low", "low"), ("medium", "medium"), ("high", "high"), ("medium", "high")]
    sure = figures(measures([pair(*row) for row in rows]))["Kappa"]
    silent = figures(measures([pair(*row) for row in [*rows, ("low", None)]]))["Kappa"]
    near = figures(measures([pair(*row) for row in [*rows, ("low", "medium")]]))["Kappa"]
    assert silent < near < sure
    assert figures(measures([pair("low"), pair("high")]))["Kappa"] == 0


def test_a_perfect_rater_scores_100():
    found = figures(measures([pair(level, level) for level in LEVELS]))
    for name in ("Accuracy", "Balanced accuracy", "Macro F1", *(f"Recall {level}" for level in LEVELS)):
        assert found[name] == 100
    assert (found["Kappa"], found["Unparsed"]) == (1, 0)


def test_groups_without_a_level_are_averaged_over_the_levels_they_have():
    found = figures(measures([pair("low", "low"), pair("low", "low")]))
    assert found["Balanced accuracy"] == found["Macro F1"] == found["Majority rate"] == 100
    assert np.isnan(found["Kappa"]) and np.isnan(found["Recall high"])


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_pair_without_truth_does_not_count(nothing):
    for column in measures([pair(nothing, "low"), pair("high", "high")]):
        assert not column.counts[0].any() and not column.applies[0]
    assert confusion([pair(nothing, "low")]).sum() == 0
    assert {len(column.counts) for column in measures([])} == {0}


@pytest.mark.parametrize("true", ["hi", 3, ["high"], {}])
def test_a_true_level_of_no_known_name_is_refused(true):
    for function in (measures, confusion):
        with pytest.raises(PairError, match="id 'c7': level .* is not one of high, medium, low"):
            function([pair(true, "low", name="c7")])
