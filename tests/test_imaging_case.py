import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging.case import Case, CaseError, read_cases, write_cases

FULL = {
    "id": "case-1",
    "images": ["images/a.png", "images/b.png"],
    "question": "这个病灶多大？",
    "answer": "约 12 mm × 8 mm。",
    "organ": "thyroid",
    "language": "zh",
    "task": "vqa",
    "answer_type": "open",
    "boxes": [{"label": "nodule", "box": [1, 2, 30.5, 40], "sure": True}],
    "level": "medium",
    "plane": ["transverse"],
    "score": 7.5,
    "deductions": [{"item": "depth", "points": 1}],
    "valid_images": [1],
    "patient": "p-1",
    "hospital": {"name": "kept", "rank": None},
    "prediction": None,
}


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_case_comes_back_as_it_was_written(tmp_path):
    source = written(tmp_path / "cases.jsonl", FULL, {"id": "2", "images": []})
    full, bare = read_cases(source)
    assert full.images == (tmp_path / "images/a.png", tmp_path / "images/b.png")
    assert (full.level, full.score, full.valid_images, full.plane) == ("medium", 7.5, (1,), ("transverse",))
    assert full.extra == {"hospital": {"name": "kept", "rank": None}, "prediction": None}
    assert (bare.answer, bare.boxes, bare.extra) == (None, (), {})
    write_cases(tmp_path / "again.jsonl", [full, bare])
    assert lines(tmp_path / "again.jsonl") == [FULL, {"id": "2", "images": []}]
    assert read_cases(tmp_path / "again.jsonl") == [full, bare]
    assert "约" in (tmp_path / "again.jsonl").read_text(encoding="utf-8")  # readable, not \\u7ea6


def test_image_paths_are_relative_to_the_file_wherever_it_lies(tmp_path, monkeypatch):
    (tmp_path / "deep/er").mkdir(parents=True)
    (case,) = read_cases(written(tmp_path / "cases.jsonl", FULL))
    write_cases(tmp_path / "deep/er/cases.jsonl", [case])
    assert lines(tmp_path / "deep/er/cases.jsonl")[0]["images"] == [
        "../../images/a.png",
        "../../images/b.png",
    ]
    monkeypatch.chdir(tmp_path / "deep")
    for path in ("er/cases.jsonl", "../cases.jsonl"):
        assert read_cases(path)[0].images == case.images
    write_cases("er/cases.jsonl", [Case(id="1", images=("images/x.png",))])
    assert read_cases("er/cases.jsonl")[0].images == (tmp_path / "deep/er/images/x.png",)


def test_blank_lines_and_a_byte_order_mark_do_no_harm(tmp_path):
    text = "\ufeff\n" + json.dumps(FULL) + "\n\n"
    (tmp_path / "x.jsonl").write_text(text, encoding="utf-8")
    assert [case.id for case in read_cases(tmp_path / "x.jsonl")] == ["case-1"]


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"level": "hi"}, "level 'hi' is not one of high, medium, low"),
        ({"language": "fr"}, "language 'fr' is not one of zh, en"),
        ({"answer_type": "yes"}, "answer_type 'yes' is not one of open, closed"),
        ({"id": None}, "id is missing"),
        ({"id": 7}, "id 7 is not a text"),
        ({"images": None}, "images is missing"),
        ({"images": "a.png"}, "images 'a.png' is not a list"),
        ({"images": [1]}, "images must be a list of paths"),
        ({"answer": 3}, "answer 3 is not a text"),
        ({"plane": "axial"}, "plane 'axial' is not a list"),
        ({"plane": [1]}, "plane [1] is not a list of names"),
        ({"score": "7"}, "score '7' is not a number"),
        ({"score": True}, "score True is not a number"),
        ({"valid_images": [2]}, "valid_images 2 is not the index of one of 2 images"),
        ({"valid_images": [-1]}, "valid_images -1 is not the index of one of 2 images"),
        ({"boxes": [[1, 2, 3, 4]]}, 'boxes [1, 2, 3, 4] is not {"label": name, "box": [x1, y1, x2, y2]}'),
        ({"boxes": [{"label": "a", "box": [1, 2, 3]}]}, "boxes: box [1, 2, 3] is not four numbers"),
        (
            {"boxes": [{"label": "a", "box": [3, 2, 1, 4]}]},
            "boxes: box [3, 2, 1, 4] is not x1, y1, x2, y2 with x1 < x2 and y1 < y2",
        ),
        (
            {"deductions": [{"points": 1}]},
            'deductions {\'points\': 1} is not {"item": name, "points": number}',
        ),
        ({"deductions": [{"item": "depth"}]}, "deductions: points None is not a number"),
    ],
)
def test_a_bad_case_is_named_by_file_line_and_field(tmp_path, change, sentence):
    path = written(tmp_path / "cases.jsonl", {"id": "first", "images": []}, FULL | change)
    with pytest.raises(CaseError) as caught:
        read_cases(path)
    assert str(caught.value) == f"cases.jsonl line 2: {sentence}"


@pytest.mark.parametrize("text, sentence", [("{", "not JSON"), ("[]", "a case must be an object in braces")])
def test_a_line_that_is_not_an_object_is_named(tmp_path, text, sentence):
    (tmp_path / "x.jsonl").write_text(f"\n{text}\n", encoding="utf-8")
    with pytest.raises(CaseError, match=f"x.jsonl line 2: {sentence}"):
        read_cases(tmp_path / "x.jsonl")


def test_an_id_may_be_used_once(tmp_path):
    with pytest.raises(CaseError, match="line 2: id 'case-1' was already used in line 1"):
        read_cases(written(tmp_path / "x.jsonl", FULL, FULL))


def test_a_case_made_in_code_is_checked_too():
    with pytest.raises(CaseError, match="level 'hi'"):
        Case(id="1", images=(), level="hi")


def test_the_old_file_stays_whole_until_the_new_one_is_complete(tmp_path):
    path = written(tmp_path / "cases.jsonl", FULL)

    def broken():
        yield Case(id="1", images=())
        assert lines(path) == [FULL]
        raise RuntimeError("the power fails")

    with pytest.raises(RuntimeError):
        write_cases(path, broken())
    assert lines(path) == [FULL]
    assert [entry.name for entry in tmp_path.iterdir()] == ["cases.jsonl"]


NAMES = st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | NAMES,
    lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner),
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=8).map("x_".__add__), VALUES, max_size=4), st.text())
def test_unknown_keys_are_never_dropped(tmp_path_factory, extra, answer):
    path = tmp_path_factory.mktemp("cases") / "x.jsonl"
    write_cases(path, [Case(id="1", images=(), answer=answer, extra=extra)])
    (case,) = read_cases(path)
    assert (case.extra, case.answer) == (extra, answer)
