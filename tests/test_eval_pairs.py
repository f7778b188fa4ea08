"""Rows that are scored, and one clear sentence for each that cannot be."""

import json

import pytest

from eval.pairs import PairError, read_pairs


def written(tmp_path, *lines) -> object:
    path = tmp_path / "predictions.jsonl"
    text = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(text) + "\n", "utf-8")
    return path


def test_reference_answer_and_aliases(tmp_path):
    pairs = read_pairs(
        written(
            tmp_path,
            {"id": "a", "prediction": "x", "reference": "y", "anatomy": "Liver", "meta": {"vendor": "M"}},
            "",
            {"id": 7, "prediction": None, "answer": ["y", "z"], "error": "out of memory"},
        )
    )
    assert [(p.id, p.prediction, p.references) for p in pairs] == [
        ("a", "x", ("y",)),
        ("7", None, ("y", "z")),
    ]
    assert [pairs[0].group(key) for key in ("organ", "anatomy", "meta.vendor", "meta.probe", "task")] == [
        "Liver",
        "Liver",
        "M",
        "–",
        "–",
    ]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (['{"id": "a", "prediction": "x"'], "line 1: not a JSON object"),
        ([{"id": "a", "prediction": "x"}, "[1, 2]"], "line 2: expected a JSON object with id and prediction"),
        ([{"prediction": "x"}], "line 1: expected a key id"),
        (
            [{"id": "a", "predicton": "x", "reference": "y"}],
            "no key prediction; found id, predicton, reference",
        ),
        ([{"id": "a", "prediction": 3}], "line 1: id 'a': prediction 3 is not a text"),
        ([{"id": "a", "prediction": "x", "reference": True}], "reference True is neither a text nor a list"),
        ([{"id": "a", "prediction": "x", "reference": []}], "reference [] is neither a text nor a list"),
        (
            [{"id": "a", "prediction": "x"}, {"id": "b", "prediction": "x"}, {"id": "a", "prediction": "y"}],
            "line 3: a second prediction for id 'a' (first in line 1)",
        ),
        ([""], "is empty"),
    ],
)
def test_bad_rows_are_refused_with_their_line(tmp_path, lines, sentence):
    with pytest.raises(PairError) as caught:
        read_pairs(written(tmp_path, *lines))
    assert sentence in str(caught.value) and "predictions.jsonl" in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(b'{"id": "a", "prediction": "\xff"}\n')
    with pytest.raises(PairError, match="line 1: not UTF-8"):
        read_pairs(path)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"id": "a", "prediction": "x"}\n', "utf-8-sig")
    assert read_pairs(path)[0].id == "a"
