"""Test sets of the field, in small files that have the layout of the real ones."""

import json
from pathlib import Path

import pytest

from eval.pairs import PairError
from eval.rows import read_rows
from eval.testsets import last_exchange, read_test_set, turns
from imaging.case import Case, read_cases, write_cases

FIXTURES = Path(__file__).parent / "fixtures/formats"

SLAKE = [
    {
        "img_id": 102,
        "img_name": "xmlab102/source.jpg",
        "question": "What modality is used to take this image?",
        "answer": "CT",
        "q_lang": "en",
        "location": "Lung",
        "modality": "CT",
        "answer_type": "OPEN",
        "base_type": "vqa",
        "content_type": "Modality",
        "triple": ["vhead", "_", "_"],
        "qid": 11934,
    },
    {
        "img_id": 103,
        "img_name": "imgs/xmlab103/source.jpg",
        "question": "图像中有肝脏吗？",
        "answer": "没有",
        "q_lang": "zh",
        "location": "Brain_Tissue",
        "modality": "MRI",
        "answer_type": "CLOSED ",
        "qid": 11935,
    },
    {
        "img_id": 103,
        "img_name": "xmlab103/source.jpg",
        "question": "How many lungs?",
        "answer": 2,
        "qid": 11936,
    },
]
R2GEN = {
    "train": [{"id": "CXR1", "report": "Clear.", "image_path": ["CXR1/0.png"], "split": "train"}],
    "val": [],
    "test": [
        {
            "id": "CXR2_IM-0001",
            "report": "The heart is normal in size.",
            "image_path": ["CXR2_IM-0001/0.png", "CXR2_IM-0001/1.png"],
            "split": "test",
        },
        {
            "id": "CXR3",
            "report": "右肺见斑片影。",
            "image_path": ["CXR3/0.png"],
            "split": "test",
            "subject_id": 77,
        },
    ],
}
OPENI = {
    "annotations": [
        {"image_id": "162_1", "caption": "心脏大小正常，肺部清晰。"},
        {"image_id": "162_2", "caption": "The lungs are clear."},
    ]
}


def put(path: Path, document, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, ensure_ascii=False, **options), encoding="utf-8")
    return path


def lines(path: Path, *rows) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("indent", [None, 4])
def test_slake_in_both_languages_with_open_and_closed_questions(tmp_path, indent):
    first, second, third = read_test_set(put(tmp_path / "test.json", SLAKE, indent=indent))
    assert first == Case(
        id="11934",
        images=(tmp_path / "imgs/xmlab102/source.jpg",),
        question="What modality is used to take this image?",
        answer="CT",
        organ="Lung",  # the set's own word
        language="en",
        task="vqa",
        answer_type="open",
        extra={
            "img_id": 102,
            "modality": "CT",
            "base_type": "vqa",
            "content_type": "Modality",
            "triple": ["vhead", "_", "_"],
        },
    )
    assert (second.language, second.answer_type, second.organ) == ("zh", "closed", "Brain_Tissue")
    assert second.images == (tmp_path / "imgs/xmlab103/source.jpg",)  # "imgs/" is not put in twice
    assert (third.answer, third.language, third.answer_type, third.organ) == ("2", "en", None, None)


def test_slake_in_a_folder_by_split(tmp_path):
    put(tmp_path / "test.json", SLAKE)
    put(tmp_path / "validation.json", SLAKE[:1])
    assert [case.id for case in read_test_set(tmp_path)] == ["11934", "11935", "11936"]
    assert [case.id for case in read_test_set(tmp_path, split="val")] == ["11934"]
    assert [case.id for case in read_test_set(tmp_path / "validation.json", split="val")] == ["11934"]
    with pytest.raises(PairError, match="test.json does not say which split"):
        read_test_set(tmp_path / "test.json", split="train")
    with pytest.raises(PairError, match="without train.json, annotation.json, cases.jsonl"):
        read_test_set(tmp_path, split="train")


def test_rows_that_name_their_split(tmp_path):
    rows = [{**SLAKE[0], "split": "train"}, {**SLAKE[1], "split": "validate"}]
    path = put(tmp_path / "all.json", rows)
    assert [case.id for case in read_test_set(path, split="val")] == ["11935"]
    with pytest.raises(PairError, match="all.json has no rows of split test; found train, validate"):
        read_test_set(path)


@pytest.mark.parametrize("indent", [None, 2])
def test_r2gen_annotation(tmp_path, indent):
    path = put(tmp_path / "annotation.json", R2GEN, indent=indent)
    en, zh = read_test_set(path)
    assert en == Case(
        id="CXR2_IM-0001",
        images=(
            tmp_path / "images/CXR2_IM-0001/0.png",
            tmp_path / "images/CXR2_IM-0001/1.png",
        ),
        answer="The heart is normal in size.",
        language="en",
        task="report",
        answer_type="open",
        extra={"split": "test"},
    )
    assert (zh.language, zh.patient) == ("zh", "77")
    assert [case.id for case in read_test_set(tmp_path, split="train")] == ["CXR1"]
    bare = {"train": [{"id": 1, "report": "Clear.", "image_path": ["1.png"]}], "test": []}
    assert len(read_test_set(put(tmp_path / "bare.json", bare), split="train")) == 1
    with pytest.raises(PairError, match="annotation.json holds no cases"):
        read_test_set(path, split="val")
    with pytest.raises(PairError, match="has no split test; found train"):
        read_test_set(put(tmp_path / "part.json", {"train": R2GEN["train"]}))


def test_openi_of_xrayglm(tmp_path):
    zh, en = read_test_set(put(tmp_path / "openi-zh.json", OPENI, indent=4))
    assert zh == Case(
        id="162_1",
        images=(tmp_path / "162_1.png",),
        answer="心脏大小正常，肺部清晰。",
        language="zh",
        task="report",
        answer_type="open",
        patient="162",
    )
    assert (en.language, en.patient) == ("en", "162")
    elsewhere = read_test_set(tmp_path / "openi-zh.json", images=tmp_path / "Xray")
    assert elsewhere[0].images == (tmp_path / "Xray/162_1.png",)
    rows = [{"img": "./data/Xray/162_1.png", "prompt": "能诊断出什么？", "label": "肺部清晰。"}]
    (case,) = read_test_set(put(tmp_path / "openi-zh-prompt.json", rows), images=tmp_path)
    assert (case.id, case.question, case.answer) == ("162_1", "能诊断出什么？", "肺部清晰。")
    assert case.images == (tmp_path / "data/Xray/162_1.png",)


def test_conversations_give_the_last_exchange(tmp_path):
    report, diagnosis = read_test_set(FIXTURES / "echovlm_thyroid.json")
    assert (report.question, report.answer) == ("请书写超声所见。", "甲状腺右叶见低回声结节。")
    assert report.organ == "thyroid"  # from the file's name
    assert report.images == (FIXTURES.absolute() / "a/1.png", FIXTURES.absolute() / "a/2.png")
    assert (diagnosis.question, diagnosis.answer) == ("诊断？", "未见异常。")
    assert len(diagnosis.extra["conversations"]) == 4  # what was said before is part of the question
    closed, opened, _ = read_test_set(FIXTURES / "llava_gt.json")
    assert (closed.id, closed.question, closed.answer) == ("11", "图像中有肝脏吗？", "是")
    assert (closed.answer_type, closed.language, closed.organ) == ("closed", "zh", None)
    assert (opened.answer_type, opened.answer) == ("open", "left lobe")  # under `conversatons`
    assert opened.extra == {}
    messages = [{"role": "user", "content": "<image>Q?"}, {"role": "assistant", "content": "A."}]
    path = lines(tmp_path / "x.jsonl", {"id": 1, "messages": messages, "images": [{"path": "1.png"}]})
    (case,) = read_test_set(path)
    assert (case.id, case.question, case.answer, case.images) == ("1", "Q?", "A.", (tmp_path / "1.png",))
    row = {"id": "d", "image": "thyriod/1.png", "description": "回声均匀。"}
    (case,) = read_test_set(put(tmp_path / "thyriod.json", [row]))
    assert (case.question, case.answer, case.organ) == (None, "回声均匀。", "thyroid")
    assert case.images == (tmp_path / "thyriod/1.png",)


@pytest.mark.parametrize(
    "word, read",
    [("OPEN", "open"), ("other", "open"), ("number", "open"), ("yes/no", "closed"), (None, None)],
)
def test_the_words_for_open_and_closed(tmp_path, word, read):
    row = {"id": 1, "conversations": [{"from": "gpt", "value": "A"}], "answer_type": word}
    assert read_test_set(put(tmp_path / "gt.json", [row]))[0].answer_type == read


# Keys that other shapes are known by, in a row of ours.
EXTRA = {"description": "x", "annotations": [{"image_id": "1", "caption": "x"}], "test": [1]}


def test_our_own_cases_are_read_as_the_cases_module_reads_them(tmp_path):
    write_cases(tmp_path / "cases.jsonl", [Case("1", (tmp_path / "a.png",), "q", "a", extra=EXTRA)])
    assert read_test_set(tmp_path / "cases.jsonl") == read_cases(tmp_path / "cases.jsonl")
    assert read_test_set(tmp_path) == read_cases(tmp_path / "cases.jsonl")


def test_a_set_survives_being_written_as_cases(tmp_path):
    cases = read_test_set(put(tmp_path / "test.json", SLAKE))
    write_cases(tmp_path / "cases.jsonl", cases)
    assert read_test_set(tmp_path / "cases.jsonl") == cases


BAD = {
    "empty": (b"", "x.json is empty"),
    "blank": (b" \n\n", "x.json is empty"),
    "a list of nothing": (b"[]", "holds no rows"),
    "no JSON": (b"hello", "starts with 'h'"),
    "a list cut off": (b'[{"qid": 1,\n "img_', "x.json line 2: not JSON"),
    "an object cut off": (b'{"train": [\n', "x.json line 2: not JSON"),
    "a number": (b"[3]", "no test set that is known"),
    "unknown keys": (b'[{"a": 1, "b": 2}]', "found the keys a, b"),
    "NUL": (b'[\n{"a": "\0"}]', "line 2: NUL bytes"),
    "UTF-16": ('[{"a": 1}]'.encode("utf-16"), "x.json is UTF-16 text"),
    "not UTF-8": ('[\n\n{"a": "甲"}]'.encode("gb18030"), "x.json line 3: not UTF-8"),
    "zip": (b"PK\x03\x04....", "an archive"),
    "pickle": (b"\x80\x04....", "a pickle"),
    "deep": (b"[" * 100_000, "cannot be read as JSON"),
    "long number": (b"[" + b"1" * 5000 + b"]", "cannot be read as JSON"),
    "annotations of nothing": (b'{"annotations": []}', "holds no cases"),
    "our cases in a list": (b'[{"id": "1", "images": []}]', "one case a line"),
}


@pytest.mark.parametrize("content, sentence", BAD.values(), ids=BAD)
def test_a_file_that_is_no_test_set_is_refused_in_one_sentence(tmp_path, content, sentence):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(PairError) as error:
        read_test_set(tmp_path / "x.json")
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)


BAD_ROWS = {
    "no id": ({"qid": None}, "test.json row 2: expected a key qid"),
    "an id that is no id": ({"qid": True}, "row 2: expected a key qid with a text or a number, found True"),
    "an id again": ({"qid": 11934}, "row 2: id '11934' was already used in row 1"),
    "no answer": ({"answer": None}, "row 2: answer None is not a text"),
    "an image that is no path": ({"img_name": ["a"]}, "row 2: img_name ['a'] is not a text"),
    "an unknown answer type": ({"answer_type": "maybe"}, "row 2: answer_type 'maybe' is not one of open"),
    "an unknown language": ({"q_lang": "fr"}, "row 2: language 'fr' is not one of zh, en"),
}


@pytest.mark.parametrize("change, sentence", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_named(tmp_path, change, sentence):
    with pytest.raises(PairError) as error:
        read_test_set(put(tmp_path / "test.json", [SLAKE[0], {**SLAKE[1], **change}]))
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    "row, sentence",
    [
        ({"id": 1, "conversations": []}, "holds no answer"),
        ({"id": 1, "conversations": ["hi"]}, "not a list of turns"),
        ({"id": 1, "conversations": [{"from": "human", "value": "q"}]}, "holds no answer"),
        ({"id": 1, "conversations": [{"from": "gpt", "value": 3}]}, "a turn of the conversation says 3"),
        ({"id": None, "conversations": [{"from": "gpt", "value": "a"}]}, "expected a key id"),
        ({"id": 1, "conversations": [{"from": "gpt", "value": "a"}], "image": [3]}, "not a list of paths"),
    ],
)
def test_a_bad_conversation_is_named(tmp_path, row, sentence):
    with pytest.raises(PairError, match=f"gt.json row 1: .*{sentence}"):
        read_test_set(put(tmp_path / "gt.json", [row]))


def test_a_row_of_another_shape_and_a_split_that_is_none(tmp_path):
    with pytest.raises(PairError, match="row 2: expected the keys of SLAKE .* found a"):
        read_test_set(put(tmp_path / "test.json", [SLAKE[0], {"a": 1}]))
    with pytest.raises(PairError, match="split 'tset' is not one of train, val, test"):
        read_test_set(tmp_path / "test.json", split="tset")
    with pytest.raises(FileNotFoundError):
        read_test_set(tmp_path / "none.json")
    with pytest.raises(PairError, match="cases.jsonl line 1: images is missing"):
        read_test_set(lines(tmp_path / "cases.jsonl", {"id": "1", "images": None}))


def test_rows_know_where_they_stand(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a": 2}\n')
    assert read_rows(tmp_path / "a.jsonl") == [("line 1", {"a": 1}), ("line 3", {"a": 2})]
    assert read_rows(put(tmp_path / "a.json", [1, 2], indent=1)) == [("row 1", 1), ("row 2", 2)]
    assert read_rows(put(tmp_path / "b.json", {"a": {}}, indent=1)) == [("row 1", {"a": {}})]
    (tmp_path / "c.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(PairError, match="c.jsonl line 2: not a JSON object"):
        read_rows(tmp_path / "c.jsonl")


def test_the_last_exchange_of_a_conversation():
    row = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"text": "q"}]}]}
    assert turns(row) == [("system", "s"), ("user", "q")]
    assert last_exchange(turns(row)) == ("q", None)
    assert last_exchange([("assistant", "a")]) == (None, "a")
    assert last_exchange([("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4")]) == ("3", "4")
