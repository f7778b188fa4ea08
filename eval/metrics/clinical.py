"""Clinical facts read out of a report, and whether two reports agree on them.

Overlap metrics reward a report that says the opposite in the same words ("left" for "right", 可见 for 未见).
Here a Chinese or English report or diagnosis is read by rules (clinical.yaml) for what a clinician acts on:
organ, lesion or none, the lesion's echogenicity, side and size. Negation works as in NegEx (Chapman et al.
2001): a trigger, its reach, what ends it.

Knows nothing of models, files or the simulator: any report will do. Of several lesions it reads the first one
described with an echogenicity or a size, and it knows only the words in clinical.yaml.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

ASPECTS = ("organ", "lesion", "kind")


@dataclass(frozen=True)
class Facts:
    """What a text says; None where it says nothing. Without a lesion there is no kind and no size."""

    organ: str | None = None  # "thyroid" … "heart", as in clinical.yaml
    lesion: bool | None = None
    kind: str | None = None  # "anechoic" … "calcified"
    side: str | None = None  # of the lesion, else of the only side examined
    size_mm: tuple[float, ...] | None = None  # in the order written


def facts(text: str) -> Facts:
    """Read one report, diagnosis or answer: as Chinese when it holds a Chinese character, else as English."""
    rules = _rules("zh" if re.search(r"[一-鿿]", text) else "en")
    page = _Page(text, rules)
    organ = _organ(page)
    mentions = page.find("lesion")
    present = [mention for mention in mentions if not mention.negated]
    if not present:
        normal = bool(mentions) or any(not mention.negated for mention in page.find("normal"))
        return Facts(organ, False if normal else None, side=_only_side(page, organ))
    described = {mention.sentence for _, mention in _stated_kinds(page)}
    described |= {size.sentence for size in page.find("size")}
    lesion = next((mention for mention in present if mention.sentence in described), present[0])
    return Facts(organ, True, _kind(page, lesion), _side(page, organ, lesion), _size(page, lesion))


def agreement(prediction: str, reference: str) -> Counter[str]:
    """For each of ASPECTS that the reference states: `{aspect: 1, aspect + "_right": 0 or 1}`.

    Counters add up: the accuracy over a test set is total[aspect + "_right"] / total[aspect]. A prediction
    that says nothing about an aspect is wrong on it.
    """
    predicted, true = facts(prediction), facts(reference)
    counts: Counter[str] = Counter()
    for aspect in ASPECTS:
        if getattr(true, aspect) is not None:
            counts[aspect] += 1
            counts[f"{aspect}_right"] += getattr(predicted, aspect) == getattr(true, aspect)
    return counts


@dataclass(frozen=True)
class _Mention:
    start: int
    end: int
    sentence: int
    clause: int
    negated: bool
    text: str


class _Page:
    """A text cut into sentences and clauses, with what its negations reach."""

    def __init__(self, text: str, rules: dict[str, re.Pattern]):
        text = unicodedata.normalize("NFKC", text)
        self.text = rules["ignore"].sub(lambda match: " " * len(match.group()), text)
        self.rules = rules
        self.sentences = list(_spans(self.text, 0, len(self.text), rules["sentence_end"]))
        self.clauses = [
            clause for span in self.sentences for clause in _spans(self.text, *span, rules["clause_end"])
        ]
        reach = self.clauses if rules["negation_reaches"] == "clause" else self.sentences
        self.negated = [span for start, end in reach for span in self._negated_spans(start, end)]

    def _negated_spans(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        for trigger in self.rules["negations"].finditer(self.text, start, end):
            stop = self.rules["negation_stops"].search(self.text, trigger.end(), end)
            yield trigger.start(), stop.start() if stop else end

    def find(self, rule: str) -> list[_Mention]:
        """Every match of the named rule, in the order of the text."""
        mentions = []
        for match in self.rules[rule].finditer(self.text):
            start, end = match.span()
            clause = next((i for i, span in enumerate(self.clauses) if span[0] <= start < span[1]), -1)
            sentence = next((i for i, span in enumerate(self.sentences) if span[0] <= start < span[1]), -1)
            negated = any(a <= start < b for a, b in self.negated) or bool(
                self.rules["negated_after"].match(self.text, end)
            )
            mentions.append(_Mention(start, end, sentence, clause, negated, match.group()))
        return mentions


def _organ(page: _Page) -> str | None:
    """The organ named most often; of two named equally often the one named first."""
    found = {organ: page.find(f"organs.{organ}") for organ in page.rules["organs"]}
    named = {organ: (-len(mentions), mentions[0].start) for organ, mentions in found.items() if mentions}
    return min(named, key=named.__getitem__) if named else None


def _stated_kinds(page: _Page, table: str = "kinds") -> list[tuple[str, _Mention]]:
    """Every echogenicity that the text gives and does not deny, of the lesion or of anything else."""
    return [
        (kind, mention)
        for kind in page.rules[table]
        for mention in page.find(f"{table}.{kind}")
        if not mention.negated
    ]


def _kind(page: _Page, lesion: _Mention) -> str | None:
    """The echogenicity stated nearest to the lesion: in its clause, else in its sentence, else after it.

    A "strong echo" is a calcification when the text speaks of calcium or a shadow, else it is hyperechoic; a
    "cyst" counts as anechoic only where no echogenicity is stated.
    """
    calcium = any(not m.negated and m.sentence >= lesion.sentence for m in page.find("calcium"))
    bright = [("calcified" if calcium else "hyperechoic", m) for m in page.find("bright") if not m.negated]
    for stated in (_stated_kinds(page) + bright, _stated_kinds(page, "implied_kinds")):
        stated = [(kind, mention) for kind, mention in stated if mention.sentence >= lesion.sentence]
        if any(kind == "calcified" and mention.sentence == lesion.sentence for kind, mention in stated):
            return "calcified"
        if stated:
            return min(stated, key=lambda found: _distance(found[1], lesion))[0]
    return None


def _distance(mention: _Mention, lesion: _Mention) -> tuple[bool, bool, int]:
    return (
        mention.clause != lesion.clause,
        mention.sentence != lesion.sentence,
        abs(mention.start - lesion.start),
    )


def _side(page: _Page, organ: str | None, lesion: _Mention) -> str | None:
    """The side named in the lesion's clause, else in its sentence, else carried over from before it."""
    named = _sides(page, organ)
    here = [(side, mention) for side, mention in named if mention.sentence == lesion.sentence]
    if here:
        return _one_side(min(here, key=lambda found: _belonging(found[1], lesion))[0])
    earlier = [(side, mention.sentence) for side, mention in named if mention.sentence < lesion.sentence]
    if organ not in page.rules["inherits_side"] or not earlier:
        return None
    last = {side for side, sentence in earlier if sentence == earlier[-1][1]}
    return _one_side(last.pop()) if len(last) == 1 else None


def _belonging(side: _Mention, lesion: _Mention) -> tuple[bool, bool, int]:
    return side.clause != lesion.clause, side.start > lesion.start, abs(side.start - lesion.start)


def _only_side(page: _Page, organ: str | None) -> str | None:
    sides = {side for side, _ in _sides(page, organ)}
    return _one_side(sides.pop()) if len(sides) == 1 else None


def _one_side(side: str) -> str | None:
    return None if side == "both" else side


def _sides(page: _Page, organ: str | None) -> list[tuple[str, _Mention]]:
    """Every side named, in the order of the text; nothing for an organ that has no sides."""
    if organ not in page.rules["sided"]:
        return []
    rule = organ if f"sides.{organ}.left" in page.rules else "any"
    named = [(side, m) for side in ("left", "right", "both") for m in page.find(f"sides.{rule}.{side}")]
    return sorted(named, key=lambda found: found[1].start)


def _size(page: _Page, lesion: _Mention) -> tuple[float, ...] | None:
    """The size that belongs to the lesion, in mm: its own sentence first, two diameters rather than one."""
    sizes = page.find("size")
    here = [size for size in sizes if size.sentence == lesion.sentence]
    after = [size for size in here if size.start > lesion.start]
    before = [size for size in here if size.start < lesion.start and size.clause >= lesion.clause - 1]
    next_sentence = [size for size in sizes if size.sentence == lesion.sentence + 1]
    for nearest in (after + before[::-1], next_sentence):
        for size in sorted(nearest, key=lambda size: not re.search("[×x*]", size.text)):
            return _millimetres(size.text, page.rules)
    return None


def _millimetres(text: str, rules: dict) -> tuple[float, ...]:
    """ "11.7×5.9cm" -> (117.0, 59.0): a number without a unit takes that of the next one that has it."""
    values: list[float] = []
    factor = 1.0
    numbers = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z毫厘米]*)", text.lower().replace("x", "×"))
    for number, unit in reversed(numbers):
        if unit:
            factor = next(value for name, value in rules["units"].items() if re.fullmatch(name, unit))
        values.append(round(float(number) * factor, 2))
    return tuple(reversed(values))


def _spans(text: str, start: int, end: int, ends: re.Pattern) -> Iterator[tuple[int, int]]:
    """The stretches between the marks of `ends`, each with its closing mark."""
    for mark in ends.finditer(text, start, end):
        yield start, mark.end()
        start = mark.end()
    if start < end:
        yield start, end


@cache
def _rules(language: str) -> dict:
    """One language of clinical.yaml, compiled: "kinds.anechoic" -> pattern; "kinds" -> its names."""
    data = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    rules = {key: data[key] for key in ("units", "sided", "inherits_side")}
    number, unit = r"\d+(?:\.\d+)?", f"(?:{'|'.join(data['units'])})"
    rules["size"] = re.compile(rf"{number}(?:\s*{unit}?\s*[×x*]\s*{number}){{0,2}}\s*{unit}(?![a-z/])", re.I)
    return rules | dict(_compiled("", data[language]))


def _compiled(prefix: str, table: dict) -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if isinstance(value, list):
            yield prefix + name, re.compile("|".join(f"(?:{pattern})" for pattern in value), re.I)
        else:
            yield prefix + name, value
            if isinstance(value, dict):
                yield from _compiled(f"{prefix}{name}.", value)
