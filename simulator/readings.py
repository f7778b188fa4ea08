"""What a lesion's parameters mean clinically: ACR TI-RADS level, BI-RADS category, reading and advice.

The rules are data (wording/readings.yaml, with their sources): a sonographer can review them without Python.

Knows nothing of language: it answers with the keys whose words stand in wording/zh.yaml and wording/en.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from simulator.examination import Examination, Lesion


@dataclass(frozen=True)
class Reading:
    """The keys of one lesion's reading; `tirads` (1-5) is for the thyroid, `birads` (2-5) the breast."""

    name: str
    advice: str
    composition: str
    tirads: int | None = None
    birads: int | None = None


@cache
def rules() -> dict:
    """wording/readings.yaml, read once."""
    return yaml.safe_load((Path(__file__).parent / "wording" / "readings.yaml").read_text(encoding="utf-8"))


def read_lesion(exam: Examination) -> Reading | None:
    """The reading of the examination's lesion, None when there is none."""
    lesion = exam.lesion
    if lesion is None:
        return None
    tirads = tirads_level(lesion) if exam.organ == "thyroid" else None
    birads = birads_category(lesion) if exam.organ == "breast" else None
    known = {**vars(lesion), "tirads": tirads, "birads": birads}
    rule = next(rule for rule in rules()["readings"][exam.organ] if _holds(rule["when"], known))
    return Reading(
        name=rule["reading"],
        advice=rule.get("advice") or _category_advice(lesion, tirads, birads),
        composition=rules()["composition"][lesion.kind],
        tirads=tirads,
        birads=birads,
    )


def tirads_level(lesion: Lesion) -> int:
    """ACR TI-RADS level, 1 (benign) to 5 (highly suspicious), from the sum of the lexicon's points."""
    points = rules()["tirads"]["points"]
    total = points["kind"][lesion.kind]
    total += points["taller_than_wide"] * (lesion.shape == "taller_than_wide")
    total += points["irregular_or_spiculated"] * (
        lesion.shape == "irregular" or lesion.margin == "spiculated"
    )
    total += points["microcalcification"] * lesion.microcalcification
    return _step(rules()["tirads"]["levels"], total)


def birads_category(lesion: Lesion) -> int:
    """BI-RADS category of a breast lesion, 2 (benign) to 5 (highly suggestive of malignancy)."""
    points = rules()["birads"]["points"]
    suspicious_shadow = lesion.posterior == "shadow" and lesion.kind != "calcified"
    present = {
        lesion.shape,
        lesion.margin,
        "shadow" if suspicious_shadow else "",
        "microcalcification" if lesion.microcalcification else "",
    }
    total = sum(value for feature, value in points.items() if feature in present)
    return _step(rules()["birads"]["categories"][lesion.kind], total)


def _step(steps: list[list[int]], total: int) -> int:
    return next(value for least, value in steps if total >= least)


def _holds(when: dict, known: dict) -> bool:
    return all(
        known[key] in expected if isinstance(expected, list) else known[key] == expected
        for key, expected in when.items()
    )


def _category_advice(lesion: Lesion, tirads: int | None, birads: int | None) -> str:
    if birads is not None:
        return rules()["birads"]["advice"][birads]
    for level, least_mm, advice in rules()["tirads"]["advice"]:
        if level == tirads and lesion.long_mm >= least_mm:
            return advice
    return "none"
