"""The language of answers: structures with boxes, then planes, then deductions, then the score.

AbVLM-Q (2025), "Model architecture" and "Scoring Reasoning Layer": key structures are detected first, the
plane follows from them, each deduction is justified and linked to a region of the image, and the score comes
last. The wording is data (answers.yaml). One writer makes the answers that are learned, one reader takes what
a model says, and reading what was written gives back what was known.

Knows nothing of points that are right or wrong (`scoring`), of tokens or of pixels.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

import yaml

from imaging.case import Case
from imaging.planes import ATTENUATION, FAULTS, NON_STANDARD, Planes, PlanesError
from models.boxes import (
    MARKS,
    REF_END,
    REF_START,
    Box,
    BoxReader,
    Canvas,
    NamedBox,
    read_boxes,
    write_box,
    write_boxes,
)

LANGUAGES = ("zh", "en")
STRUCTURES, PLANES, DEDUCTIONS, SCORE = "structures", "planes", "deductions", "score"

_ALIKE = {"（": "[（(]", "）": "[）)]", "(": "[（(]", ")": "[）)]", "，": "[，,]", ",": "[，,]", "−": "[−–-]"}
_SUBJECT = f"{re.escape(REF_START)}(?P<subject>.*?){re.escape(REF_END)}"
_NUMBER = r"\d{1,6}(?:\.\d{1,6})?"
_SEPARATORS = re.compile(r"[\s、；;。.]*")
_UP_TO_SEPARATOR = re.compile(r"[^、；;]+")
_LONGEST_HEADING = 40  # characters; a longer line is none
_LONGEST_DEDUCTION = 1000  # characters; a model that never ends a line must not keep the reader busy
_PERCENT = re.compile(r"(?<![\d.])(\d{1,3}(?:\.\d+)?)\s*[%％]")
_LIST_SIGN = re.compile(r"\s*(?:[-*•]|\d{1,2}[.、)])?\s*")  # models like to number their lines


@dataclass(frozen=True)
class Stated:
    """A deduction as an answer states it.

    `subject` and `fault` are the protocol's keys (see `imaging.planes.Deduction`), or the answer's own words
    where the protocol has none like them. `boxes` are in pixels of the original image.
    """

    subject: str
    fault: str
    points: float
    reason: str = ""
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What an answer says, or what there is to say of a case.

    `planes` are the protocol's keys, or the answer's own words; `score` is the one it states, None for "not
    scored" or none. `judged` tells that it named its deductions to the end, or that the view is not scored.
    """

    boxes: tuple[NamedBox, ...] = ()
    planes: tuple[str, ...] = ()
    deductions: tuple[Stated, ...] = ()
    score: float | None = None
    judged: bool = False


@cache
def wording(language: str) -> dict:
    """The answer's words in "zh" or "en"; ValueError for another language."""
    if language not in LANGUAGES:
        raise ValueError(f"language {language!r} is not one of {', '.join(LANGUAGES)}")
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))[language]


class Names:
    """The protocol's names, from key to word in both languages and back.

    Raises PlanesError for a name that an answer could not hold: over two lines, with a mark in it, or shared
    by two planes, two structures or two faults.
    """

    def __init__(self, protocol: Planes):
        self.protocol = protocol
        structures = {ATTENUATION: protocol.attenuation, **protocol.structures}
        planes = {NON_STANDARD: protocol.non_standard, **{k: p.name for k, p in protocol.planes.items()}}
        grades = {step.key: step.name for step in protocol.attenuation_grades}
        self.subjects = _keys_by_name(structures)
        self.planes = _keys_by_name(planes)
        self.states = _keys_by_name({fault: protocol.states[fault] for fault in FAULTS})
        self.attenuation_grades = _keys_by_name(grades)
        self._grades = grades

    def subject(self, key: str, language: str) -> str:
        """The name of a structure or of attenuation, or the word itself where it is no key."""
        known = key == ATTENUATION or key in self.protocol.structures
        return self.protocol.name(key, language) if known else key

    def plane(self, key: str, language: str) -> str:
        """The name of a plane or of a non-standard view, or the word itself where it is no key."""
        known = key == NON_STANDARD or key in self.protocol.planes
        return self.protocol.name(key, language) if known else key

    def fault(self, subject: str, key: str, language: str) -> str:
        """The name of a structure's state or an attenuation's grade, or the word itself."""
        if subject == ATTENUATION:
            return self._grades[key].text(language) if key in self._grades else key
        return self.protocol.states[key].text(language) if key in FAULTS else key

    def faults_of(self, subject: str) -> Mapping[str, str]:
        """Keys by name of the faults that this subject can have."""
        return self.attenuation_grades if subject == ATTENUATION else self.states


def answer_of(case: Case, protocol: Planes, language: str) -> Answer:
    """What there is to say of a case, with reasons in `language` where the case knows them.

    Structures stand in the protocol's order, whatever the case's: an order that told which view somebody had
    in mind would tell what no picture shows. A deduction's reason is its own "reason", else the cause that
    the case's `structures` name, or the share of the sector that its `attenuation_share` is. Its boxes are
    its own "boxes", else its structure's. Raises ValueError for a case without planes, or whose deductions
    are not the protocol's or do not come to its score.
    """
    if not case.plane or (case.score is None) != (tuple(case.plane) == (NON_STANDARD,)):
        raise ValueError(f"case {case.id}: planes with a score are needed, or {NON_STANDARD} without one")
    order = {key: number for number, key in enumerate(protocol.structures)}
    named = [NamedBox(entry["label"], tuple(entry["box"])) for entry in case.boxes]
    boxes = tuple(sorted(named, key=lambda each: order.get(each.label, len(order))))
    deductions = tuple(_stated(case, entry, boxes, protocol, language) for entry in case.deductions)
    if case.score is not None and abs(protocol.score(deductions) - case.score) > 1e-6:
        raise ValueError(
            f"case {case.id}: score {case.score:g}, but its deductions leave {protocol.score(deductions):g}"
        )
    return Answer(boxes, tuple(case.plane), deductions, case.score, judged=True)


def write(answer: Answer, names: Names, language: str, canvas: Canvas) -> str:
    """The answer in words; boxes in the backbone's units of `canvas`."""
    words = wording(language)
    structures = [
        write_boxes(names.subject(label, language), (named.box for named in group), canvas)
        for label, group in groupby(answer.boxes, lambda named: named.label)
    ]
    planes = words["semicolon"].join(names.plane(key, language) for key in answer.planes)
    lines = [*_section(STRUCTURES, structures, words), _heading(PLANES, words) + planes]
    if answer.score is None:
        return "\n".join([*lines, _heading(SCORE, words) + words["not_scored"]])
    lines += _section(DEDUCTIONS, [_deduction(d, names, language, canvas) for d in answer.deductions], words)
    grade = names.protocol.grade(answer.score).name.text(language)
    highest = f"{names.protocol.highest:g}"
    said = words["score"].format(score=f"{answer.score:g}", highest=highest, grade=grade)
    return "\n".join([*lines, _heading(SCORE, words) + said])


def read(text: str, names: Names, canvas: Canvas) -> tuple[Answer, Counter[str]]:
    """What a finished text says, and how much of it was refused or put right, by reason."""
    reader = AnswerReader(names, canvas)
    reader.feed(text)
    reader.close()
    return reader.answer, reader.counts


def stated_share(reason: str) -> float | None:
    """The share (0 to 1) that a reason names first, as "18%"; None where it names none."""
    match = _PERCENT.search(reason)
    return min(float(match.group(1)) / 100, 1.0) if match else None


class AnswerReader:
    """Reads an answer that comes in pieces cut anywhere; `answer` is what is known so far.

    A box is known with its last mark, everything else with the end of its line. Text before any heading is
    read for structures, so that a model which knows no headings still shows where it looks.

    Counts beside those of `models.boxes`: "deduction" is a line that is none, "score" a score without a
    number, "repeated" a section that came twice (boxes are added up, of planes and score the first counts).
    """

    def __init__(self, names: Names, canvas: Canvas):
        self._names, self._canvas = names, canvas
        self._boxes = BoxReader(canvas)
        self._own = Counter[str]()
        self._found: list[NamedBox] = []
        self._planes: tuple[str, ...] = ()
        self._deductions: list[Stated] = []
        self._score: float | None = None
        self._not_scored = False
        self._line = ""
        self._section = STRUCTURES
        self._sections: list[str] = []
        self._ended = False

    @property
    def answer(self) -> Answer:
        """What is known by now."""
        named = DEDUCTIONS in self._sections and (self._section != DEDUCTIONS or self._ended)
        return Answer(
            tuple(self._found),
            self._planes,
            tuple(self._deductions),
            self._score,
            judged=named or (self._not_scored and self._planes == (NON_STANDARD,)),
        )

    @property
    def counts(self) -> Counter[str]:
        """How much was refused or put right by now, by reason."""
        return self._own + self._boxes.counts

    def feed(self, text: str) -> None:
        """Take the next piece."""
        for character in text:
            if character == "\n":
                self._end_line()
            else:
                self._line += character
                self._begin_section()
            if self._section == STRUCTURES:
                boxes = self._boxes.feed(character)
                self._found += [NamedBox(self._subject_key(named.label), named.box) for named in boxes]

    def close(self, *, cut: bool = False) -> None:
        """The text is over. When it was `cut` in the middle, its last line is not looked at."""
        if not cut:
            self._end_line()
        elif self._section == DEDUCTIONS and self._line.strip():
            self._own["unfinished"] += 1
        self._boxes.close()
        self._ended = not cut

    def _begin_section(self) -> None:
        if self._line[-1] not in "：:" or len(self._line) > _LONGEST_HEADING:
            return
        section = _headings().get(_key(self._line[:-1]))
        if section is None:
            return
        if section != self._section and section in self._sections:
            self._own["repeated"] += 1
        self._section, self._line = section, ""
        self._sections.append(section)

    def _end_line(self) -> None:
        line, self._line = self._line, ""
        if not line.strip(" \t。.；;"):
            return
        if self._section == PLANES and not self._planes:
            self._planes = tuple(self._plane_keys(line))
        elif self._section == DEDUCTIONS:
            self._read_deductions(line)
        elif self._section == SCORE and self._score is None and not self._not_scored:
            self._read_score(line)

    def _plane_keys(self, line: str) -> Iterable[str]:
        """Planes of a line: known names wherever they stand, other words up to the next separator."""
        known = re.compile(rf"(?:{_any_of(self._names.planes)})(?=\s*(?:[、；;。.]|$))", re.IGNORECASE)
        place = _SEPARATORS.match(line).end()
        while place < len(line):
            match = known.match(line, place) or _UP_TO_SEPARATOR.match(line, place)
            word = match.group().strip()
            key = self._names.planes.get(_key(word), word.rstrip("。. "))
            if not _is_none(key):
                yield key
            place = _SEPARATORS.match(line, match.end()).end()

    def _read_deductions(self, line: str) -> None:
        before, *parts = re.split(f"(?={re.escape(REF_START)})", line)
        before = _LIST_SIGN.sub("", before, count=1).strip(" \t。.；;")
        if before and not _is_none(before):
            self._own["deduction"] += 1
        for part in parts:
            stated = self._stated(" ".join(part.strip(" \t。.；;").split()))
            if stated is None:
                self._own["deduction"] += 1
            else:
                self._deductions.append(stated)

    def _stated(self, text: str) -> Stated | None:
        if len(text) > _LONGEST_DEDUCTION:
            return None
        for language in LANGUAGES:
            match = _deduction_pattern(language, *self._fault_words()).fullmatch(text)
            if match:
                break
        else:
            return None
        subject = self._subject_key(match["subject"])
        fault = self._names.faults_of(subject).get(_key(match["fault"]), match["fault"].strip())
        name = f"{REF_START}{match['subject']}{REF_END}"
        boxes, counts = read_boxes(name + match["boxes"], self._canvas)
        self._own += counts
        places = tuple(named.box for named in boxes)
        return Stated(subject, fault, float(match["points"]), (match["reason"] or "").strip(), places)

    def _read_score(self, line: str) -> None:
        if any(_key(wording(language)["not_scored"]) in _key(line) for language in LANGUAGES):
            self._not_scored = True
        elif match := re.search(rf"(?:^\s*[-−])?{_NUMBER}", line):
            self._score = float(match.group().replace("−", "-").replace(" ", ""))
        else:
            self._own["score"] += 1

    def _subject_key(self, name: str) -> str:
        name = " ".join(name.split())
        return self._names.subjects.get(_key(name), name)

    def _fault_words(self) -> tuple[str, ...]:
        return (*self._names.states, *self._names.attenuation_grades)


def _stated(case: Case, entry: Mapping, boxes: Iterable[NamedBox], protocol: Planes, language: str) -> Stated:
    subject, _, fault = entry["item"].rpartition(".")
    known = FAULTS if subject in protocol.structures else [step.key for step in protocol.attenuation_grades]
    if (subject != ATTENUATION and subject not in protocol.structures) or fault not in known:
        raise ValueError(f"case {case.id}: deduction {entry['item']!r} is not in the protocol")
    reason = entry.get("reason") or _reason(case, subject, language)
    own = [tuple(box) for box in entry.get("boxes", ())]
    places = own or [named.box for named in boxes if named.label == subject]
    return Stated(subject, fault, entry["points"], _one_line(reason), tuple(places))


def _reason(case: Case, subject: str, language: str) -> str:
    words = wording(language)
    if subject == ATTENUATION:
        share = case.extra.get("attenuation_share")
        return "" if share is None else words["attenuation"].format(percent=round(100 * share))
    return words["causes"].get(case.extra.get("structures", {}).get(subject, {}).get("cause"), "")


def _one_line(text: str) -> str:
    for mark in MARKS:
        text = text.replace(mark, "")
    return " ".join(text.split())


def _section(section: str, lines: list[str], words: Mapping) -> list[str]:
    if not lines:
        return [_heading(section, words) + words["none"]]
    return [_heading(section, words).rstrip(), *lines]


def _heading(section: str, words: Mapping) -> str:
    return words["headings"][section] + words["colon"]


def _deduction(stated: Stated, names: Names, language: str, canvas: Canvas) -> str:
    words = wording(language)
    return words["deduction"].format(
        subject=write_boxes(names.subject(stated.subject, language), (), canvas),
        fault=names.fault(stated.subject, stated.fault, language),
        reason=words["reason"].format(reason=stated.reason) if stated.reason else "",
        points=f"{stated.points:g}",
        boxes="".join(write_box(box, canvas) for box in stated.boxes),
    )


def _keys_by_name(names: Mapping[str, object]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, name in names.items():
        for language in LANGUAGES:
            word = name.text(language)
            if "\n" in word or "<|" in word:
                raise PlanesError(f"{key}: the name {word!r} must be one line without the signs <|.")
            if found.setdefault(_key(word), key) != key:
                raise PlanesError(f"{key}: the name {word!r} is also that of {found[_key(word)]}.")
    return found


def _key(word: str) -> str:
    """How words are compared: letters in one case, single blanks."""
    return " ".join(word.split()).casefold()


def _is_none(text: str) -> bool:
    return _key(text) in [_key(wording(language)["none"]) for language in LANGUAGES]


@cache
def _headings() -> dict[str, str]:
    return {_key(word): key for each in LANGUAGES for key, word in wording(each)["headings"].items()}


def _any_of(words: Iterable[str]) -> str:
    """A pattern for any of the words, the longest first, so that no name is taken for its own beginning."""
    return "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in sorted(words, key=len, reverse=True))


@cache
def _deduction_pattern(language: str, *faults: str) -> re.Pattern:
    """The template of a deduction, turned round."""
    words = wording(language)
    before, after = words["reason"].split("{reason}")
    groups = {
        "subject": _SUBJECT,
        "fault": f"(?P<fault>{_any_of(faults)}|.+?)",
        "reason": f"(?:{_literal(before)}(?P<reason>.*){_literal(after)})?",
        "points": f"(?P<points>{_NUMBER})",
        "boxes": "(?P<boxes>.*)",
    }
    parts = string.Formatter().parse(words["deduction"])
    pattern = "".join(_literal(text) + (groups[field] if field else "") for text, field, _, _ in parts)
    return re.compile(pattern, re.IGNORECASE)


def _literal(text: str) -> str:
    signs = "".join(r"\s*" if sign.isspace() else _ALIKE.get(sign, re.escape(sign)) for sign in text)
    return rf"\s*{signs}\s*"
