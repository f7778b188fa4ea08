"""Scores and grades: which side a boundary falls on, and what is wrong when there is no score."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes

from eval.__main__ import main
from eval.grade_picture import draw_grades
from eval.measure import Measure
from eval.metrics.grades import GRADES, confusion, grade, measures
from eval.pairs import Pair, PairError

NAN = float("nan")


def pair(true=None, said=None, prediction: str | None = "text", name: str = "c1") -> Pair:
    values = {"score": true, "prediction_score": said}
    return Pair(name, prediction, values={key: value for key, value in values.items() if value is not None})


def figures(columns: list[Measure]) -> dict[str, float]:
    return {column.name: float(column.of(column.counts.sum(axis=0))) for column in columns}


@pytest.mark.parametrize(
    ("score", "name"),
    [
        (0, "Poor"),
        (4, "Poor"),  # the paper: from 6 to 4 points is from Moderate to Poor
        (4.01, "Moderate"),
        (6, "Moderate"),
        (6.5, "Good"),
        (8, "Good"),
        (9, "Excellent"),
        (10, "Excellent"),
        (10.0, "Excellent"),
    ],
)
def test_a_boundary_belongs_to_the_lower_grade(score, name):
    assert grade(score) == name


@pytest.mark.parametrize("score", [-0.1, 10.1, NAN, "7", None, True, 10**400])
def test_what_is_no_score_has_no_grade(score):
    with pytest.raises(ValueError, match="not a number from 0 to 10"):
        grade(score)
    found = figures(measures([pair(3, score)]))
    assert (found["Grade accuracy"], found["Within 1"], found["Unparsed"], found["MAE"]) == (0, 0, 100, 7)


@pytest.mark.parametrize(
    ("true", "said", "right", "near", "error"),
    [
        (7, 7, 1, 1, 0),
        (7, 8, 1, 1, 1),
        (7, 6, 0, 1, 1),  # one point, but another grade
        (6.5, 8, 1, 0, 1.5),
        (7.3, 8.3, 0, 1, 1),
        (0, 10, 0, 0, 10),
        (9, 0, 0, 0, 9),
    ],
)
def test_one_image(true, said, right, near, error):
    columns = {column.name: column for column in measures([pair(true, said)])}
    assert columns["Grade accuracy"].counts.tolist() == [[right, 1]]
    assert columns["Within 1"].counts.tolist() == [[near, 1]]
    assert columns["MAE"].counts[0] == pytest.approx([error, 1])
    assert columns["MAE"].lower_is_better and columns["MAE"].scale == 1
    assert columns["Unparsed"].counts.tolist() == [[0, 1]]


def test_accuracy_of_a_grade_is_over_the_cases_that_have_it():
    found = figures(measures([pair(9, 10), pair(10, 9), pair(9, 7), pair(7, 9), pair(7, 7)]))
    assert found["Accuracy Excellent"] == pytest.approx(200 / 3) and found["Accuracy Good"] == 50
    assert np.isnan(found["Accuracy Poor"]) and found["Grade accuracy"] == 60


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20) | st.none()), min_size=1, max_size=12))
def test_equal_to_scikit_learn(halves):
    from sklearn.metrics import accuracy_score, confusion_matrix, mean_absolute_error, recall_score

    rows = [(true / 2, None if said is None else said / 2) for true, said in halves]
    pairs = [pair(*row) for row in rows]
    y = [grade(true) for true, _ in rows]
    p = ["none" if said is None else grade(said) for _, said in rows]
    found = figures(measures(pairs))
    assert np.array_equal(confusion(pairs), confusion_matrix(y, p, labels=[*GRADES, "none"])[:4])
    assert found["Grade accuracy"] == pytest.approx(100 * accuracy_score(y, p))
    for name, recall in zip(
        GRADES, recall_score(y, p, labels=GRADES, average=None, zero_division=0), strict=True
    ):
        assert found[f"Accuracy {name}"] == pytest.approx(100 * recall if name in y else NAN, nan_ok=True)
    worst = [max(true, 10 - true) for true, _ in rows]
    errors = [w if said is None else abs(true - said) for (true, said), w in zip(rows, worst, strict=True)]
    assert found["MAE"] == pytest.approx(mean_absolute_error(errors, [0] * len(errors)))


def test_a_missing_answer_is_the_worst_answer():
    found = figures(measures([pair(2, 2, prediction=None)]))
    assert found == pytest.approx(
        {
            **dict.fromkeys(found, NAN),
            "Grade accuracy": 0,
            "Accuracy Poor": 0,
            "MAE": 8,
            "Within 1": 0,
            "Unparsed": 100,
        },
        nan_ok=True,
    )


def test_a_pair_without_truth_does_not_count():
    for column in measures([pair(None, 5), pair(7, 7)]):
        assert not column.counts[0].any() and not column.applies[0]
    assert confusion([pair(None, 5)]).sum() == 0
    assert {len(column.counts) for column in measures([])} == {0}


@pytest.mark.parametrize("true", [11, -1, NAN, "7", True, [7]])
def test_a_true_score_that_is_none_is_refused(true):
    for function in (measures, confusion):
        with pytest.raises(PairError, match="id 'c7': score .* is not a number from 0 to 10"):
            function([pair(true, 5, name="c7")])


def test_the_picture_of_the_confusion_has_every_count_and_a_panel_a_system(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(Axes, "text", lambda self, x, y, said, **_: written.append((x, y, said)))
    ours = confusion([pair(10, 9), pair(10, 7), pair(3, 3), pair(7, None)])
    draw_grades({"ours": ours, "peer $_1": confusion([pair(5, 5)])}, tmp_path / "grades.png")
    assert (tmp_path / "grades.png").read_bytes().startswith(b"\x89PNG")
    first, second = written[:20], written[20:]  # a column for no score where there is one
    assert (3, 3, "1\n50.0 %") in first and (2, 3, "1\n50.0 %") in first and (4, 2, "1\n100.0 %") in first
    assert len(second) == 16 and (1, 1, "1\n100.0 %") in second
    with pytest.raises(ValueError, match="no case has a true score"):
        draw_grades({"ours": confusion([])}, tmp_path / "none.png")


def test_the_command_draws_it(tmp_path, capsys):
    rows = [
        {"id": str(n), "score": s, "prediction": "x", "prediction_score": s} for n, s in enumerate((9, 5))
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    picture = tmp_path / "pictures/fig5.png"
    command = ["score", str(tmp_path / "m.jsonl"), "--sections", "grades", "--bootstrap", "0"]
    assert main([*command, "--confusion", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and "2" in capsys.readouterr().out
