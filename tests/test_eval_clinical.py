"""Facts read out of reports by rule: real wording in both languages, negation and its flips, agreement."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from eval.metrics.clinical import Facts, facts

REPORTS = yaml.safe_load((Path(__file__).parent / "fixtures" / "clinical_reports.yaml").read_text("utf-8"))


@pytest.mark.parametrize(
    "report", REPORTS["paper"] + REPORTS["others"], ids=lambda report: report["text"][:40]
)
def test_facts_of_real_wording(report):
    said = dict(report["says"])
    if "size_mm" in said:
        said["size_mm"] = tuple(said["size_mm"])
    assert facts(report["text"]) == Facts(**said)


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


def test_public_captions_read_as_their_anatomy():
    path = Path(__file__).parents[2] / "shared" / "fixtures" / "metrics" / "open_fixture.jsonl"
    if not path.exists():
        pytest.skip("needs the shared fixtures: ../shared/fixtures/metrics/open_fixture.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    named = {"gynecology": "gynaecology"}
    for row in (row for row in rows if row["kind"] in ("report", "diagnosis")):
        anatomy = row["anatomy"].lower()
        assert facts(row["reference"]).organ in (named.get(anatomy, anatomy), None), row["id"]


def test_agreement_counts_only_what_the_reference_states_and_adds_up():
    reference = "甲状腺右叶见一低回声结节。"
    assert agreement(reference, reference) == Counter(
        organ=1, organ_right=1, lesion=1, lesion_right=1, kind=1, kind_right=1
    )
    total = agreement("甲状腺右叶未见明显结节。", reference) + agreement("", "肝脏未见占位。")
    assert total == Counter(organ=2, organ_right=1, lesion=2, kind=1)
    assert agreement("No focal lesion of the liver is seen.", "肝脏未见占位。")["lesion_right"] == 1
    assert not agreement("肝囊肿", "建议复查。")


def test_importing_it_loads_nothing_heavy():
    heavy = ("torch", "nltk", "gradio", "jieba", "simulator")
    script = f"import sys, eval.metrics.clinical; print([name for name in {heavy} if name in sys.modules])"
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"
