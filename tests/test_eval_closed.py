"""Closed questions: a table of answers in both languages as they read, and what must hold for any answer."""

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

from eval.metrics.closed import listed_options, measures, read_answer, read_pair
from eval.pairs import Pair, PairError

TABLE = yaml.safe_load((Path(__file__).parent / "fixtures" / "closed_answers.yaml").read_text("utf-8"))
READS = [(entry, reading) for entry in TABLE["answers"] for reading in entry["reads"]]
POLAR = ("yes/no", "true/false")
ORGANS = ("liver", "kidney", "spleen", "thyroid")

# Every one of these alone is an answer: (kind, as written, as read).
CANONICAL = [
    *(("yes/no", word, "yes") for word in ("yes", "Yes", "是", "是的", "有", "对", "正确", "true")),
    *(("yes/no", word, "no") for word in ("no", "No", "否", "不是", "无", "没有", "不正确", "false")),
    *(("true/false", word, "true") for word in ("True", "true", "正确", "对", "yes")),
    *(("true/false", word, "false") for word in ("False", "false", "错误", "不正确", "no")),
    *(("level", word, word) for word in ("high", "medium", "low")),
    *(("choice", letter, letter) for letter in "ABCD"),
    *(("choice", organ, "ABCD"[i]) for i, organ in enumerate(ORGANS)),
]
# Said together they leave the question open.
OPPOSED = [(a, b) for a in CANONICAL for b in CANONICAL if a[0] == b[0] and a[2] != b[2]]


def read(text, kind, entry=None):
    entry = entry or ({"options": ORGANS} if kind == "choice" else {})
    return read_answer(text, kind, entry.get("options"), question=entry.get("question"))


def pair(prediction, reference, **values):
    references = (reference,) if isinstance(reference, str) else tuple(reference)
    return Pair("c1", prediction, references, {"answer_type": "closed"} | values)


@pytest.mark.parametrize(("entry", "reading"), READS, ids=lambda part: str(part)[:60])
def test_answers_read_as_a_person_reads_them(entry, reading):
    expected = None if reading == "unparsed" else reading
    found = {answer: read(answer, entry["kind"], entry) for answer in entry["reads"][reading]}
    assert found == dict.fromkeys(found, expected)


def test_the_table_is_large_and_names_every_answer_once():
    answers = [(entry["about"], answer) for entry, reading in READS for answer in entry["reads"][reading]]
    assert len(answers) > 1200 and len(set(answers)) == len(answers)
    assert all(isinstance(answer, str) for _, answer in answers)


@pytest.mark.parametrize("row", TABLE["pairs"] + TABLE["reference_rows"], ids=lambda row: str(row)[:90])
def test_answers_beside_their_references(row):
    row = dict(row)
    expected = row.pop("is")
    found = read_pair(pair(row.pop("prediction"), row.pop("reference"), **row))
    assert ("right" if found.right else "unparsed" if found.said is None else "wrong") == expected, found


def test_the_reference_rows_are_those_of_the_shared_fixture(shared):
    lines = (shared / "fixtures" / "metrics" / "open_fixture.jsonl").read_text("utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "vqa_closed"]
    keys = ("question", "prediction", "reference")
    assert [[row[key] for key in keys] for row in rows] == [
        [row[key] for key in keys] for row in TABLE["reference_rows"]
    ]


def test_measures_count_every_closed_pair_once():
    rows = [
        pair(row["prediction"], row["reference"], question=row["question"]) for row in TABLE["reference_rows"]
    ]
    accuracy, unparsed, *kinds = measures(rows)
    assert (accuracy.name, unparsed.name) == ("closed accuracy", "unparsed")
    assert accuracy.counts.shape == (11, 2) and accuracy.share and unparsed.lower_is_better
    assert accuracy.of(accuracy.counts.sum(0)) == pytest.approx(100 * 7 / 11)
    assert unparsed.of(unparsed.counts.sum(0)) == pytest.approx(100 * 1 / 11)
    of = {measure.name: tuple(measure.counts.sum(0)) for measure in kinds}
    # "正确" and "True" are references of the kind true/false; the two lists of options are choices.
    assert of == {"yes/no accuracy": (2, 5), "true/false accuracy": (3, 4), "choice accuracy": (2, 2)}
    assert "rules:closed.yaml-" in accuracy.receipt


def test_other_pairs_are_left_out_and_missing_answers_are_wrong():
    rows = [
        pair("yes", "yes"),
        pair(None, "yes"),
        pair("  ", "yes"),
        pair("yes", "yes", answer_type="open"),
        pair("yes", ()),
        pair("YES", "Yes", answer_type="CLOSED"),
        Pair("c2", "yes", ("yes",)),
    ]
    accuracy, unparsed = measures(rows)
    expected = [1, 0, 0, np.nan, np.nan, 1, np.nan]
    np.testing.assert_array_equal(accuracy.per_case, expected)
    np.testing.assert_array_equal(unparsed.per_case, [0, 1, 1, np.nan, np.nan, 0, np.nan])
    assert {str(measure.of(measure.counts.sum(0))) for measure in measures(rows[3:5])} == {"nan"}
    assert {measure.counts.shape for measure in measures([])} == {(0, 2)}


def test_the_answer_space_comes_from_options_then_question_then_reference():
    asked = "选择：A.肝 B.肾"
    table = [
        ({}, "是", "yes/no", "yes"),
        ({}, "False", "true/false", "false"),
        ({}, "b", "choice", "B"),
        ({}, "high", "level", "high"),
        ({}, "MRI", "text", "MRI"),
        ({}, "F", "yes/no", "no"),
        ({}, "对", "true/false", "true"),
        ({}, "No, this is a cyst.", "yes/no", "no"),
        ({"question": asked}, "肾", "choice", "B"),
        ({"question": asked, "options": ["脾", "肾", "肝"]}, "肝", "choice", "C"),
        ({"options": {"1": "liver", "2": "kidney"}}, "kidney", "choice", "2"),
        ({"options": "A.肝 B.肾"}, "肾", "choice", "B"),
        ({"options": ["A. yes", "B. no"]}, "no", "choice", "B"),
        ({"options": ["A. liver", "(B) kidney"]}, "kidney", "choice", "B"),
        ({"options": []}, "no", "yes/no", "no"),
        ({"question": "囊性还是实性？"}, "实性", "choice", "实性"),
    ]
    for values, reference, kind, truth in table:
        found = read_pair(pair(reference, reference, **values))
        assert (found.kind, found.truth, found.right) == (kind, truth, True), (values, reference)


def test_one_of_several_references_is_enough():
    assert read_pair(pair("B", ["A", "B"])).right
    assert not read_pair(pair("C", ["A", "B"])).right
    assert {read_pair(pair(said, ["no", "MRI"])).kind for said in ("no", "MRI", "CT")} == {"yes/no"}


def test_options_written_in_a_question():
    table = {
        "选择：A.肝 B.肾 C.脾": {"A": "肝", "B": "肾", "C": "脾"},
        "Which organ? (A) liver (B) kidney": {"A": "liver", "B": "kidney"},
        "哪一项？\nA、低回声，边界清；\nB、高回声。\n只答字母。": {"A": "低回声，边界清", "B": "高回声"},
        "Which? a) left lobe, b) right lobe. Reply with the letter.": {"A": "left lobe", "B": "right lobe"},
        "Ａ．肝　Ｂ．肾": {"A": "肝", "B": "肾"},
        "A: 1.5 cm B: 15 mm": {"A": "1.5 cm", "B": "15 mm"},
        "Is this grade A or B?": {},
        "A. Only one": {},
        "B. kidney C. spleen": {},
        "BI-RADS 4A. 是否为B型？": {},
        "": {},
    }
    for question, options in table.items():
        found = {key: text.replace("，", ",") for key, text in listed_options(question).items()}
        assert found == {key: text.replace("，", ",") for key, text in options.items()}, question


@pytest.mark.parametrize(
    "options", [7, {"A": None}, {"A": ["liver"]}, {1: "liver"}, {" ": "liver"}, [None, "liver"], ["x"] * 27]
)
def test_options_of_another_shape_are_refused_by_id(options):
    with pytest.raises(PairError, match="'c1'.*option"):
        measures([pair("A", "A", options=options)])


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind 'open' is not one of yes/no"):
        read_answer("yes", "open")


texts = st.text(max_size=60) | st.lists(
    st.sampled_from(
        [
            *(word for _, word, _ in CANONICAL),
            " ",
            ",",
            "。",
            "?",
            "not ",
            "不",
            "未见",
            "结节",
            "答案是",
            "or",
        ]
        + [
            "the answer is ",
            "<think>",
            "</think>",
            "<answer>",
            "\\boxed{",
            "(",
            ")",
            ".",
            "\n",
            "a ",
            "I ",
            "1",
        ]
    ),
    max_size=12,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(texts, texts, st.lists(texts, max_size=4))
def test_any_text_is_read_without_error(text, question, options):
    for kind in POLAR:
        assert read_answer(text, kind, question=question) in (*kind.split("/"), None)
    assert read_answer(text, "level") in ("high", "medium", "low", None)
    assert read_answer(text, "choice", options) in (*"ABCDEFGH"[: len(options) or 8], None)
    found = read_pair(pair(text, question or "yes", question=question, options=options))
    assert found is None or found.right in (True, False)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(CANONICAL),
    st.text(" \n.,!;。，！；、()（）\"'“”「」*_-\u200b", max_size=4),
    st.text(" \n.,!;。，！；、()（）\"'“”「」*_-\u200b", max_size=4),
    st.sampled_from([str, str.upper, str.lower, str.swapcase, str.title]),
)
def test_a_bare_answer_reads_as_itself_in_any_case_between_any_punctuation(canonical, before, after, case):
    kind, word, expected = canonical
    assert read(before + case(word) + after, kind) == expected


@pytest.mark.parametrize("case", [str.upper, str.lower, str.swapcase])
def test_case_does_not_change_a_reading(case):
    for entry in TABLE["answers"]:
        for reading, answers in entry["reads"].items():
            for answer in answers if entry["kind"] != "choice" else ():
                found = read(case(answer), entry["kind"], entry)
                assert found == (None if reading == "unparsed" else reading), answer


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(OPPOSED), st.sampled_from([", ", "。", "\n", ". ", "; ", "！"]))
def test_both_sides_named_is_unparsed(opposed, between):
    (kind, one, _), (_, other, _) = opposed
    assert read(one + between + other, kind) is None


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(CANONICAL), st.sampled_from(CANONICAL))
def test_an_announced_answer_outranks_the_rest(canonical, aside):
    kind, word, expected = canonical
    for text in (
        f"The answer is {word}.",
        f"答案：{word}",
        f"<think>{aside[1]}</think>{word}",
        f"<answer>{word}</answer>",
    ):
        assert read(text, kind) == expected, text
    assert read(f"I first thought of {aside[1]}.\nAnswer: {word}.", kind) == expected


@settings(max_examples=50, deadline=None)
@given(
    st.permutations(ORGANS), st.sampled_from(["It is the {}.", "{}", "a {}", "图中为{}", "the answer is {}"])
)
def test_the_order_of_options_does_not_change_which_text_is_meant(order, wording):
    for organ in ORGANS:
        assert order["ABCD".index(read_answer(wording.format(organ), "choice", order))] == organ


def test_a_very_long_answer_is_read():
    assert read("no " * 70_000 + "。", "yes/no") == "no"
    assert read("nodule, " * 30_000, "yes/no") is None
    assert read("the answer is " * 20_000 + "B", "choice") == "B"
    assert read("liver or kidney. " * 15_000, "choice") is None


def test_importing_it_loads_nothing_heavy():
    heavy = ("torch", "nltk", "gradio", "transformers", "matplotlib", "sklearn", "scipy", "jieba")
    script = f"import sys, eval.metrics.closed; print([name for name in {heavy} if name in sys.modules])"
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"
