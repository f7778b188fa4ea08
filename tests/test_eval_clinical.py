"""Facts read out of reports by rule: what is stated, denied, doubtful or gone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import clinical
from eval.metrics.clinical import Facts, Statements, facts, statements

REPORTS = yaml.safe_load((Path(__file__).parent / "fixtures" / "clinical_reports.yaml").read_text("utf-8"))
NORMAL = [
    "肝脏回声均匀，未见占位。",
    "胆囊壁不增厚。",
    "未见积液。",
    "门静脉不扩张，未见血栓。",
    "右肾轻度积水。",
]


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


@pytest.mark.parametrize(
    ("doubt", "certain"),
    [
        ("Cannot rule out malignancy.", "No malignancy."),
        ("Malignancy can't be completely excluded.", "Malignancy is excluded."),
        ("Malignancy has not been ruled out.", "Malignancy has been ruled out."),
        ("Unable to exclude malignancy.", "Excludes malignancy."),
        ("No mass, malignancy not excluded.", "No mass, malignancy or cyst."),
        ("Probably malignant.", "Not malignant."),
        ("不能完全排除恶性。", "排除恶性。"),
        ("恶性不除外。", "恶性已除外。"),
        ("不排除恶性。", "无恶性征象。"),
        ("难以排除恶性。", "已除外恶性。"),
        ("未见占位不能排除恶性。", "未见占位及恶性征象。"),
    ],
)
def test_what_cannot_be_excluded_is_stated_in_both_languages(doubt, certain):
    assert ("malignancy", True) in statements(doubt).findings
    assert ("malignancy", False) in statements(certain).findings


@pytest.mark.parametrize(
    ("gone", "there"),
    [
        ("右叶结节已消失。", "右叶结节未消失。"),
        ("原结节本次未显示。", "右叶结节，上次检查未显示。"),
        ("右叶结节伴钙化，本次检查未见显示。", "右叶结节伴钙化，本次检查未见增大。"),
        ("结节已完全吸收。", "结节部分吸收。"),
        ("原结节处未见异常回声。", "原结节处见低回声结节。"),
        ("The nodule is no longer visualized.", "There is no interval change in the nodule."),
        ("The nodule can no longer be seen.", "New nodule not seen on the prior exam."),
        ("The nodule has completely resolved.", "The nodule has partially resolved."),
        ("The nodule that was seen in 2019 has resolved.", "The nodule has not resolved."),
        ("The cyst, seen in 2019, has disappeared.", "The cyst may have disappeared."),
        ("Interval resolution of the cyst.", "Partial resolution of the cyst."),
    ],
)
def test_a_lesion_that_is_gone_is_absent(gone, there):
    assert (facts(gone).lesion, facts(there).lesion) == (False, True)


def test_sides_and_chambers_are_not_confused():
    assert facts("左心室内见高回声团块。").side is None
    assert facts("A hypoechoic mass in the right atrium of the heart.").side is None
    assert facts("肝左叶见低回声结节。").side is None
    assert facts("双侧甲状腺见低回声结节。").side is None


def test_both_languages_know_the_same_names():
    rules = yaml.safe_load(clinical.RULES.read_text("utf-8"))
    for table in ("organs", "kinds", "findings", "laterality", "sides"):
        assert list(rules["zh"][table]) == list(rules["en"][table]), table


TRIGGERS = (
    "左 右 双侧 肝 甲状腺 未见 可见 无 不 占位 结节 钙化 血流信号 强回声 囊 建议 ， 。 ： ； （-） "
    "\n \u200b 😀 𠮷 类 BI-RADS TI-RADS TR4 4a Ⅳ 12 × mm cm ． ３ no without mass cyst in the is not "
    "seen , . : by x left 消失 已 本次 未显示 不能排除 不除外 考虑 加压 闭合 胎心 "
    "cannot be excluded no longer resolved that was likely"
)
WORDS = st.sampled_from(TRIGGERS.split(" "))


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(), st.lists(WORDS, max_size=30).map("".join), st.lists(WORDS, max_size=30).map(" ".join)
    )
)
def test_any_text_is_read(text):
    facts(text)
    said = statements(text)
    assert len(said.organ) <= 1 and len(said.lesion) <= 1 and said.side <= {"left", "right"}
    assert statements(text + "\n" + text).findings == said.findings


@given(st.permutations(NORMAL))
def test_the_order_of_sentences_does_not_change_the_findings(sentences):
    said = statements("".join(sentences))
    assert said.findings == statements("".join(NORMAL)).findings
    assert said.findings == frozenset().union(*(statements(sentence).findings for sentence in NORMAL))
    assert said.side == {"right"} and said.lesion == {False}


class Watched:
    """A pattern that adds up the characters it looks through."""

    characters = 0

    def __init__(self, pattern: re.Pattern):
        self.pattern = pattern

    def search(self, text, start=0, end=None):
        match = self.pattern.search(text, start, len(text) if end is None else end)
        Watched.characters += (match.end() if match else len(text) if end is None else end) - start
        return match

    def match(self, text, start=0):
        match = self.pattern.match(text, start)
        Watched.characters += match.end() - start if match else 1
        return match

    def finditer(self, text, start=0, end=None):
        Watched.characters += (len(text) if end is None else end) - start
        return self.pattern.finditer(text, start, len(text) if end is None else end)

    def split(self, text):
        Watched.characters += len(text)
        return self.pattern.split(text)

    def sub(self, new, text):
        Watched.characters += len(text)
        return self.pattern.sub(new, text)


def watched(value):
    """The rules, or a part of them, with every pattern watched."""
    if isinstance(value, re.Pattern):
        return Watched(value)
    if isinstance(value, clinical._Family):
        return replace(value, any=Watched(value.any))
    if isinstance(value, clinical._Rules):
        return replace(value, **{each.name: watched(getattr(value, each.name)) for each in fields(value)})
    return {name: watched(each) for name, each in value.items()} if isinstance(value, dict) else value


def steps(text: str) -> int:
    """Lines of `clinical` that reading a text runs, and characters that its patterns look through."""
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if frame.f_code.co_filename != clinical.__file__:
            return None
        lines += event == "line"
        return trace

    clinical._read.cache_clear()
    Watched.characters, before = 0, sys.gettrace()
    sys.settrace(trace)
    try:
        facts(text)
        statements(text)
    finally:
        sys.settrace(before)
    return lines + Watched.characters


PIECES = (
    "未见",
    "结节8×6mm。",
    "no mass but a cyst ",
    "no mass ",
    "8mm ",
    "bi-rads 4a类",
    "左结节",
    "散在",
    "1",
)
DOUBTS = ("不能", "结节,本次", "压", "nodule that was ", "cannot be ", "not completely ", "cyst, which ")


@pytest.mark.parametrize("piece", PIECES + DOUBTS)
def test_the_steps_of_reading_grow_with_the_length_of_the_answer(piece, monkeypatch):
    rules = {language: watched(clinical._rules(language)) for language in ("zh", "en")}
    monkeypatch.setattr(clinical, "_rules", rules.get)
    short, long = (steps((piece * 2400)[:length]) for length in (600, 2400))
    assert long < 4.5 * short


def patterns(rules) -> Iterator[str]:
    if isinstance(rules, str):
        yield rules
    elif isinstance(rules, dict | list):
        for each in rules.values() if isinstance(rules, dict) else rules:
            yield from patterns(each)


def test_no_pattern_looks_ahead_without_end():
    """From every place to the end of the text: the square of its length, which `steps` does not see."""
    endless = re.compile(r"(?<!\\)(\.|\[\^[^\]]*\])([*+]|\{\d*,\})")
    rules = list(patterns(yaml.safe_load(clinical.RULES.read_text("utf-8"))))
    assert len(rules) > 500 and [rule for rule in rules if endless.search(rule)] == []
    assert endless.search(r"seen [^,.]*resolved") and not endless.search(r"seen [^,.]{0,60}\.*")


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
    captions = [row for row in rows if row["kind"] in ("report", "diagnosis")]
    assert len({row["anatomy"] for row in captions}) == 7
    for row in captions:
        anatomy = row["anatomy"].lower()
        assert facts(row["reference"]).organ == named.get(anatomy, anatomy), row["id"]


def test_importing_it_loads_nothing_heavy():
    heavy = ("torch", "nltk", "gradio", "jieba", "scipy", "simulator")
    script = f"import sys, eval.metrics.clinical; print([name for name in {heavy} if name in sys.modules])"
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"
