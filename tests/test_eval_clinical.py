"""Facts read out of reports by rule, negation and its flips, and how far two texts agree on them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import clinical
from eval.metrics.clinical import Facts, Statements, facts, measures, statements
from eval.pairs import Pair

REPORTS = yaml.safe_load((Path(__file__).parent / "fixtures" / "clinical_reports.yaml").read_text("utf-8"))
REPORT = "甲状腺右叶见一低回声结节，大小约12×8mm，内见微钙化，未见血流信号。考虑TI-RADS 4A类。"
NORMAL = [
    "肝脏回声均匀，未见占位。",
    "胆囊壁不增厚。",
    "未见积液。",
    "门静脉不扩张，未见血栓。",
    "右肾轻度积水。",
]


def score(prediction: str | None, *references: str, **options) -> dict[str, float]:
    """Every column for one pair, rounded; NaN columns are left out."""
    columns = measures([Pair("1", prediction, references)], **options)
    figures = {column.name: float(column.of(column.counts.sum(axis=0))) for column in columns}
    return {name: round(value, 2) for name, value in figures.items() if not np.isnan(value)}


@pytest.mark.parametrize(
    "report", REPORTS["paper"] + REPORTS["others"], ids=lambda report: report["text"][:40]
)
def test_facts_of_real_wording(report):
    said = dict(report["says"])
    if "size_mm" in said:
        said["size_mm"] = tuple(said["size_mm"])
    assert facts(report["text"]) == Facts(**said)


@pytest.mark.parametrize("said", REPORTS["statements"], ids=lambda said: said["text"][:40])
def test_everything_stated_is_read_and_nothing_else(said):
    polarity = [(name, True) for name in said.get("seen", [])] + [
        (name, False) for name in said.get("denied", [])
    ]
    assert statements(said["text"]) == Statements(
        organ=frozenset([said["organ"]] if "organ" in said else []),
        side=frozenset(said.get("side", [])),
        lesion=frozenset([said["lesion"]] if "lesion" in said else []),
        kind=frozenset(said.get("kind", [])),
        size=frozenset(tuple(map(float, size)) for size in said.get("size", [])),
        rads=frozenset(said.get("rads", [])),
        findings=frozenset(polarity),
    )


def test_a_flip_of_one_negation_flips_the_lesion():
    table = {
        ("肝左叶未见明显占位性病变。", "未见", "可见"): (False, True),
        ("右肾上极可见一无回声区。", "可见", "未见"): (True, False),
        ("左心房内有血栓回声。", "有", "无"): (True, False),
        ("No focal lesion was observed in the liver.", "No", "A"): (False, True),
        ("The breast is without a mass.", "without", "with"): (False, True),
        ("A cyst was seen in the left kidney.", "was", "was not"): (True, False),
    }
    for (text, old, new), expected in table.items():
        assert (facts(text).lesion, facts(text.replace(old, new, 1)).lesion) == expected, text


def test_sides_and_chambers_are_not_confused():
    assert facts("左心室内见高回声团块。").side is None
    assert facts("A hypoechoic mass in the right atrium of the heart.").side is None
    assert facts("肝左叶见低回声结节。").side is None
    assert facts("双侧甲状腺见低回声结节。").side is None


@pytest.mark.parametrize(
    ("reference", "old", "new"),
    [
        ("肝脏实质回声均匀，未见明显占位性病变。", "未见", "可见"),
        ("肝脏大小正常，未见占位、钙化及血流信号。", "未见", "可见"),
        ("右肾可见无回声区。", "可见", "未见"),
        ("No focal lesion is seen in the liver.", "No", "A"),
        ("There is no nodule, cyst or calcification.", "no", "a"),
        ("A mass was seen in the liver.", "was", "was not"),
    ],
)
def test_a_turned_negation_scores_0_and_is_counted(reference, old, new):
    figures = score(reference.replace(old, new, 1), reference)
    assert (figures["findings F1"], figures["lesion F1"], figures["flips"]) == (0, 0, 100)


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
    assert all(column.counts.shape[0] == 0 for column in measures([]))


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


def test_both_languages_know_the_same_names():
    rules = yaml.safe_load(clinical.RULES.read_text("utf-8"))
    for table in ("organs", "kinds", "findings", "laterality", "sides"):
        assert list(rules["zh"][table]) == list(rules["en"][table]), table


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


TRIGGERS = (
    "左 右 双侧 肝 甲状腺 未见 可见 无 不 占位 结节 钙化 血流信号 强回声 囊 建议 ， 。 ： ； （-） "
    "\n \u200b 😀 𠮷 类 BI-RADS TI-RADS TR4 4a Ⅳ 12 × mm cm ． ３ no without mass cyst in the is not "
    "seen , . : by x left"
)
WORDS = st.sampled_from(TRIGGERS.split(" "))


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(), st.lists(WORDS, max_size=30).map("".join), st.lists(WORDS, max_size=30).map(" ".join)
    )
)
def test_any_text_is_read_and_agrees_with_itself(text):
    facts(text)
    said = statements(text)
    assert len(said.organ) <= 1 and len(said.lesion) <= 1 and said.side <= {"left", "right"}
    assert set(score(text, text).values()) <= {0, 100}
    assert statements(text + "\n" + text).findings == said.findings


@given(st.permutations(NORMAL))
def test_the_order_of_sentences_does_not_change_the_findings(sentences):
    said = statements("".join(sentences))
    assert said.findings == statements("".join(NORMAL)).findings
    assert said.findings == frozenset().union(*(statements(sentence).findings for sentence in NORMAL))
    assert said.side == {"right"} and said.lesion == {False}


def test_a_long_answer_is_read_in_time():
    for piece in ("未见", "结节8×6mm。", "no mass ", "8mm ", "bi-rads 4a ", "左结节", "散在", "1"):
        statements((piece * 100_000)[:100_000])


@pytest.mark.parametrize("language", ["zh", "en"])
def test_simulated_reports_read_as_what_they_were_made_from(language):
    from simulator.language import report
    from simulator.population import sample_examination
    from simulator.readings import read_lesion

    rng = np.random.default_rng(5)
    for _ in range(60):
        exam = sample_examination(rng)
        text, lesion = report(exam, language, rng), exam.lesion
        said = statements(text)
        assert (said.organ, said.lesion) == ({exam.organ}, {lesion is not None}), text
        if lesion is None:
            assert not said.kind and not said.size and not any(seen for _, seen in said.findings), text
            continue
        reading = read_lesion(exam)
        rads = {"thyroid": f"TI-RADS {reading.tirads}", "breast": f"BI-RADS {reading.birads}"}
        assert (said.kind, said.rads) == (
            {lesion.kind},
            {rads[exam.organ]} if exam.organ in rads else set(),
        ), text
        assert (("posterior_shadow", True) in said.findings) == (lesion.posterior == "shadow"), text
        if lesion.vascularity is not None:
            assert {seen for name, seen in said.findings if name == "flow"} == {
                lesion.vascularity != "none"
            }, text


def test_public_captions_read_as_their_anatomy():
    path = Path(__file__).parents[2] / "shared" / "fixtures" / "metrics" / "open_fixture.jsonl"
    if not path.exists():
        pytest.skip("needs the shared fixtures: ../shared/fixtures/metrics/open_fixture.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    named = {"gynecology": "gynaecology"}
    for row in (row for row in rows if row["kind"] in ("report", "diagnosis")):
        anatomy = row["anatomy"].lower()
        assert facts(row["reference"]).organ in (named.get(anatomy, anatomy), None), row["id"]


def test_importing_it_loads_nothing_heavy():
    heavy = ("torch", "nltk", "gradio", "jieba", "scipy", "simulator")
    script = f"import sys, eval.metrics.clinical; print([name for name in {heavy} if name in sys.modules])"
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"
