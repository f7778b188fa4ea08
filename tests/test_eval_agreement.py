"""How far two texts agree on the facts read out of them: flips, sides, sizes, references, the columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.agreement import measures
from eval.pairs import Pair

REPORTS = yaml.safe_load((Path(__file__).parent / "fixtures" / "clinical_reports.yaml").read_text("utf-8"))
REPORT = "甲状腺右叶见一低回声结节，大小约12×8mm，内见微钙化，未见血流信号。考虑TI-RADS 4A类。"


def score(prediction: str | None, *references: str, **options) -> dict[str, float]:
    """Every column for one pair, rounded; NaN columns are left out."""
    columns = measures([Pair("1", prediction, references)], **options)
    figures = {column.name: float(column.of(column.counts.sum(axis=0))) for column in columns}
    return {name: round(value, 2) for name, value in figures.items() if not np.isnan(value)}


@pytest.mark.parametrize(
    ("reference", "old", "new"),
    [
        ("肝脏实质回声均匀，未见明显占位性病变。", "未见", "可见"),
        ("肝脏大小正常，未见占位、钙化及血流信号。", "未见", "可见"),
        ("右肾可见无回声区。", "可见", "未见"),
        ("No focal lesion is seen in the liver.", "No", "A"),
        ("There is no nodule, cyst or calcification.", "no", "a"),
        ("A mass was seen in the liver.", "was", "was not"),
        ("右叶结节仍存在。", "仍存在", "已消失"),
        ("The nodule is still visualized.", "still", "no longer"),
    ],
)
def test_a_turned_negation_scores_0_and_is_counted(reference, old, new):
    figures = score(reference.replace(old, new, 1), reference)
    assert (figures["findings F1"], figures["lesion F1"], figures["flips"]) == (0, 0, 100)
    assert figures["clinical F1"] < 100  # organ and side may still agree


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [
        ("可见胎心搏动。", "未见胎心搏动。"),
        ("Fetal cardiac activity is present.", "Fetal cardiac activity is absent."),
        ("管腔内未见充盈缺损。", "管腔内可见充盈缺损。"),
        ("No filling defect.", "A filling defect."),
        ("压之可闭合。", "压之不闭合。"),
        ("The vein is compressible.", "The vein is non-compressible."),
        ("Malignancy is excluded.", "Malignancy is not excluded."),
    ],
)
def test_a_turned_finding_scores_0_and_is_counted(reference, prediction):
    for figures in (score(prediction, reference), score(reference, prediction)):
        assert (figures["findings F1"], figures["flips"]) == (0, 100)


@pytest.mark.parametrize(
    ("reference", "old", "new"),
    [
        ("甲状腺右叶低回声结节。", "右", "左"),
        ("左肾大小正常。左肾见结石。", "左", "右"),
        ("肝左叶见低回声结节。", "左", "右"),
        ("左房增大，余房室腔大小正常。", "左", "右"),
        ("左侧", "左", "右"),
        ("双侧腋下未见肿大淋巴结。左乳见低回声结节。", "左", "右"),
        ("A mass in the right breast. No enlarged node on either side.", "right", "left"),
        ("Thrombus in the left atrium.", "left", "right"),
    ],
)
def test_a_turned_side_scores_0(reference, old, new):
    assert score(reference, reference)["side F1"] == 100
    assert score(reference.replace(old, new), reference)["side F1"] == 0


def test_a_perfect_prediction_scores_100_and_one_that_says_nothing_0():
    perfect = score(REPORT, REPORT, every=True)
    assert len(perfect) == 3 * 8 + 1 and perfect.pop("flips") == 0
    assert set(perfect.values()) == {100}
    for nothing in ("", " \n", None, "。", "......"):
        empty = score(nothing, REPORT, every=True)
        assert set(empty) == set(perfect) and set(empty.values()) == {0}, nothing


@pytest.mark.parametrize("report", REPORTS["paper"] + REPORTS["statements"], ids=lambda r: r["text"][:40])
def test_a_text_agrees_with_itself(report):
    figures = score(report["text"], report["text"])
    assert set(figures.values()) <= {0, 100} and figures.pop("flips", 0) == 0
    assert set(figures.values()) <= {100}


def test_counts_are_right_stated_and_true():
    prediction = "甲状腺右叶见一低回声结节，内见血流信号，未见钙化。乳腺未见异常。"
    columns = {column.name: column for column in measures([Pair("1", prediction, (REPORT,))])}
    # Both: a focal lesion. Only stated: flow, no calcification, no abnormality. Only true: the other two.
    assert columns["findings F1"].counts.tolist() == [[1, 4, 3]]
    assert columns["flips"].counts.tolist() == [[1, 2]]
    assert columns["RADS F1"].counts.tolist() == [[0, 0, 1]]
    assert columns["size F1"].counts.tolist() == [[0, 0, 1]]
    assert columns["clinical F1"].counts.tolist() == [[1 + 4, 4 + 4, 3 + 6]]
    assert columns["flips"].lower_is_better and not columns["findings F1"].lower_is_better


@pytest.mark.parametrize(
    ("stated", "true", "right"),
    [
        ("117mm×59mm", "11.7cm×5.9cm", 1),
        ("5.9×11.7cm", "11.7×5.9cm", 1),
        ("１１．７ｃｍ×５．９ｃｍ", "11.7cm×5.9cm", 1),
        ("11.7 cm x 5.9 cm", "11.7×5.9cm", 1),
        ("11×10mm", "10×10mm", 1),
        ("9×10mm", "10×10mm", 1),
        ("11.1×10mm", "10×10mm", 0),
        ("8.9×10mm", "10×10mm", 0),
        ("20×10mm", "20×14mm", 0),
        ("20mm", "20×14mm", 1),
        ("20×14mm", "20mm", 1),
        ("14mm", "20×14mm", 0),
        ("20×14mm", "20×14×9mm", 1),
        ("23毫米", "2.3cm", 1),
        ("23mm", "2.3mm", 0),
    ],
)
def test_sizes_agree_within_a_tenth_of_each_diameter(stated, true, right):
    for wording in ("{}", "结节大小约{}。", "A nodule of {}."):
        columns = {c.name: c for c in measures([Pair("1", wording.format(stated), (wording.format(true),))])}
        assert columns["size F1"].counts.tolist() == [[right, 1, 1]], wording


def test_several_sizes_are_matched_one_to_one():
    two = "左叶见两个结节，大小分别约20×14mm、5×4mm。"
    assert score("左叶见结节，大小约20×14mm。", two)["size F1"] == pytest.approx(66.67)
    assert score("左叶见两个结节，大小分别约21×14mm、20×14mm。", two)["size F1"] == 50
    assert score("左叶见两个结节，大小分别约5×4mm、20×14mm。", two)["size F1"] == 100
    assert score(two.replace("5×4", "21×14"), "左叶见结节，大小约20.5×14mm。")["size F1"] == pytest.approx(
        66.67
    )


def test_of_several_references_the_best_one_counts():
    assert score("肝囊肿", "左肾结石", "肝囊肿")["clinical F1"] == 100
    assert score("脂肪肝", "左肾结石")["clinical F1"] == 0
    assert score("建议复查。", "建议复查。", "左肾结石") == {}
    assert (
        score(None, "建议复查。", "左肾结石")["clinical F1"] == 0
    )  # no answer is not an answer without facts


def test_pairs_keep_their_order_and_add_up():
    pairs = [
        Pair("1", REPORT, (REPORT,)),
        Pair("2", None, (REPORT,)),
        Pair("3", REPORT, ()),
        Pair("4", "yes", ("no",)),
        Pair("5", REPORT, ("",)),
    ]
    for column in measures(pairs):
        assert column.counts.shape[0] == len(pairs) and not column.counts[2:].any()
    overall = measures(pairs)[-1]
    assert overall.name == "clinical F1"
    assert overall.of(overall.counts.sum(axis=0)) == pytest.approx(100 * 2 / 3)
    assert np.allclose(overall.per_case, [1, 0, np.nan, np.nan, np.nan], equal_nan=True)
    assert {column.counts.shape[0] for column in measures([])} == {0}


def test_columns_and_their_receipt():
    names = [column.name for column in measures([Pair("1", REPORT, (REPORT,))])]
    expected = "organ side lesion kind size RADS".split()
    assert names == [f"{name} F1" for name in expected] + [
        "findings P",
        "findings R",
        "findings F1",
        "flips",
        "clinical F1",
    ]
    (receipt,) = {column.receipt for column in measures([Pair("1", REPORT, (REPORT,))])}
    assert receipt.startswith("rules:") and "size:±10 %" in receipt and "references:best" in receipt


def test_facts_agree_across_languages():
    assert score(
        "A 12 x 8 mm hypoechoic nodule in the right thyroid lobe.", "甲状腺右叶低回声结节，12×8mm。"
    ) == {
        "organ F1": 100,
        "side F1": 100,
        "lesion F1": 100,
        "kind F1": 100,
        "size F1": 100,
        "findings P": 100,
        "findings R": 100,
        "findings F1": 100,
        "flips": 0,
        "clinical F1": 100,
    }


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([report["text"] for report in REPORTS["statements"]]), max_size=5))
def test_any_texts_together_agree_with_themselves(texts):
    for text in ("".join(texts), "\n".join(texts)):
        assert set(score(text, text).values()) <= {0, 100}
