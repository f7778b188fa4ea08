"""From pairs to a result: groups, averages, intervals, warnings, and what the command line makes of it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eval import Options, Pair, PairError, score, score_pairs
from eval.__main__ import DONE, INCOMPLETE, REFUSED, main
from eval.intervals import wilson
from eval.result import MACRO, MICRO

REPORT = "甲状腺右叶见一低回声结节，大小约11.7cm×5.9cm，边界不清，形态不规则。"
OTHER = "甲状腺左叶见一高回声结节，大小约3mm，边界清晰，形态规则，后方回声增强。"


def pair(identity, prediction, reference, **values) -> Pair:
    references = (reference,) if isinstance(reference, str) else tuple(reference)
    return Pair(str(identity), prediction, references, values)


def test_a_perfect_prediction_scores_100_and_an_empty_one_0_everywhere():
    """Where 100 cannot be reached (METEOR's chunk, smoothed orders) the text is long enough not to matter."""
    perfect = score([REPORT], [REPORT], profile="all", resamples=0)
    empty = score([""], [REPORT], profile="all", resamples=0)
    for section in perfect.sections:
        for column in section.columns:
            value, none = (r.value(section.name, column.name) for r in (perfect, empty))
            if column.lower_is_better:
                assert value in (0, None), (section.name, column.name)
            elif (section.name, column.name) == ("llava", "EM"):
                assert value == 85  # by its definition: 17 different words among 20
            elif (section.name, column.name) == ("sacrebleu", "BLEU 13a"):
                assert value == 0  # a Chinese sentence is one token for it
                assert any("13a" in note for note in section.notes)
            elif value is not None:
                assert value == pytest.approx(100, abs=0.01), (section.name, column.name)
                assert none in (0, None), (section.name, column.name)


def test_a_flipped_negation_keeps_its_bleu_and_loses_its_agreement():
    result = score(["肝脏回声均匀，可见占位。"], ["肝脏回声均匀，未见占位。"], resamples=0)
    assert result.value("echovlm", "BLEU-1") == pytest.approx(600 / 7)
    assert result.value("clinical", "findings F1") == 0


def test_averages_come_from_unrounded_cells_and_the_mean_of_groups_is_unweighted():
    pairs = [pair(i, "结节", "结节", organ="liver") for i in range(3)]
    pairs += [pair("k", "囊肿", "结节", organ="kidney")]
    result = score_pairs(pairs, Options(group_by="organ", resamples=0))
    groups = result.sections[0].groups
    assert [group.name for group in groups] == ["kidney", "liver", MACRO, MICRO]
    assert result.value("answers", "EM", MACRO) == 50
    assert result.value("answers", "EM") == 75
    assert [group.n for group in groups] == [1, 3, 4, 4]


def test_intervals_are_wilsons_for_shares_and_the_bootstraps_for_means():
    rng = np.random.default_rng(0)
    pairs = [
        pair(i, "结节 边界 清晰" if hit else "边界", "结节 边界 清晰")
        for i, hit in enumerate(rng.random(200) < 0.7)
    ]
    result = score_pairs(pairs)
    em, f1 = result.cell("answers", "EM"), result.cell("answers", "F1")
    low, high = wilson(round(em.value * 2), 200)
    assert (em.low, em.high) == pytest.approx((100 * low, 100 * high))
    values = np.where([p.prediction != "边界" for p in pairs], 100, 50)
    error = 1.96 * values.std() / np.sqrt(200)
    assert (f1.low, f1.high) == pytest.approx((f1.value - error, f1.value + error), abs=0.6)
    assert score_pairs(pairs).cell("answers", "F1") == f1
    assert score_pairs(pairs, Options(seed=7)).cell("answers", "F1").low != f1.low


def test_cases_of_one_patient_count_as_one_for_the_interval():
    """Ten cases each of twenty patients, all right or all wrong: the interval must be that of twenty."""
    pairs = [pair(i, "是" if i // 10 % 2 else "否", "是", patient=f"p{i // 10}") for i in range(200)]
    alone = score_pairs(pairs).cell("answers", "F1")
    together = score_pairs(pairs, Options(cluster="patient"))
    for column in ("F1", "EM"):
        cell = together.cell("answers", column)
        assert cell.value == alone.value == 50
        assert cell.high - cell.low > 2.5 * (alone.high - alone.low)


@pytest.mark.parametrize(("missing", "value", "n"), [("wrong", 50, 4), ("skip", 200 / 3, 3)])
def test_a_missing_prediction_is_never_scored_in_silence(missing, value, n):
    pairs = [pair(0, "结节", "结节"), pair(1, "结节", "结节"), pair(2, "囊肿", "结节"), pair(3, None, "结节")]
    result = score_pairs(pairs, Options(missing=missing, resamples=0))
    assert (result.value("answers", "EM"), result.cell("answers", "EM").n) == (pytest.approx(value), n)
    assert result.missing == 1 and result.empty == 0
    assert any("1 of 4 cases have no prediction" in warning and "3" in warning for warning in result.warnings)


def test_small_groups_and_blank_references_are_warned_about():
    pairs = [pair(i, "结节", "结节", organ="liver") for i in range(40)] + [pair("x", "", "", organ="heart")]
    warnings = " ".join(score_pairs(pairs, Options(group_by="organ", resamples=0)).warnings)
    assert "heart (1)" in warnings and "liver" not in warnings
    assert "1 references are blank" in warnings and "x" in warnings


def test_every_table_that_the_cases_allow_appears():
    box = {"label": "liver", "box": [0, 0, 10, 10]}
    pairs = [
        pair(0, REPORT, REPORT, organ="thyroid"),
        pair(1, "是的", "是", answer_type="closed"),
        Pair("2", "", (), {"level": "high", "prediction_level": "high"}),
        Pair(
            "3",
            "",
            (),
            {"boxes": [box], "prediction_boxes": [box], "plane": ["p"], "prediction_plane": ["p"]},
        ),
        Pair("4", "", (), {"score": 7, "prediction_score": 7.5}),
    ]
    result = score_pairs(pairs, Options(resamples=0))
    names = [section.name for section in result.sections]
    assert names == ["echovlm", "answers", "closed", "clinical", "detection", "planes", "grades", "levels"]
    assert result.cell("echovlm", "BLEU-1").n == 2


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(PairError, match="nothing to score: no row has a reference"):
        score_pairs([Pair("a", "text", ())])
    with pytest.raises(PairError, match="no pair has a key 'organ'"):
        score_pairs([pair(0, "a", "b")], Options(group_by="organ"))
    with pytest.raises(PairError, match="2 predictions for 1 references"):
        score(["a", "b"], ["a"])
    for options in (
        {"profiles": ("bleu",)},
        {"tokenize": "words"},
        {"normalize": ("stem",)},
        {"sections": ("x",)},
    ):
        with pytest.raises(ValueError, match="no (profile|tokenizer|normalisation|section) is called"):
            score_pairs([pair(0, "a", "b")], Options(**options))


ODD = [
    "",
    " \t\u3000",
    "。",
    "......",
    "\x00",
    "\ufeff",
    "😀",
    "𠮷𠮷",
    "\u200b",
    "１２",
    "a" * 5000,
    "\ud800",
    "\n\n",
    "٣",
    "½",
]


@pytest.mark.parametrize("prediction", ODD, ids=ascii)
def test_odd_texts_have_a_defined_score(prediction):
    for reference in (REPORT, prediction):
        result = score([prediction], [reference], profile="all", resamples=10, per_case=True)
        json.dumps(result.cases, allow_nan=False)
        for section in result.sections:
            for group in section.groups:
                for cell in group.cells.values():
                    assert cell.value is None or np.isfinite(cell.value)


def test_importing_the_library_is_quick_and_pulls_in_nothing_heavy():
    code = (
        "import sys, eval; "
        "print([name for name in ('torch', 'nltk', 'gradio', 'transformers', 'jieba', 'scipy', 'sklearn', "
        "'matplotlib', 'bert_score') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_documented_example_is_true():
    import doctest

    import eval as package
    import eval.scoring as scoring

    for module in (package, scoring):
        tested = doctest.testmod(module)
        assert tested.attempted and not tested.failed


# The command line.


@pytest.fixture
def predictions(tmp_path) -> Path:
    rows = [
        {"id": "a", "prediction": REPORT, "reference": REPORT, "organ": "thyroid"},
        {"id": "b", "prediction": REPORT, "reference": OTHER, "organ": "thyroid"},
        {"id": "c", "prediction": "否", "answer": "是", "organ": "liver", "answer_type": "closed"},
    ]
    path = tmp_path / "model.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_score_prints_a_table_with_its_receipts(predictions, capsys):
    assert main(["score", str(predictions), "--group-by", "organ", "--bootstrap", "50"]) == DONE
    table = capsys.readouterr().out
    for part in (
        "BLEU-1",
        "ROUGE-L",
        "METEOR",
        "thyroid",
        "liver",
        MACRO,
        MICRO,
        "tok:jieba-0.42.1-hmm",
        "smooth:m3",
    ):
        assert part in table
    assert "closed accuracy" in table


def test_score_writes_every_format_and_the_cases(predictions, tmp_path):
    for ending in ("md", "json", "csv", "tex"):
        target = tmp_path / f"table.{ending}"
        assert main(["score", str(predictions), "--output", str(target), "--bootstrap", "0"]) == DONE
        assert "BLEU-1" in target.read_text("utf-8")
    assert json.loads((tmp_path / "table.json").read_text("utf-8"))["seed"] == 12345
    cases = tmp_path / "cases.jsonl"
    flags = [
        "--profile",
        "all",
        "--per-case",
        str(cases),
        "--bootstrap",
        "0",
        "--output",
        str(tmp_path / "x.md"),
    ]
    assert main(["score", str(predictions), *flags]) == DONE
    rows = [json.loads(line) for line in cases.read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["echovlm"]["BLEU-1"] == 1.0 and rows[0]["llamafactory"]["BLEU-4"] == 100.0
    assert rows[0]["closed"]["closed accuracy"] is None and rows[2]["closed"]["closed accuracy"] == 0


def test_references_from_another_file_are_joined_by_id(tmp_path, capsys):
    (tmp_path / "said.jsonl").write_text(
        "".join(
            json.dumps({"id": i, "prediction": text}) + "\n"
            for i, text in {"b": "囊肿", "a": "结节", "z": "是"}.items()
        ),
        "utf-8",
    )
    rows = [{"id": i, "images": ["x.png"], "answer": "结节", "organ": "liver"} for i in ("a", "b", "c")]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = ["score", str(tmp_path / "said.jsonl"), "--references", str(tmp_path / "cases.jsonl")]
    command += ["--format", "json", "--bootstrap", "0"]
    assert main(command) == INCOMPLETE
    out, err = capsys.readouterr()
    cell = json.loads(out)["systems"][0]["sections"]["answers"]["groups"][MICRO]["cells"]["EM"]
    assert (cell["n"], cell["value"]) == (3, pytest.approx(100 / 3))
    assert "c" in err and "z" in err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"id": "a", "prediction": "x", "reference": "y"\n', "line 1"),
        (b"", "empty"),
        (b'{"id": "a", "prediction": "x"}\n', "nothing to score|anything to score|reference"),
        (b'{"id": "a", "prediction": "x", "reference": "y"}\n' * 2, "'a'"),
        (b"\xff\xfe\x00", "UTF-8|text"),
    ],
)
def test_bad_files_end_with_one_sentence_and_code_2(tmp_path, capsys, content, sentence):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    assert main(["score", str(path)]) == REFUSED
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1
    assert any(part in err for part in sentence.split("|")), err


def test_bad_options_end_with_one_sentence_and_code_2(predictions, tmp_path, capsys):
    for flags in (
        ["--profile", "bleu"],
        ["--group-by", "vendor"],
        ["--paper", "nature-1"],
        ["--normalize", "stem"],
    ):
        assert main(["score", str(predictions), *flags]) == REFUSED
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert main(["score", str(tmp_path / "none.jsonl")]) == REFUSED
    assert "none.jsonl" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["score"])
    assert caught.value.code == REFUSED


def test_a_failed_case_is_named_and_the_code_says_so(tmp_path, capsys):
    said = '{"id": "a", "prediction": "x", "reference": "x"}\n'
    failed = '{"id": "b", "prediction": null, "error": "no image", "reference": "x"}\n'
    (tmp_path / "p.jsonl").write_text(said + failed, "utf-8")
    assert main(["score", str(tmp_path / "p.jsonl"), "--bootstrap", "0"]) == INCOMPLETE
    out, err = capsys.readouterr()
    assert "1 of 2 cases have no prediction" in err and ": b." in err
    assert "1 of 2 cases have no prediction" in out


def test_formats_says_what_a_file_is(predictions, capsys):
    assert main(["formats", str(predictions)]) == DONE
    assert "3" in capsys.readouterr().out


def test_flags_with_several_values_do_not_swallow_the_file(predictions, capsys):
    flags = [
        "--profile",
        "echovlm,llava",
        "--normalize",
        "nfkc,punct",
        "--sections",
        "llava",
        "--bootstrap",
        "0",
    ]
    assert main(["score", *flags, str(predictions)]) == DONE
    out = capsys.readouterr().out
    assert "norm:nfkc+punct" in out and "BLEU-uniform" in out and "METEOR" not in out


def test_complete_references_and_cleaning_are_no_reason_for_code_1(tmp_path, capsys):
    (tmp_path / "said.jsonl").write_text('{"id": "a", "prediction": "<think>x</think>结节"}\n', "utf-8")
    (tmp_path / "truth.jsonl").write_text('{"id": "a", "images": [], "answer": "结节"}\n', "utf-8")
    command = [
        "score",
        str(tmp_path / "said.jsonl"),
        "--references",
        str(tmp_path / "truth.jsonl"),
        "--clean",
    ]
    assert main([*command, "--format", "json", "--bootstrap", "0"]) == DONE
    written = json.loads(capsys.readouterr().out)
    assert written["systems"][0]["sections"]["answers"]["groups"][MICRO]["cells"]["EM"]["value"] == 100
    notes = " ".join(written["warnings"])
    assert "truth.jsonl" in notes and "Markup taken out" in notes  # what reading did stands in the result


def test_a_row_without_a_reference_is_named(tmp_path, capsys):
    rows = '{"id": "a", "prediction": "x", "reference": "x"}\n{"id": "lost", "prediction": "x"}\n'
    (tmp_path / "p.jsonl").write_text(rows, "utf-8")
    assert main(["score", str(tmp_path / "p.jsonl"), "--bootstrap", "0"]) == INCOMPLETE
    assert "1 cases have nothing to be compared with and count nowhere: lost." in capsys.readouterr().out
    (tmp_path / "q.jsonl").write_text('{"id": "a", "prediction": "x", "referense": "x"}\n', "utf-8")
    assert main(["score", str(tmp_path / "q.jsonl")]) == REFUSED
    err = capsys.readouterr().err
    assert "q.jsonl" in err and "referense" in err


def test_no_input_is_overwritten_and_pipes_are_written_to(predictions, tmp_path, capsys):
    before = predictions.read_bytes()
    for flag in ("--output", "--per-case", "--picture"):
        assert main(["score", str(predictions), flag, str(predictions)]) == REFUSED
        assert main(["score", str(predictions), flag, str(tmp_path)]) == REFUSED
    assert predictions.read_bytes() == before
    link = tmp_path / "link.md"
    link.symlink_to(tmp_path / "real.md")
    assert main(["score", str(predictions), "--output", str(link), "--bootstrap", "0"]) == DONE
    assert link.is_symlink() and "BLEU-1" in (tmp_path / "real.md").read_text("utf-8")
    assert main(["score", str(predictions), "--output", "/dev/null", "--bootstrap", "0"]) == DONE
    assert Path("/dev/null").is_char_device()
    new = tmp_path / "new" / "folder" / "t.md"
    assert main(["score", str(predictions), "--output", str(new), "--bootstrap", "0"]) == DONE
    assert new.is_file()


@pytest.mark.parametrize(
    "flags",
    [
        ["--cluster", "patint"],
        ["--bootstrap", "-5"],
        ["--seed", "-1"],
        ["--decimals", "-1"],
        ["--sections", "nothing"],
        ["--iou", "x"],
    ],
)
def test_slips_in_options_are_refused(predictions, flags, capsys):
    try:
        assert main(["score", str(predictions), *flags]) == REFUSED
    except SystemExit as caught:
        assert caught.code == REFUSED
    assert flags[1].lstrip("-") in capsys.readouterr().err


def test_per_case_scores_are_of_one_system(predictions, tmp_path, capsys):
    assert (
        main(["score", str(predictions), str(predictions), "--per-case", str(tmp_path / "c.jsonl")])
        == REFUSED
    )
    assert "one file" in capsys.readouterr().err


def test_one_case_has_no_interval_and_few_cases_behind_a_column_are_warned_about():
    pairs = [pair(0, REPORT, REPORT, organ="thyroid")]
    pairs += [pair(i, "x", "y", organ="liver") for i in (1, 2)]
    one = score_pairs(pairs, Options(group_by="organ"))
    for name in ("thyroid", MACRO):
        cell = one.cell("echovlm", "BLEU-1", name)
        assert cell.value is not None and (cell.low, cell.high) == (None, None)
    graded = "BI-RADS 3类。" + REPORT
    pairs = [pair(i, text, text) for i, text in enumerate([graded, *[REPORT] * 39])]
    assert any("clinical RADS F1 (1)" in warning for warning in score_pairs(pairs).warnings)


def test_a_group_may_be_called_like_an_average():
    pairs = [pair(0, "x", "x", organ=MICRO), pair(1, "x", "y", organ="liver")]
    names = [group.name for group in score_pairs(pairs, Options(group_by="organ")).sections[0].groups]
    assert names == [f"{MICRO} (group)", "liver", MACRO, MICRO]


def test_a_papers_table_takes_only_its_task(tmp_path, capsys):
    rows = [
        {"id": str(i), "prediction": REPORT, "reference": REPORT, "organ": "thyroid", "task": task}
        for i, task in enumerate(["report", "report", "diagnosis"])
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = ["score", str(tmp_path / "p.jsonl"), "--bootstrap", "0", "--format", "json", "--paper"]
    assert main([*command, "echovlm-2"]) == DONE
    assert json.loads(capsys.readouterr().out)["systems"][0]["n"] == 2
    assert main([*command, "echovlm-4"]) == REFUSED
    assert "'vqa'" in capsys.readouterr().err


def test_the_library_refuses_what_is_no_list_of_texts():
    with pytest.raises(PairError, match="reference 0 is None"):
        score(["x"], [None])
    with pytest.raises(PairError, match="not one text"):
        score("abc", "abd")


def test_confusion_stands_under_the_levels():
    pairs = [Pair(str(i), "", (), {"level": "low", "prediction_level": "high"}) for i in range(3)]
    assert "low: 0 low, 0 medium, 3 high, 0 unparsed" in score_pairs(pairs).sections[0].notes[0]
