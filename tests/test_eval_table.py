"""Tables and pictures of results: what is rendered reads back as it went in; papers' figures are right."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from PIL import Image

from eval.paper_layout import OTHER_IMAGES, WRONG
from eval.papers import PaperTable, paper_names, paper_table
from eval.picture import COLOURS, bars, draw
from eval.result import MACRO, MICRO, Cell, Column, Group, Result, Section
from eval.table import FORMATS, render

TRAPS = (
    "a|b",
    "back\\slash",
    "*star*",
    "[first]",
    "100% & $5 #1_x^2 ~{}",
    '<b>`q`"',
    "line\nbreak",
    "甲状腺 ≥ 2 – é",
)


def result(system: str = "demo", base: float = 50.0, names: tuple[str, ...] = ("liver", "甲状腺")) -> Result:
    columns = (
        Column("BLEU-1", "tok:jieba-0.42.1|order:1"),
        Column("ROUGE-1", "tok:jieba-0.42.1|ngrams:sets"),
        Column("MAE", "points:0-10", lower_is_better=True, percent=False),
    )
    groups = []
    for number, name in enumerate((*names, MACRO, MICRO)):
        value = base + number + 1 / 3
        cells = {
            "BLEU-1": Cell(value, value - 2, value + 2, 40),
            "ROUGE-1": Cell(None),
            "MAE": Cell(base / 100, 0.25, 0.75, 12),
        }
        groups.append(Group(name, 40, cells, empty=number, missing=1))
    section = Section("echovlm", "Text, profile echovlm", columns, tuple(groups), ("References are short.",))
    return Result(
        system,
        (section,),
        group_by="organ",
        n=80,
        empty=3,
        missing=2,
        seed=12345,
        resamples=1000,
        cluster=None,
        warnings=("Fewer than 30 cases: kidney (12).",),
        versions={"jieba": "0.42.1"},
        inputs={"pred.jsonl": "ab" * 32},
    )


def markdown_rows(text: str) -> list[list[str]]:
    """The cells of all tables of a Markdown text, head first, without rules, escapes taken back."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)(?:\\\\)*\|", row)[1:-1] for row in rows]
    unescaped = [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in row] for row in cells]
    return [row for row in unescaped if not all(re.fullmatch(r"-+:?", cell) for cell in row)]


def latex_rows(text: str) -> list[list[str]]:
    """The cells of the body of a LaTeX table, as written."""
    body = text.split(r"\midrule", 1)[1].split(r"\bottomrule")[0].replace("\\midrule\n", "")
    return [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in body.strip().splitlines()]


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# --- groups: one system ------------------------------------------------------------------------------------


def test_a_table_by_groups_reads_back():
    head, *rows = markdown_rows(render([result()]))
    assert head == ["organ", "BLEU-1", "ROUGE-1", "MAE", "n", "empty", "missing"]
    assert rows == [
        ["liver", "50.33 [48.33, 52.33]", "–", "0.500 [0.250, 0.750] n=12", "40", "0", "1"],
        ["甲状腺", "51.33 [49.33, 53.33]", "–", "0.500 [0.250, 0.750] n=12", "40", "1", "1"],
        [MACRO, "52.33 [50.33, 54.33]", "–", "0.500 [0.250, 0.750] n=12", "40", "2", "1"],
        [MICRO, "53.33 [51.33, 55.33]", "–", "0.500 [0.250, 0.750] n=12", "40", "3", "1"],
    ]


def test_columns_of_a_markdown_table_stand_in_line():
    lines = [line for line in render([result()]).splitlines() if line.startswith("|")]
    wide = [sum(2 if c in "甲状腺" else 1 for c in line) for line in lines]
    assert len(set(wide)) == 1


def test_receipts_notes_and_warnings_stand_under_the_table():
    for layout in ("groups", "systems"):
        below = render([result()], layout=layout).split("```text\n")[1]
        assert below.startswith("BLEU-1 = 53.33  tok:jieba-0.42.1|order:1|cases:40\n")
        assert "ROUGE-1 = –  tok:jieba-0.42.1|ngrams:sets|cases:0\n" in below
        assert "MAE = 0.500  points:0-10|cases:12\n```" in below
        assert "- References are short.\n- Fewer than 30 cases: kidney (12).\n" in below
        assert (
            "- demo: 95 % intervals: 1000 resamples, seed 12345; jieba 0.42.1; pred.jsonl sha256:abababababab"
            in below
        )


@pytest.mark.parametrize(
    "value, decimals, printed",
    [(53.875, 2, "53.88"), (53.87, 1, "53.9"), (-0.001, 2, "0.00"), (-0.4, 0, "0"), (100.0, 2, "100.00"),
     (1e-9, 2, "0.00"), (-8.126, 2, "-8.13"), (float("nan"), 2, "–"), (float("inf"), 2, "–"),
     (None, 2, "–")],
)  # fmt: skip
def test_a_figure_as_it_is_printed(value, decimals, printed):
    section = Section("s", "S", (Column("m", "r"),), (Group(MICRO, 1, {"m": Cell(value, n=1)}),))
    whole = replace(result(), sections=(section,), group_by=None)
    assert markdown_rows(render([whole], decimals=decimals))[1][1] == printed


@pytest.mark.parametrize("trap", TRAPS)
def test_names_survive_markdown(trap):
    named = result(system=trap, names=(trap,))
    title = render([named]).splitlines()[0]
    assert re.sub(r"\\(.)", r"\1", title) == f"### Text, profile echovlm: {trap}".replace("\n", " ")
    for text in (render([named]), render([named, result("other", names=(trap,))])):
        head, first, *rest = markdown_rows(text)
        assert first[0] == trap.replace("\n", " ")
        assert {len(row) for row in rest} == {len(head)}


@pytest.mark.parametrize("trap", TRAPS)
def test_names_survive_latex(trap):
    text = render([result(system=trap, names=("liver", trap))], "latex")
    body = text.split(r"\begin{tabular}", 1)[1].split("}", 1)[1].split(r"\end{tabular}")[0]
    assert {len(row) for row in latex_rows(text)} == {7}
    # Without what LaTeX allows, none of its special characters is left, and the braces match.
    plain = re.sub(r"\\([a-z]+(\{\})?|[{}$&#_%\\])|\$\\?[-a-z]+\$|&", "", body)
    assert not re.search(r"[#$%&_^~\\<>|\"`]", plain), plain
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"\\\\\s*[\[*]", body)


LATEX = shutil.which("pdflatex")


@pytest.mark.skipif(not LATEX, reason="no LaTeX here")
def test_latex_compiles(tmp_path):
    tables = [render([result(system=trap, names=(trap,))], "latex") for trap in TRAPS[:-1]]
    tables += [render([ours(paper_table(name))], "latex", paper=name) for name in paper_names()]
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}%s\end{document}"
    (tmp_path / "t.tex").write_text(document % "\n\\clearpage\n".join(tables), "utf-8")
    done = subprocess.run(
        [LATEX, "-draftmode", "-interaction=nonstopmode", "t.tex"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


# --- systems: several --------------------------------------------------------------------------------------


def test_systems_stand_side_by_side_with_the_best_bold():
    head, *rows = markdown_rows(render([result("a", 50), result("b", 60)]))
    assert head == ["organ", "metric", "a", "b"]
    assert rows[:4] == [
        ["liver", "BLEU-1", "50.33 [48.33, 52.33]", "**60.33** [58.33, 62.33]"],
        ["", "ROUGE-1", "–", "–"],
        ["", "MAE", "**0.500** [0.250, 0.750] n=12", "0.600 [0.250, 0.750] n=12"],
        ["", "n (empty, missing)", "40 (0, 1)", "40 (0, 1)"],
    ]
    assert [row[0] for row in rows if row[0]] == ["liver", "甲状腺", MACRO, MICRO]


def test_bold_needs_a_choice_and_one_definition_and_is_shared_by_what_prints_alike():
    def bold(*results: Result) -> list[str]:
        return re.findall(r"\*\*(.+?)\*\*", render(results, layout="systems"))

    assert bold(result()) == []
    assert bold(result("a"), result("b", 50.001)).count("50.33") == 2
    other = result("b", 60)
    columns = tuple(replace(column, receipt="tok:char") for column in other.sections[0].columns)
    other = replace(other, sections=(replace(other.sections[0], columns=columns),))
    text = render([result("a"), other])
    assert "**" not in text
    assert (
        "a: BLEU-1 = 53.33  tok:jieba-0.42.1|order:1|cases:40\nb: BLEU-1 = 63.33  tok:char|cases:40\n" in text
    )
    assert "BLEU-1: the systems were scored by different definitions and cannot be compared" in text


def test_systems_with_other_groups_and_sections_lose_nothing():
    more = result("b", names=("breast", "liver"))
    extra = Section(
        "closed", "Closed", (Column("accuracy", "r"),), (Group(MICRO, 5, {"accuracy": Cell(80.0, n=5)}),)
    )
    rows = markdown_rows(render([result("a"), replace(more, sections=(*more.sections, extra))]))
    groups = [row[0] for row in rows if row[0]]
    assert groups == ["organ", "liver", "甲状腺", "breast", MACRO, MICRO, "organ", MICRO]
    assert ["", "n (empty, missing)", "–", "40 (0, 1)"] in rows
    assert [MICRO, "accuracy", "–", "80.00"] in rows


def test_results_of_one_name_are_numbered():
    first, second = result("pred"), replace(result("pred"), inputs={"pred.jsonl": "cd" * 32})
    assert markdown_rows(render([first, second]))[0] == ["organ", "metric", "pred (1)", "pred (2)"]
    found = json.loads(render([first, second], "json"))
    assert [system["system"] for system in found["systems"]] == ["pred (1)", "pred (2)"]
    assert found["inputs"] == {"pred.jsonl": "ab" * 32, "pred.jsonl (2)": "cd" * 32}
    assert found["warnings"][0].startswith("pred (1): ")


# --- CSV and JSON ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trap", ("plain", 'comma, "quote"', *TRAPS))
def test_csv_reads_back_unrounded(trap):
    systems = [result(trap, names=(trap,)), result("b", 1 / 3)]
    rows = csv_rows(render(systems, "csv"))
    keys = ("section", "group", "system")
    assert [row[key] for row in rows[:2] for key in keys] == ["echovlm", trap, trap, "echovlm", "liver", "b"]
    found = {(row["group"], row["system"]): row for row in rows}
    for system in systems:
        for group in system.sections[0].groups:
            row = found[group.name, system.system]
            assert (row["n"], row["empty"], row["missing"]) == (str(group.n), str(group.empty), "1")
            cell = group.cells["BLEU-1"]
            keys = ("BLEU-1", "BLEU-1 low", "BLEU-1 high", "BLEU-1 n")
            assert [float(row[key]) for key in keys] == [cell.value, cell.low, cell.high, cell.n]
            assert row["ROUGE-1"] == "" and row["ROUGE-1 n"] == "0"
            assert row["BLEU-1 receipt"] == "tok:jieba-0.42.1|order:1"


def test_json_keeps_its_schema_and_every_digit():
    bare = result()
    cells = {"BLEU-1": Cell(np.float64(2 / 3), np.nan, math.inf, np.int64(7))}
    odd = replace(bare.sections[0], groups=(Group(MICRO, 7, cells),))
    text = render([replace(bare, sections=(odd,))], "json")
    found = json.loads(text, parse_constant=pytest.fail)
    assert list(found) == [
        "schema_version", "versions", "inputs", "seed", "resamples", "cluster", "systems", "warnings",
    ]  # fmt: skip
    assert (found["schema_version"], found["seed"], found["resamples"], found["cluster"]) == (
        1,
        12345,
        1000,
        None,
    )
    (system,) = found["systems"]
    assert {key: system[key] for key in ("system", "group_by", "n", "empty", "missing")} == {
        "system": "demo", "group_by": "organ", "n": 80, "empty": 3, "missing": 2,
    }  # fmt: skip
    section = system["sections"]["echovlm"]
    assert section["columns"]["MAE"] == {"receipt": "points:0-10", "lower_is_better": True, "percent": False}
    assert section["groups"] == {
        MICRO: {
            "n": 7,
            "empty": 0,
            "missing": 0,
            "cells": {"BLEU-1": {"value": 2 / 3, "low": None, "high": None, "n": 7}},
        }
    }
    whole = json.loads(render([bare], "json"))["systems"][0]["sections"]["echovlm"]["groups"]
    assert whole["甲状腺"]["cells"]["BLEU-1"] == {
        "value": 51 + 1 / 3, "low": 49 + 1 / 3, "high": 53 + 1 / 3, "n": 40,
    }  # fmt: skip
    assert "甲状腺" in render([bare], "json")


def test_what_the_systems_do_not_share_is_null():
    found = json.loads(render([result("a"), replace(result("b"), seed=1)], "json"))
    assert found["seed"] is None and found["resamples"] == 1000


@pytest.mark.parametrize("format", FORMATS)
def test_rendering_twice_gives_one_text(format):
    texts = {render([result("a"), result("b")], format, paper=paper) for _ in range(2) for paper in (None,)}
    texts |= {render([result("a"), result("b")], format)}
    assert len(texts) == 1 and texts.pop().endswith("\n")


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"results": []}, "there are no results"),
        ({"format": "html"}, "no format is called 'html'; choose one of md, csv, latex, json"),
        ({"layout": "rows"}, "no layout is called 'rows'; choose one of groups, systems"),
        ({"paper": "echovlm-9"}, "no table is called 'echovlm-9'; choose one of echovlm-2, "),
        ({"paper": "abvlm-q-3"}, "table abvlm-q-3 needs the section planes; the results have echovlm"),
    ],
)
def test_what_cannot_be_rendered_is_said(arguments, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        render(**{"results": [result()], **arguments})


# --- the papers --------------------------------------------------------------------------------------------


def ours(paper: PaperTable, of: str | None = None, system: str = "demo") -> Result:
    """A result that has all the table asks for: the figures of one of its systems, or 12.5 everywhere."""
    sections: dict[str, list[Column]] = {}
    for metric in paper.metrics:
        sections.setdefault(metric.section, []).append(Column(metric.column, f"like:{paper.name}"))
    made = []
    for name, columns in sections.items():
        groups = []
        for group in paper.groups:
            called = next((own for own in group.ours if own in (MACRO, MICRO)), group.name.swapcase())
            cells = {}
            for metric in paper.metrics_of(group):
                if metric.section == name:
                    value = paper.figures.get((group.name, metric.name, of)) if of else 12.5
                    cells[metric.column] = Cell(value, n=9)
            groups.append(Group(MICRO if group.name == MICRO else called, 9, cells))
        made.append(Section(name, name, tuple(columns), tuple(groups)))
    return Result(system, tuple(made), paper.group_by, 9, 0, 0, 12345, 0, None)


def columns_or_rows(text: str, system: str) -> list[list[str]]:
    """What stands for one system in a paper's table: its column, its row, or its row in each group."""
    head, *rows = markdown_rows(text)
    if any(system in name for name in head):
        at = next(i for i, name in enumerate(head) if system in name)
        return [[row[at]] for row in rows]
    words = head.index("system")
    return [row[words + 1 :] for row in rows if system in row[words]]


TABLES = {
    "echovlm-2": 200, "echovlm-3": 200, "echovlm-4": 200, "echovlm-5": 30, "echovlm-6": 30, "echovlm-7": 45,
    "llava-ultra-2": 0, "llava-ultra-3": 0, "qbench-1": 136, "abvlm-q-1": 8, "abvlm-q-2": 12, "abvlm-q-3": 12,
    "abvlm-q-fig5": 1,
}  # fmt: skip


def test_every_table_is_there_with_all_its_figures():
    assert {name: len(paper_table(name).figures) for name in paper_names()} == TABLES


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("format", FORMATS)
def test_every_paper_table_renders(name, format):
    paper = paper_table(name)
    text = render([ours(paper), ours(paper, system="other")], format, paper=name)
    assert (OTHER_IMAGES in text) == bool(paper.figures) or format == "json"
    assert "demo" in text and "12.5" in text


@pytest.mark.parametrize("name", [name for name, figures in TABLES.items() if figures])
def test_a_system_with_the_papers_figures_stands_beside_them_with_the_same_text(name):
    paper = paper_table(name)
    for system in paper.systems:
        text = render([ours(paper, of=system)], paper=name)
        mine = columns_or_rows(text, "demo")
        published = [[cell.removesuffix(WRONG) for cell in row] for row in columns_or_rows(text, system)]
        assert mine == published and any(cell != "–" for row in mine for cell in row)


@pytest.mark.parametrize("name", [name for name, figures in TABLES.items() if figures])
def test_published_figures_are_marked_and_never_the_best(name):
    paper = paper_table(name)
    text = render([ours(paper), ours(paper, system="other")], paper=name)
    for system in paper.systems:
        assert f"{OTHER_IMAGES} · {system}" in text or f"{system}, {OTHER_IMAGES}" in text
        assert not any("**" in cell for row in columns_or_rows(text, system) for cell in row)
    rows = [row for row in csv_rows(render([ours(paper)], "csv", paper=name)) if row["system"] != "demo"]
    assert {row["system"] for row in rows} == {f"{system}, {OTHER_IMAGES}" for system in paper.systems}
    names = [key.removesuffix(" receipt") for key in rows[0] if key.endswith(" receipt")]
    written = [row[column] for row in rows for column in names if row[column]]
    assert sorted(map(float, written)) == sorted(paper.figures.values())
    published = json.loads(render([ours(paper)], "json", paper=name))["published"]
    assert published["marked"] == OTHER_IMAGES and len(published["figures"]) == len(paper.figures)


def test_the_shapes_of_the_papers():
    def head(name: str) -> list[str]:
        return markdown_rows(render([ours(paper_table(name))], paper=name))[0]

    compared = paper_table("echovlm-2").systems
    assert compared[0] == "LLaVA-OneVision (7B)" and compared[-1] == "EchoVLM (11B)" and len(compared) == 5
    for number in (2, 3, 4):
        assert head(f"echovlm-{number}") == [
            "group", "metric", "ours · demo", *(f"{OTHER_IMAGES} · {system}" for system in compared),
        ]  # fmt: skip
    assert head("abvlm-q-3") == ["system", "Label ACC", "Subset ACC", "F1-score"]
    assert head("llava-ultra-2")[:4] == ["group", "system", "EM", "F1"]
    setting = [
        *(f"Qualitative · {prompt}" for prompt in ("Basic", "Contextual", "Diagnostic")),
        "Quantitative",
        "Comparative",
    ]
    assert head("qbench-1") == [
        "system",
        *(f"{d} · {s}" for d in ("IVUSQA", "CardiacUltraQA") for s in setting),
    ]
    spans = render([ours(paper_table("qbench-1"))], "latex", paper="qbench-1")
    assert r"system & \multicolumn{5}{c}{IVUSQA} & \multicolumn{5}{c}{CardiacUltraQA} \\" in spans
    assert r"\cmidrule(lr){2-6}" in spans and r" & \multicolumn{3}{c}{Qualitative} & Quantitative &" in spans


def test_groups_that_the_paper_lacks_stand_before_its_averages():
    rows = markdown_rows(render([result(names=("liver", "spleen", "甲状腺"))], paper="echovlm-2"))
    groups = [row[0] for row in rows[1:] if row[0]]
    assert groups == [
        "Breast",
        "Gynecology",
        "Heart",
        "Kidney",
        "Liver",
        "Vessel",
        "Thyroid",
        "spleen",
        "Average",
    ]
    shown = {row[0]: row[2] for row in rows[1:] if row[1] == "BLEU-1"}
    assert (shown["Liver"], shown["spleen"], shown["Thyroid"]) == (
        "50.33 [48.33, 52.33]", "51.33 [49.33, 53.33]", "52.33 [50.33, 54.33]",
    )  # fmt: skip
    assert (shown["Average"], shown["Heart"]) == ("53.33 [51.33, 55.33]", "–")


def test_a_receipt_under_a_papers_table_has_the_figure_of_its_average():
    assert "BLEU-1 = 52.33  tok:jieba" in render([result()], paper="echovlm-2")
    assert "BLEU-1 = 53.33  tok:jieba" in render([result()], paper="echovlm-5")


def test_results_by_another_key_are_pointed_at_the_right_one():
    other = replace(result(names=("zh", "en")), group_by="language")
    assert "score with --group-by organ" in render([other], paper="echovlm-2")
    assert "score with --group-by organ" not in render([result()], paper="echovlm-2")


def test_pairs_of_figures_keep_their_places():
    paper = paper_table("qbench-1")
    columns = (Column("Accuracy", "r"), Column("Accuracy clustered", "r"))
    groups = (
        Group("IVUSQA basic", 9, {"Accuracy": Cell(30.0, n=9), "Accuracy clustered": Cell(40.0, n=9)}),
        Group("ivusqa contextual", 9, {"Accuracy": Cell(31.0, n=9), "Accuracy clustered": Cell(None)}),
        Group("IVUSQA Diagnostic", 9, {"Accuracy": Cell(None), "Accuracy clustered": Cell(42.0, n=9)}),
    )
    mine = replace(ours(paper), sections=(Section("levels", "Levels", columns, groups),))
    assert columns_or_rows(render([mine], paper="qbench-1"), "demo")[0][:4] == [
        "30.00 / 40.00",
        "31.00",
        "– / 42.00",
        "–",
    ]


# EchoVLM's averages, from the rows typed in.

ANATOMIES = ("Breast", "Gynecology", "Heart", "Kidney", "Liver", "Vessel", "Thyroid")
OVERLAP = ("BLEU-1", "ROUGE-1", "ROUGE-L", "METEOR", "BERTScore")


def averages(name: str) -> dict[tuple[str, str], tuple[float, float]]:
    """(metric, system) -> the printed average, and the mean of the seven rows."""
    paper = paper_table(name)
    return {
        (metric, system): (
            paper.figures["Average", metric, system],
            mean(paper.figures[anatomy, metric, system] for anatomy in ANATOMIES),
        )
        for metric in OVERLAP
        for system in paper.systems
    }


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("echovlm-2", {}),
        ("echovlm-3", {("BLEU-1", "LLaVA-OneVision-Ultrasound (7B)"): (55.28, 52.43),
                       ("BLEU-1", "Qwen2-VL-Ultrasound (7B)"): (58.70, 57.27)}),
        ("echovlm-4", {("BLEU-1", "Qwen2-VL (7B)"): (20.39, 20.42)}),
    ],
)  # fmt: skip
def test_the_averages_of_echovlm_are_its_rows_except_for_the_known_errors(name, wrong):
    found = averages(name)
    assert len(found) == 25
    off = {
        at: (printed, round(rows, 2)) for at, (printed, rows) in found.items() if abs(printed - rows) > 0.0051
    }
    assert off == wrong
    for metric, system in wrong:
        note = paper_table(name).errors["Average", metric, system]
        assert all(f"{figure:.2f}" in note for figure in wrong[metric, system])


@pytest.mark.parametrize("number", (2, 3, 4, 7))
def test_wrongly_printed_figures_are_marked_and_explained(number):
    paper = paper_table(f"echovlm-{number}")
    text = render([ours(paper)], paper=paper.name)
    table = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    below = text.split("```")[-1]
    marked = re.findall(rf"([\d.]+){WRONG}", table)
    assert sorted(map(float, marked)) == sorted(paper.figures[cell] for cell in paper.errors)
    for cell, note in paper.errors.items():
        assert f"- {WRONG} {', '.join(cell)}: {note}." in below


def test_a_slip_in_the_file_of_papers_is_named(monkeypatch):
    entry = {
        **{"paper": "P", "place": "Table 1", "title": "T", "section": "s", "note": []},
        **{"rows": ["system"], "columns": "metric", "metrics": [{"name": "A"}, {"name": "B"}]},
        **{"systems": ["x"], "figures": {"x": [1.0]}},
    }
    wrong = {"cell": [MICRO, "A", "y"], "note": "n"}
    whole = {**entry, "figures": {"x": [1.0, None]}, "errors": [wrong]}
    monkeypatch.setattr("eval.papers._file", lambda: {"short": entry, "unknown": whole})
    with pytest.raises(ValueError, match="papers.yaml, short, x: 2 figures expected, found 1"):
        paper_table("short")
    with pytest.raises(
        ValueError, match="papers.yaml, unknown: an error is noted for .*'y'.*, which has no figure"
    ):
        paper_table("unknown")


def test_thyroid_bertscore_of_table_4_is_that_of_table_3():
    third, fourth = paper_table("echovlm-3"), paper_table("echovlm-4")
    same = [
        s
        for s in fourth.systems
        if fourth.figures["Thyroid", "BERTScore", s] == third.figures["Thyroid", "BERTScore", s]
    ]
    assert same == list(fourth.systems[:4])
    assert {cell[2] for cell in fourth.errors if cell[:2] == ("Thyroid", "BERTScore")} == set(same)
    # Table 7 has the average that a right cell would have given.
    model, others = "Qwen2-VL-Ultrasound (7B)", [name for name in ANATOMIES if name != "Thyroid"]
    true = 7 * paper_table("echovlm-7").figures["VQA", "BERTScore", "0 Expert"]
    assert round(true - sum(fourth.figures[name, "BERTScore", model] for name in others), 2) == 49.07


def test_the_ablations_repeat_the_averages():
    tasks = {"Report Generation": "echovlm-2", "Ultrasound Diagnosis": "echovlm-3", "VQA": "echovlm-4"}
    last = [
        (paper_table(f"echovlm-{n}"), system)
        for n, system in ((5, "w Share Expert"), (6, "Top2"), (7, "4 Experts"))
    ]
    for task, name in tasks.items():
        for metric in OVERLAP:
            for paper, system in last:
                average = paper_table(name).figures["Average", metric, "EchoVLM (11B)"]
                assert abs(paper.figures[task, metric, system] - average) < 0.011, (task, metric, system)
            if (task, metric) != ("VQA", "BERTScore"):
                average = paper_table(name).figures["Average", metric, "Qwen2-VL-Ultrasound (7B)"]
                assert paper_table("echovlm-7").figures[task, metric, "0 Expert"] == average


def test_nine_cells_of_table_2_have_rouge_l_above_rouge_1():
    figures = paper_table("echovlm-2").figures
    above = [(a, s) for a in ANATOMIES for s in paper_table("echovlm-2").systems
             if figures[a, "ROUGE-L", s] > figures[a, "ROUGE-1", s]]  # fmt: skip
    assert len(above) == 9 and ("Heart", "EchoVLM (11B)") in above


def test_figures_that_the_texts_of_the_papers_repeat():
    """Sentences of the papers beside their tables."""
    third, quality = paper_table("echovlm-3").figures, paper_table("qbench-1").figures
    assert (third["Kidney", "BLEU-1", "EchoVLM (11B)"], third["Liver", "ROUGE-1", "EchoVLM (11B)"]) == (
        77.56,
        79.87,
    )
    basic = [
        quality["IVUSQA · Qualitative · Basic", name, "mPLUG-Owl3"]
        for name in ("Original", "Softmax + Clustering")
    ]
    assert round(basic[1] - basic[0], 1) == 20.3
    assert quality["CardiacUltraQA · Qualitative · Contextual", "Original", "Qwen2-VL"] == 55.94
    assert quality["IVUSQA · Qualitative · Diagnostic", "Original", "mPLUG-Owl3"] == 57.88
    gains = [quality[g, "Softmax + Clustering", s] - value for (g, m, s), value in quality.items()
             if (g, "Softmax + Clustering", s) in quality and m == "Original"]  # fmt: skip
    assert len(gains) == 56 and round(mean(gains), 2) == 9.25
    planes = paper_table("abvlm-q-3").figures
    for metric, gain in (("Label ACC", 1.12), ("Subset ACC", 1.99)):
        best = max(value for (_, m, s), value in planes.items() if m == metric and s.startswith("Qwen"))
        assert round(best - planes[MICRO, metric, "ConvNeXt-T"], 2) == gain


def test_faster_r_cnn_recall_precision_and_false_positives_fit_together():
    figures = paper_table("abvlm-q-2").figures
    totals = []
    for threshold in ("0.00", "0.20"):
        recall, precision, wrong = (
            figures[MICRO, metric, f"Faster R-CNN, threshold {threshold}"]
            for metric in ("Recall", "Precision", "Num of FP")
        )
        right = wrong * precision / (100 - precision)
        totals.append(round(100 * right / recall))
    assert totals == [1417, 1417]


def test_our_columns_of_the_papers_exist():
    """Every metric of a paper is a column of scoring; BERTScore needs a model, the rest is still to come."""
    from eval.pairs import pair_of
    from eval.scoring import Options, score_pairs

    box = [{"label": "liver", "box": [0, 0, 9, 9]}]
    rows = [
        {"id": "1", "prediction": "肝脏回声均匀", "answer": "肝脏回声均匀", "answer_type": "open"},
        {"id": "2", "prediction": "yes", "answer": "yes", "answer_type": "closed"},
        {"id": "3", "prediction": "high", "level": "high", "prediction_level": "high"},
        {"id": "4", "prediction": "a box", "boxes": box, "prediction_boxes": box},
        {"id": "5", "prediction": "a plane", "plane": ["liver"], "prediction_plane": ["liver"]},
        {"id": "6", "prediction": "a score", "score": 9, "prediction_score": 9},
    ]
    scored = score_pairs(list(map(pair_of, rows)), Options(profiles=("echovlm", "llava"), resamples=0))
    there = {(section.name, column.name) for section in scored.sections for column in section.columns}
    wanted = {
        (metric.section, metric.column) for name in paper_names() for metric in paper_table(name).metrics
    }
    later = {("echovlm", "BERTScore"), ("levels", "Accuracy clustered"), ("comparison", "Accuracy")}
    assert wanted - there <= later


# --- pictures ----------------------------------------------------------------------------------------------


def drawn(figure) -> list[list[float]]:
    """The lengths of the bars of every panel, series after series."""
    return [[bar.get_width() for bars in axis.containers for bar in bars] for axis in figure.axes]


def test_bars_are_as_long_as_the_figures():
    one = bars([result()])
    percent, other = drawn(one)
    assert percent == pytest.approx(
        [50 + 1 / 3, 51 + 1 / 3, 52 + 1 / 3, 53 + 1 / 3]
    )  # ROUGE-1 has nothing to draw
    assert other == [0.5] * 4
    two = bars([result("a"), result("b", 60)], columns=["BLEU-1"])
    assert drawn(two) == [pytest.approx([base + n + 1 / 3 for base in (50, 60) for n in range(4)])]
    assert [text.get_text() for text in two.axes[0].get_legend().get_texts()] == ["a", "b"]
    assert [label.get_text() for label in two.axes[0].get_yticklabels()] == ["liver", "甲状腺", MACRO, MICRO]
    assert two.axes[0].yaxis_inverted()


def test_intervals_are_drawn_where_they_are():
    axis = bars([result()], columns=["BLEU-1"]).axes[0]
    lines = {tuple(np.round(line.get_xdata(), 2)) for line in axis.lines}
    assert lines == {(48.33, 52.33), (49.33, 53.33), (50.33, 54.33), (51.33, 55.33)}
    assert {text.get_text() for text in axis.texts} == {"50.3", "51.3", "52.3", "53.3"}


def test_a_picture_is_a_png_that_is_legible_at_800_pixels(tmp_path):
    draw([result("a"), result("b", 60)], tmp_path / "p.png", columns=["BLEU-1"])
    with Image.open(tmp_path / "p.png") as image:
        assert image.format == "PNG" and image.width == 1600 and image.height >= 400
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in COLOURS[:2]:
        exact = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        assert (pixels == exact).all(axis=1).mean() > 0.02, colour
    letters = [
        text.get_fontsize()
        for axis in bars([result()]).axes
        for text in (*axis.texts, *axis.get_yticklabels())
    ]
    assert min(letters) / 72 * 100 > 9  # pixels at 8 inches = 800 pixels


def test_the_same_results_give_the_same_picture(tmp_path):
    for name in ("a.png", "b.png"):
        draw([result()], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_odd_names_and_values_are_drawn(tmp_path, recwarn):
    odd = [result("$x_1$ & co", names=("_hidden", "$a$", "a" * 200, "")), result("$", base=-20)]
    draw(odd, tmp_path / "p.svg")
    assert "<svg" in (tmp_path / "p.svg").read_text("utf-8")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"results": []}, "there are no results"),
        ({"section": "closed"}, "no section is called 'closed'; there are echovlm"),
        ({"columns": ["BLEU-9"]}, "no column is called 'BLEU-9'; there are BLEU-1, ROUGE-1, MAE"),
        ({"columns": ["ROUGE-1"]}, "section echovlm has no figures to draw"),
        ({"results": [result(names=tuple(map(str, range(999))))]}, "are too many for one picture"),
        ({"path": "p.xyz"}, "xyz"),
    ],
)
def test_what_cannot_be_drawn_is_said(tmp_path, arguments, complaint):
    arguments = {"results": [result()], "path": "p.png", **arguments}
    with pytest.raises(ValueError, match=complaint):
        draw(**{**arguments, "path": tmp_path / arguments["path"]})
    assert not list(tmp_path.iterdir())


def test_tables_and_pictures_load_nothing_heavy():
    heavy = "{'matplotlib', 'torch', 'nltk', 'scipy'}"
    code = f"import sys, eval.table, eval.picture; print(*{heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
