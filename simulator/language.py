"""What a clinician would write about an examination: report, diagnosis, questions with answers, and requests.

Everything stated follows from the `Examination` and the rules of `readings.py`; the wording is data
(wording/zh.yaml, wording/en.yaml). The order of what is said is fixed, the phrasing is drawn from the
generator: the same generator state gives the same text. Tone and units follow the case studies in the EchoVLM
paper's appendix.

Knows nothing of pixels, files or models.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from simulator.examination import KINDS, ORGANS, SIDED, Examination
from simulator.readings import read_lesion, rules

LANGUAGES = ("zh", "en")
LETTERS = "ABCD"


@dataclass(frozen=True)
class Question:
    """A question about one examination and its true answer.

    `answer_type` is "closed" (the answer is, or starts with, yes/no/是/否 or an option's letter) or "open".
    `about` names the kind of question, as in the wording's `questions`.
    """

    question: str
    answer: str
    answer_type: str
    about: str


def report(exam: Examination, language: str, rng: np.random.Generator) -> str:
    """Findings and impression, under their two headings."""
    text = _Writer(exam, language, rng)
    found = _findings(text)
    impression = text.say(text.wording["impression_normal" if exam.lesion is None else "impression_lesion"])
    return text.wording["report"].format(findings=found, impression=impression)


def findings(exam: Examination, language: str, rng: np.random.Generator) -> str:
    """The findings alone, without their heading: what was seen and measured, and no conclusion."""
    return _findings(_Writer(exam, language, rng))


def _findings(text: _Writer) -> str:
    exam = text.exam
    found = text.say(text.organ["measures"]) + text.gap
    if exam.lesion is None:
        found += text.say(text.organ["absence"])
        if any(view.doppler for view in exam.views):
            found += text.gap + text.say(text.wording["doppler_normal"])
    else:
        found += text.say(text.wording["lesion_sentence"])
        if exam.lesion.vascularity is not None:
            found += text.gap + text.say(text.wording["doppler"])
    return found


def diagnosis(exam: Examination, language: str, rng: np.random.Generator) -> str:
    """The impression alone: organ, lesion and what it is taken for, or that nothing is found."""
    text = _Writer(exam, language, rng)
    return text.say(text.wording["diagnosis_normal" if exam.lesion is None else "diagnosis_lesion"])


def questions(exam: Examination, language: str, rng: np.random.Generator) -> list[Question]:
    """One question of every kind that can be asked of this organ, in the wording's order.

    Questions about a lesion are asked of normal examinations too; their answer says that no lesion is seen.
    """
    return [_ask(about, _Writer(exam, language, rng)) for about in _askable(exam)]


def request(task: str, language: str, rng: np.random.Generator, organ: str | None = None) -> str:
    """How a clinician asks for a "report" or a "diagnosis", naming the organ where one is given."""
    wording = _wording(language)
    if task not in ("report", "diagnosis"):
        raise ValueError(f"there is no request for the task {task!r}; choose report or diagnosis")
    if organ is not None and organ not in ORGANS:
        raise ValueError(f"no organ is called {organ!r}; choose one of {', '.join(ORGANS)}")
    name = wording["words"]["organ"][organ] if organ else ""
    variants = wording["requests"][f"{task}_organ" if organ else task]
    return _sentences(_draw(variants, rng).format(organ=name), language)


class _Writer:
    """Fills the wording of one language with the facts of one examination."""

    def __init__(self, exam: Examination, language: str, rng: np.random.Generator):
        self.exam, self.language, self.rng = exam, language, rng
        self.wording = _wording(language)
        self.organ = self.wording["organs"][exam.organ]
        self.gap = " " if language == "en" else ""
        self.unit = "cm" if rng.random() < rules()["centimetre_share"] else "mm"
        self.slots = self._examination_slots()
        if exam.lesion is not None:
            self.slots |= self._lesion_slots()
            self.slots |= self._reading_slots()
        else:
            self.slots |= {"advice": self.wording["advice"]["routine"], "category": self._category(birads=1)}

    def say(self, variants: list[str], **more: str) -> str:
        """One of the variants, filled. A slot that the examination does not have raises KeyError."""
        return _sentences(_draw(variants, self.rng).format_map(self.slots | more).strip(), self.language)

    def word(self, table: str, key: str) -> str:
        """The word for one value of the schema; an organ may have its own (a plaque's surface)."""
        words = {**self.wording["words"].get(table, {}), **self.organ.get(table, {})}[key]
        return _draw(words, self.rng) if isinstance(words, list) else words

    def lesion(self, kind: str) -> str:
        """ "hypoechoic nodule": what a lesion of this kind is called in this organ."""
        names = self.organ["lesion"]
        return names.get(kind, names["default"]).format(kind=self.word("kind", kind))

    def with_article(self, noun: str) -> str:
        return self.wording["article"]["vowel" if noun[0] in "aeiou" else "other"] + noun

    def length(self, millimetres: float) -> str:
        """Rounded half up to the millimetre, which is also the first decimal of the centimetre."""
        whole = int(millimetres + 0.5)
        number = str(whole) if self.unit == "mm" else f"{whole / 10:.1f}"
        return self.wording["number"][self.unit].format(n=number)

    def _measure(self, name: str, millimetres: float) -> str:
        if name in rules()["one_decimal"]:
            return self.wording["number"]["mm"].format(n=f"{millimetres:.1f}")
        return self.length(millimetres)

    def _examination_slots(self) -> dict[str, str]:
        exam = self.exam
        slots = {name: self._measure(name, value) for name, value in exam.measures.items()}
        slots["organ"] = self.word("organ", exam.organ)
        slots["background"] = self.word("background", exam.background)
        slots["side"] = self.word("side", exam.side) if exam.side else ""
        slots["subject"] = self.organ["subject"].format(side=slots["side"])
        slots["scheme"] = {"thyroid": "ACR TI-RADS", "breast": "BI-RADS"}.get(exam.organ, "")
        return slots

    def _lesion_slots(self) -> dict[str, str]:
        lesion = self.exam.lesion
        name = self.lesion(lesion.kind)
        place = {"place": self.word("place", lesion.place), "side": self.slots["side"]}
        slots = {
            "lesion": name,
            "a_lesion": self.with_article(name),
            "where": self.organ["where"].format(**place),  # names the organ
            "here": self.organ["here"].format(**place),  # in the findings, which named it before
            "size": self.wording["number"]["by"].join(
                self.length(value) for value in (lesion.long_mm, lesion.short_mm)
            ),
            "kind": self.word("kind", lesion.kind),
            "shape": self.word("shape", lesion.shape),
            "margin": self.word("margin", lesion.margin),
            "posterior": self.word("posterior", lesion.posterior),
            "microcalcification": self.word(
                "microcalcification", "present" if lesion.microcalcification else "absent"
            ),
        }
        if lesion.vascularity is not None:
            slots["vascularity"] = self.word("vascularity", lesion.vascularity)
        return slots | {"attributes": self._attributes(slots)}

    def _attributes(self, slots: dict[str, str]) -> str:
        """Margin, posterior feature, microcalcification; some absences are reported in some organs only."""
        lesion, organ = self.exam.lesion, self.exam.organ
        parts = [slots["margin"]]
        if lesion.posterior != "none" or organ in rules()["says_no_posterior_change"]:
            parts.append(slots["posterior"])
        if lesion.microcalcification or organ in rules()["says_no_microcalcification"]:
            parts.append(slots["microcalcification"])
        joints = self.wording["list"]
        *first, last = parts
        return joints["last"].join([joints["comma"].join(first), last]) if first else last

    def _reading_slots(self) -> dict[str, str]:
        reading = read_lesion(self.exam)
        level = reading.tirads or reading.birads
        risk = self.wording["risk"][reading.tirads] if reading.tirads else ""
        words = self.wording["readings"][reading.name]
        return {
            "reading": words.format(tirads=reading.tirads, risk=risk),
            "category": self._category(reading.birads),
            "advice": self.wording["advice"][reading.advice],
            "composition": self.wording["words"]["composition"][reading.composition],
            "level": str(level) if level else "",
        }

    def _category(self, birads: int | None) -> str:
        return self.wording["category"].get(self.exam.organ, "").format(birads=birads)


def _askable(exam: Examination) -> list[str]:
    """The kinds of question that make sense for the organ."""
    left_out = set()
    if exam.organ not in SIDED:
        left_out |= {"side", "side_check"}
    if exam.organ not in ("thyroid", "breast"):
        left_out |= {"risk"}
    if exam.organ in ("vessel", "heart"):
        left_out |= {"composition", "cystic_check"}
    return [about for about in _wording("en")["questions"] if about not in left_out]


def _ask(about: str, text: _Writer) -> Question:
    """Draw the wording of a question, and whether a closed one is to be answered in one word."""
    wording = text.wording["questions"][about]
    short = "ask_short" in wording and text.rng.random() < 0.5
    asked = _ASKED_SLOTS[about](text) if about in _ASKED_SLOTS else {}
    key = _answer_key(about, text.exam, asked)
    question = text.say(wording["ask_short" if short else "ask"], **asked)
    if about.startswith("choose"):
        question = text.wording["options"].format(question=question, **asked)
        answer = asked["letter"] if short else text.say(wording["answers"][key], **asked)
    elif short:
        answer = _sentences(text.wording["yes_no"][key], text.language)
    else:
        answer = text.say(wording["answers"][key], **asked)
    return Question(question, answer, wording["answer_type"], about)


def _offered(organ: str) -> list[str]:
    return [kind for kind in KINDS if kind not in rules()["never_offered"].get(organ, ())]


def _asked_kind(text: _Writer) -> dict[str, str]:
    """The kind a closed question names: the true one half of the time."""
    lesion = text.exam.lesion
    true = lesion.kind if lesion else None
    others = [kind for kind in _offered(text.exam.organ) if kind != true]
    kind = true if true and text.rng.random() < 0.5 else _draw(others, text.rng)
    return {"asked": kind, "asked_lesion": text.with_article(text.lesion(kind))}


def _asked_side(text: _Writer) -> dict[str, str]:
    side = _draw(["left", "right"], text.rng)
    return {"asked": side, "asked_subject": text.organ["subject"].format(side=text.word("side", side))}


def _asked_measure(text: _Writer) -> dict[str, str]:
    name = _draw(list(text.exam.measures), text.rng)
    return {"asked_measure": text.word("measure", name), "asked_length": text.slots[name]}


def _kind_options(text: _Writer) -> dict[str, str]:
    """Three kinds of lesion and "no lesion" in random order; the truth is always among them."""
    lesion = text.exam.lesion
    kinds = [str(kind) for kind in text.rng.permutation(_offered(text.exam.organ))]
    if lesion is not None:
        kinds = [lesion.kind, *(kind for kind in kinds if kind != lesion.kind)]
    nothing = text.wording["questions"]["choose_kind"]["none"]
    words = [text.lesion(kind) for kind in kinds[:3]] + [nothing]
    return _options(words, nothing if lesion is None else words[0], text.rng)


def _organ_options(text: _Writer) -> dict[str, str]:
    others = [organ for organ in ORGANS if organ != text.exam.organ]
    shown = [text.exam.organ, *(str(organ) for organ in text.rng.permutation(others)[:3])]
    words = [text.word("organ", organ) for organ in shown]
    return _options(words, words[0], text.rng)


def _options(words: list[str], true: str, rng: np.random.Generator) -> dict[str, str]:
    shuffled = dict(zip(LETTERS, (words[i] for i in rng.permutation(len(words))), strict=True))
    letter = next(letter for letter, word in shuffled.items() if word == true)
    return shuffled | {"letter": letter, "choice": true}


_ASKED_SLOTS: dict[str, Callable[[_Writer], dict[str, str]]] = {
    "kind_check": _asked_kind,
    "side_check": _asked_side,
    "measure": _asked_measure,
    "choose_kind": _kind_options,
    "choose_organ": _organ_options,
}


def _answer_key(about: str, exam: Examination, asked: dict[str, str]) -> str:
    """Which of the wording's answers is the true one."""
    lesion = exam.lesion
    if about in ("organ", "side", "measure", "choose_kind", "choose_organ"):
        return "any"
    if about in ("lesion", "normal"):
        return "yes" if (lesion is not None) == (about == "lesion") else "no"
    if about == "side_check":
        return "yes" if asked["asked"] == exam.side else "no"
    if lesion is None:
        return "absent"
    if about == "kind":
        return lesion.kind if lesion.kind in ("mixed", "calcified") else "present"
    if about == "vascularity":
        return "unknown" if lesion.vascularity is None else "present"
    checks = {
        "kind_check": asked.get("asked") == lesion.kind,
        "margin_check": lesion.margin == "circumscribed",
        "microcalcification": lesion.microcalcification,
        "cystic_check": lesion.kind == "anechoic",
    }
    return "present" if about not in checks else "yes" if checks[about] else "no"


@cache
def _wording(language: str) -> dict:
    if language not in LANGUAGES:
        raise ValueError(f"there is no wording for the language {language!r}; choose zh or en")
    return yaml.safe_load(
        (Path(__file__).parent / "wording" / f"{language}.yaml").read_text(encoding="utf-8")
    )


def _draw(variants: list[str], rng: np.random.Generator) -> str:
    return variants[int(rng.integers(len(variants)))]


def _sentences(text: str, language: str) -> str:
    """Capitalise the first letter of every English sentence."""
    if language != "en":
        return text
    return re.sub(r"(?:^|(?<=[.?!] ))[a-z]", lambda letter: letter.group().upper(), text)
