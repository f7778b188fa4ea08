"""What the field writes, read as pairs. The fixtures have the layout of the projects' own files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.formats import FORMATS, describe, read_predictions, without_markup
from eval.pairs import PairError, read_pairs
from eval.rows import EXCEL_CELL
from imaging.case import Case, write_cases

FIXTURES = Path(__file__).parent / "fixtures/formats"
ROOT = Path(__file__).parents[1]


def lines(path: Path, *rows) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def workbook(path: Path, *rows) -> Path:
    from openpyxl import Workbook

    book = Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def texts(read) -> list[tuple]:
    return [(pair.id, pair.prediction, pair.references) for pair in read.pairs]


EXPECTED = {
    "llava_answers.jsonl": (
        "llava",
        [("12", "In the left lobe.", ()), ("11", "是的。", ()), ("99", "extra", ())],
    ),
    "swift.jsonl": (
        "swift",
        [("1", "甲状腺右叶见低回声结节。", ("甲状腺右叶见一低回声结节。",)), ("2", "", ())],
    ),
    "llamafactory.jsonl": (
        "llamafactory",
        [("1", "肝脏大小正常。", ("肝脏大小、形态正常。\n",)), ("2", "", ("脂肪肝",))],
    ),
    "vlmevalkit.tsv": (
        "vlmevalkit",
        [
            ("3", "B. kidney", ("B",)),
            ("1", 'It is "ultrasound".\nSure.', ("US", "ultrasound")),
            ("2", None, ("2",)),  # the service failed: no answer, and not a wrong text
        ],
    ),
    "vlmevalkit.json": (
        "vlmevalkit",
        [("3", "B. kidney", ("B",)), ("1", 'It is "ultrasound".\nSure.', ("US", "ultrasound"))],
    ),
    "lmms.jsonl": ("lmms", [("0", "Yes, there is.", ("Yes",)), ("1", "左侧", ("左侧", "左"))]),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_each_project_writes(name):
    format, expected = EXPECTED[name]
    read = read_predictions(FIXTURES / name)
    assert (read.format, texts(read), read.missing, read.extra) == (format, expected, (), ())
    assert texts(read_predictions(FIXTURES / name, format=format)) == expected


def test_questions_options_and_groups_come_along():
    swift = read_predictions(FIXTURES / "swift.jsonl").pairs
    assert [pair.values["question"] for pair in swift] == ["请描述图像。", "这是什么器官？"]
    assert "logprobs" not in swift[0].values
    choice, opened, _ = read_predictions(FIXTURES / "vlmevalkit.tsv").pairs
    assert choice.values["options"] == {"A": "liver", "B": "kidney"}  # the blank C is no option
    assert (choice.values["answer_type"], choice.group("category")) == ("closed", "organ")
    assert "options" not in opened.values and "answer_type" not in opened.values
    bare, told = read_predictions(FIXTURES / "lmms.jsonl").pairs
    assert bare.values["question"] == "Is there a liver?\nAnswer yes or no."
    assert (told.values["question"], told.values["answer_type"]) == ("结节在哪侧？", "OPEN")
    assert told.group("doc.modality") == "US" and bare.group("doc.modality") == "–"


def test_our_own_predictions_are_read_as_pairs_are(tmp_path):
    rows = [
        {"id": "a", "prediction": "x", "reference": ["x", "y"], "boxes": [], "index": 3, "lang": "zh"},
        {"id": 7, "prediction": "", "answer": "y", "prediction_logits": {"high": float("nan")}},
        {"id": "c", "prediction": None, "error": "out of memory", "answer": "z"},
    ]
    path = lines(tmp_path / "p.jsonl", *rows)
    read, expected = read_predictions(path), read_pairs(path)
    assert read.format == "suite"
    assert texts(read) == [(p.id, p.prediction, p.references) for p in expected]
    assert read.pairs[0].values["language"] == "zh"
    assert read.notes == ("1 prediction of 3 failed or null, counted as missing.",)
    (tmp_path / "list.json").write_text(json.dumps(rows[:1] + [{"id": "b", "prediction": "y"}]))
    assert [pair.id for pair in read_predictions(tmp_path / "list.json", format="suite").pairs] == ["a", "b"]
    # In a list or a table, `index` beside `id` is a column of VLMEvalKit's.
    (tmp_path / "list.json").write_text(json.dumps([{"id": "a", "index": 3, "prediction": "x"}]))
    (tmp_path / "t.csv").write_text("id,index,prediction\na,3,x\n")
    for name in ("list.json", "t.csv"):
        read = read_predictions(tmp_path / name)
        assert (read.format, [pair.id for pair in read.pairs]) == ("vlmevalkit", ["3"])


def test_references_are_joined_by_id_and_not_by_order():
    read = read_predictions(FIXTURES / "llava_answers.jsonl", FIXTURES / "llava_gt.json")
    assert texts(read) == [
        ("11", "是的。", ("是",)),
        ("12", "In the left lobe.", ("left lobe",)),
        ("13", None, ("低回声",)),
    ]
    assert (read.missing, read.extra) == (("13",), ("99",))
    assert [pair.values["answer_type"] for pair in read.pairs] == ["closed", "open", "open"]
    assert any("1 case of 3 without a prediction, counted wrong: 13." in note for note in read.notes)
    assert any("1 prediction without a case in llava_gt.json, left out: 99." in n for n in read.notes)


@given(st.permutations(range(6)), st.permutations(range(6)), st.integers(1, 5))
def test_the_join_does_not_depend_on_the_order_of_rows(tmp_path_factory, predictions, references, kept):
    folder = tmp_path_factory.mktemp("join")
    path = lines(folder / "p.jsonl", *({"question_id": i, "text": f"p{i}"} for i in predictions if i < kept))
    cases = lines(folder / "c.jsonl", *({"id": str(i), "answer": f"r{i}"} for i in references))
    read = read_predictions(path, cases)
    assert texts(read) == [(str(i), f"p{i}" if i < kept else None, (f"r{i}",)) for i in references]
    assert set(read.missing) == {str(i) for i in range(kept, 6)} and read.extra == ()


def test_our_cases_bring_the_truth(tmp_path):
    case = Case(
        "k", (), "问？", "答。", organ="liver", level="high", boxes=({"label": "n", "box": [1, 2, 3, 4]},)
    )
    write_cases(tmp_path / "cases.jsonl", [case, Case("l", (), answer="丙")])
    path = lines(
        tmp_path / "p.jsonl", {"id": "l", "prediction": "乙"}, {"id": "k", "prediction": "甲", "organ": "?"}
    )
    first, second = read_predictions(path, tmp_path / "cases.jsonl").pairs
    assert (first.id, first.prediction, first.references) == ("k", "甲", ("答。",))
    assert (first.values["organ"], first.values["level"], first.values["question"]) == (
        "liver",
        "high",
        "问？",
    )
    assert first.values["boxes"] == [{"label": "n", "box": [1, 2, 3, 4]}]
    assert (second.prediction, second.references) == ("乙", ("丙",))


REFERENCES = {
    "our pairs without a prediction": [{"id": 3, "reference": ["left", "links"], "organ": "breast"}],
    "our predictions": [
        {"id": "3", "prediction": "wrong", "answer": "left", "organ": "breast", "prediction_level": "low"}
        | {"error": "e", "seconds": 9, "fingerprint": {}}
    ],
    "lmms-eval": [{"doc_id": 3, "filtered_resps": ["wrong"], "target": "left", "organ": "breast"}],
    "a table of VLMEvalKit as JSON": [{"index": 3, "answer": "left", "image": "x" * 99, "organ": "breast"}],
    "SLAKE": [{"qid": 3, "img_name": "a", "question": "?", "answer": "left", "location": "breast"}],
    "conversations": [{"id": 3, "organ": "breast", "conversations": [{"from": "gpt", "value": "left"}]}],
}


@pytest.mark.parametrize("rows", REFERENCES.values(), ids=REFERENCES)
def test_many_shapes_serve_as_references(tmp_path, rows):
    path = lines(tmp_path / "a.jsonl", {"question_id": "3", "text": "right", "category": "c"})
    (pair,) = read_predictions(path, lines(tmp_path / "refs.jsonl", *rows)).pairs
    assert (pair.id, pair.prediction, pair.references[0]) == ("3", "right", "left")
    assert (pair.group("organ"), pair.group("category")) == ("breast", "c")
    assert {"image", "error", "seconds", "fingerprint", "prediction_level"}.isdisjoint(pair.values)


def test_a_table_and_a_folder_serve_as_references(tmp_path):
    answers = lines(tmp_path / "a.jsonl", {"question_id": "3", "text": "right"})
    (tmp_path / "refs.tsv").write_text(f"index\tanswer\timage\n3\tleft\t{'A' * 200_000}\n")
    (pair,) = read_predictions(answers, tmp_path / "refs.tsv").pairs
    assert pair.references == ("left",) and "image" not in pair.values
    (tmp_path / "set").mkdir()
    (tmp_path / "set/test.json").write_text(json.dumps(REFERENCES["SLAKE"]))
    assert read_predictions(answers, tmp_path / "set").pairs[0].references == ("left",)


def test_the_references_of_the_second_file_are_used_and_a_difference_is_told(tmp_path):
    path = lines(tmp_path / "p.jsonl", {"id": "a", "prediction": "x", "reference": "old", "answer": "old"})
    read = read_predictions(path, lines(tmp_path / "r.jsonl", {"id": "a", "answer": "new"}))
    assert read.pairs[0].references == ("new",)
    assert any("1 case of 1 with another reference in p.jsonl than in r.jsonl" in note for note in read.notes)
    same = read_predictions(path, lines(tmp_path / "s.jsonl", {"id": "a", "reference": " old\n"}))
    assert not any("another reference" in note for note in same.notes)
    bare = read_predictions(path, lines(tmp_path / "t.jsonl", {"id": "a", "organ": "liver"}))
    assert bare.pairs[0].references == ("old",)  # a file that brings only groups takes nothing away


@pytest.mark.parametrize("name", ["swift.jsonl", "llamafactory.jsonl"])
def test_rows_without_an_id_are_not_joined(tmp_path, name):
    references = lines(tmp_path / "r.jsonl", {"id": "1", "answer": "a"}, {"id": "2", "answer": "b"})
    with pytest.raises(PairError, match="has no ids, and is not joined with r.jsonl by row order"):
        read_predictions(FIXTURES / name, references)
    with pytest.raises(PairError, match="has no ids, so that it cannot serve as references"):
        read_predictions(FIXTURES / "llava_answers.jsonl", FIXTURES / name)


def test_rows_that_were_given_an_id_are_joined(tmp_path):
    rows = [{"id": "b", "predict": "2", "label": "x"}, {"id": "a", "predict": "1", "label": "y"}]
    references = lines(tmp_path / "r.jsonl", {"id": "a", "answer": "A"}, {"id": "b", "answer": "B"})
    read = read_predictions(lines(tmp_path / "p.jsonl", *rows), references)
    assert texts(read) == [("a", "1", ("A",)), ("b", "2", ("B",))]
    rows[1]["id"] = None  # one row without: line numbers, for all
    assert [p.id for p in read_predictions(lines(tmp_path / "p.jsonl", *rows)).pairs] == ["1", "2"]


HEADER = ["index", "question", "A", "B", "prediction", "answer"]


def test_a_workbook(tmp_path):
    path = workbook(
        tmp_path / "m.xlsx",
        HEADER,
        [4, "Which?", "liver", "kidney", "肝_x000D_\n脏", "A"],
        [5, "How many?", None, None, None, 2],
        [6, "Sure?", None, None, "Failed to obtain answer via API.", True],
        [7.0, "Long?", None, None, "x" * EXCEL_CELL, "['a', 3]"],
        [],
        [8, "Short?", None, None, "x"],
        [9, "Blank?"],
    )
    read = read_predictions(path)
    assert texts(read) == [
        ("4", "肝\r\n脏", ("A",)),
        ("5", "", ("2",)),  # a blank cell is an answer that says nothing
        ("6", None, ("True",)),
        ("7", "x" * EXCEL_CELL, ("['a', 3]",)),
        ("8", "x", ()),
        ("9", "", ()),
    ]
    assert read.pairs[0].values["options"] == {"A": "liver", "B": "kidney"}
    assert read.notes == (
        "1 rows of 6 with a cell of 32,767 characters, the most that Excel keeps; the text was probably cut: "
        "row 5. VLMEvalKit writes tsv with PRED_FORMAT=tsv.",
        "1 prediction of 6 failed or null, counted as missing.",
    )
    workbook(tmp_path / "short.xlsx", HEADER, [4, "Which?", "", "", "x" * (EXCEL_CELL - 1), "A"])
    assert read_predictions(tmp_path / "short.xlsx").notes == ()
    (tmp_path / "named.txt").write_bytes(path.read_bytes())  # told apart by content
    assert texts(read_predictions(tmp_path / "named.txt")) == texts(read)


def test_a_workbook_whose_size_is_stated_wrong_is_read_whole(tmp_path):
    import zipfile

    path = workbook(tmp_path / "m.xlsx", HEADER, *([i, "?", "", "", "a", "b"] for i in range(3)))
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "n.xlsx", "w") as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith("sheet1.xml"):
                assert b'<dimension ref="A1:F4"' in content
                content = content.replace(b'<dimension ref="A1:F4"', b'<dimension ref="A1:F2"')
            new.writestr(item, content)
    assert len(read_predictions(tmp_path / "n.xlsx").pairs) == 3


def test_lists_are_read_as_data_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        ["open('ran', 'w')"],
        ["[open('ran', 'w').name]"],
        ["['a', 'b']"],
        ["[1, 2]"],
        ["[]"],
    ]
    path = tmp_path / "m.tsv"
    path.write_text("index\tanswer\tprediction\n" + "".join(f"{i}\t{r[0]}\tp\n" for i, r in enumerate(rows)))
    found = [pair.references for pair in read_predictions(path).pairs]
    assert found == [(rows[0][0],), (rows[1][0],), ("a", "b"), ("[1, 2]",), ("[]",)]
    assert not (tmp_path / "ran").exists()


CLEAN = {
    "nothing": ("低回声 < 5 mm <b>", "低回声 < 5 mm <b>"),
    "thinking": ("<think>是\n否</think>\n\n是。", "是。"),
    "thinking, opened in the prompt": ("hm </think> yes", "yes"),
    "thinking, never ended": ("<think> hm, yes", ""),
    "thinking in thinking": ("a<think>b<think>c</think>d</think>e", "ae"),
    "thinking twice": ("<THINK>b</THINK>a<thinking>c</thinking>d", "ad"),
    "special tokens": ("是。<|im_end|><|endoftext|></s>", "是。"),
    "special tokens of other families": ("<s>[INST] yes [/INST]<｜end▁of▁sentence｜><pad>", "yes"),
    "byte order marks": ("\ufeff是\ufeff。", "是。"),
    "a comparison": ("a <| b |> c", "a <| b |> c"),
}


@pytest.mark.parametrize("text, expected", CLEAN.values(), ids=CLEAN)
def test_markup_is_taken_out(text, expected):
    assert without_markup(text) == expected


@given(st.lists(st.sampled_from(["<think>", "</think>", "<|im_end|>", "a", "是", " ", "<", "\ufeff"])))
def test_what_is_clean_stays_as_it_is(parts):
    clean = without_markup("".join(parts))
    assert "think>" not in clean and "<|im_end|>" not in clean and "\ufeff" not in clean
    assert without_markup(clean) == clean


def test_cleaning_is_asked_for_and_told(tmp_path):
    rows = [
        {"id": "a", "prediction": "<think>x</think>是", "answer": "是<|im_end|>"},
        {"id": "b", "prediction": "<think>x", "answer": "否"},
        {"id": "c", "prediction": None, "answer": "否"},
        {"id": "d", "prediction": "否", "answer": "否"},
    ]
    path = lines(tmp_path / "p.jsonl", *rows)
    raw, clean = read_predictions(path), read_predictions(path, clean=True)
    assert [pair.prediction for pair in raw.pairs] == [row["prediction"] for row in rows]
    assert [pair.prediction for pair in clean.pairs] == ["是", "", None, "否"]
    assert clean.pairs[0].references == ("是",)
    assert clean.pairs[0].values["prediction_raw"] == rows[0]["prediction"]
    assert "prediction_raw" not in clean.pairs[3].values
    assert clean.notes[-1] == (
        "Markup taken out of 2 predictions of 4 and out of the references of 1 case; "
        "1 prediction empty without it."
    )


def test_a_text_of_many_open_thoughts_takes_no_longer_than_it_is():
    assert without_markup("<think>" * 150_000) == ""  # 1 MB; a regular expression would need hours


def test_a_large_answer_and_rare_characters_stay_whole(tmp_path):
    text = "甲" * 500_000 + "😀𠀀\u200b\x00１２" + "b" * 500_000
    path = lines(tmp_path / "p.jsonl", {"question_id": 1, "text": text})
    assert read_predictions(path).pairs[0].prediction == text
    (tmp_path / "p.tsv").write_text(f"index\tprediction\n1\t{'x' * 1_000_000}\n")
    assert len(read_predictions(tmp_path / "p.tsv").pairs[0].prediction) == 1_000_000


LLAVA = b'{"question_id": 1, "text": "a"}\n'
BAD = {
    "empty": (b"", "p.jsonl is empty"),
    "blank": (b"\n \n", "p.jsonl is empty"),
    "no JSON and no table": (b"hello\nworld\n", "starts with 'h'. Expected JSON"),
    "a broken line": (LLAVA + b'{"question_id": 2,\n', "p.jsonl line 2: not a JSON object"),
    "a line that is no object": (LLAVA + b"[1]\n", "line 2: expected the keys of LLaVA answers"),
    "a wrong key": (
        LLAVA + b'{"question_id": 2, "txt": "a"}\n',
        "line 2: expected the keys of LLaVA answers",
    ),
    "a wrong key, named": (LLAVA + b'{"question_id": 2, "txt": "a"}\n', "found question_id, txt"),
    "unknown keys": (b'{"key": 1}\n', "line 1: no predictions in a known format; found key."),
    "an id twice": (LLAVA + b"\n" + LLAVA, "line 3: a second prediction for id '1' (first in line 1)"),
    "the same id as a fraction": (LLAVA + b'{"question_id": 1.0, "text": ""}', "line 2: a second prediction"),
    "the same id as text": (LLAVA + b'{"question_id": "1", "text": ""}', "line 2: a second prediction"),
    "a blank id": (b'{"question_id": "", "text": "a"}', "line 1: expected a key id with a text, found ''"),
    "an id that is none": (b'{"question_id": true, "text": "a"}', "line 1: expected a key id"),
    "an answer that is no text": (b'{"question_id": 1, "text": ["a"]}', "prediction ['a'] is not a text"),
    "ranked options": (
        b'{"doc_id": 1, "target": "1", "filtered_resps": [["-3.2", "False"], ["-0.1", "True"]]}',
        "line 1: filtered_resps holds log-likelihoods",
    ),
    "two filters of lmms-eval": (
        b'{"doc_id": 1, "target": "a", "filtered_resps": ["a"]}\n' * 2,
        "one filter and run",
    ),
    "a conversation that is none": (b'{"response": "a", "messages": [3]}', "line 1: the conversation is not"),
    "UTF-16": ("{}".encode("utf-16"), "p.jsonl is UTF-16 text"),
    "not UTF-8": (LLAVA + '{"question_id": 2, "text": "甲"}'.encode("gb18030"), "line 2: not UTF-8"),
    "NUL bytes": (LLAVA + b"\0\0\0", "line 2: NUL bytes"),
    "a zip that is no workbook": (b"PK\x03\x04 and no more", "no Excel workbook"),
    "an old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel file"),
    "a pickle": (b"\x80\x04\x95", "a pickle, which could run code"),
    "a table without rows": (b"index\tprediction\n", "a header and no rows"),
    "a table with a short row": (
        b"index\tanswer\tprediction\n1\ta\tb\n2\ta",
        "row 3: 2 cells under a header of 3",
    ),
    "a table with an open quote": (b'index\tprediction\n1\t"a\n', "line 2: not a table"),
    "a table that is not UTF-8": ("index\tprediction\n1\t甲\n".encode("gb18030"), "not UTF-8"),
    "a number too long": (b'{"question_id": ' + b"1" * 5000 + b', "text": ""}', "cannot be read as JSON"),
}


@pytest.mark.parametrize("content, sentence", BAD.values(), ids=BAD)
@pytest.mark.parametrize("reader", [read_predictions, describe])
def test_a_bad_file_is_refused_in_one_sentence(tmp_path, content, sentence, reader):
    (tmp_path / "p.jsonl").write_bytes(content)
    if reader is describe and "known format" in sentence:
        sentence = "found key"
    with pytest.raises(PairError) as error:
        reader(tmp_path / "p.jsonl")
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_other_bad_input(tmp_path):
    path = lines(tmp_path / "p.jsonl", {"question_id": 1, "text": "a"})
    for reader in (read_predictions, describe):
        with pytest.raises(PairError, match="is a folder. Name a file in it."):
            reader(tmp_path)
        with pytest.raises(FileNotFoundError):
            reader(tmp_path / "none.jsonl")
    with pytest.raises(PairError, match="format 'lava' is not one of auto, suite"):
        read_predictions(path, format="lava")
    with pytest.raises(PairError, match="line 1: expected the keys of LLaMA-Factory predictions"):
        read_predictions(path, format="llamafactory")
    with pytest.raises(PairError, match="p.jsonl and r.jsonl share no id: 1 in the one, a, b in the other"):
        read_predictions(path, lines(tmp_path / "r.jsonl", {"id": "a"}, {"id": "b"}))
    with pytest.raises(PairError, match="r.jsonl line 2: a second row for id 'a'"):
        read_predictions(path, lines(tmp_path / "r.jsonl", {"id": "a"}, {"id": "a"}))
    with pytest.raises(PairError, match="r.jsonl line 1: expected a reference with the key id"):
        read_predictions(path, lines(tmp_path / "r.jsonl", {"a": 1}))
    with pytest.raises(PairError, match=r"p.jsonl \(LLaVA answers\) holds no references"):
        read_predictions(path, path)
    with pytest.raises(PairError, match="m.xlsx holds no rows"):
        read_predictions(workbook(tmp_path / "m.xlsx", HEADER))


def test_a_dry_run_says_what_was_recognised(tmp_path):
    assert describe(FIXTURES / "vlmevalkit.tsv").splitlines()[:4] == [
        "vlmevalkit.tsv: VLMEvalKit predictions, 3 rows",
        "the first as it would be scored:",
        "  id: '3'",
        "  prediction: 'B. kidney'",
    ]
    assert "note: The rows have no id; their line numbers stand in for it." in describe(
        FIXTURES / "swift.jsonl"
    )
    assert "note: 3 rows of 3 without a reference text" in describe(FIXTURES / "llava_answers.jsonl")
    first, *_ = describe(FIXTURES / "llava_gt.json").splitlines()
    assert first.endswith("3 cases with references and no predictions")
    long = describe(lines(tmp_path / "p.jsonl", {"id": "a", "prediction": "x" * 1_000_000}))
    assert len(long) < 1000


def test_every_format_has_its_fixture():
    assert {format for format, _ in EXPECTED.values()} | {"suite"} == set(FORMATS)


def test_reading_needs_none_of_the_heavy_packages():
    code = (
        "import sys; import eval.formats; "
        "print([m for m in ('torch', 'nltk', 'gradio', 'openpyxl', 'PIL', 'scipy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
