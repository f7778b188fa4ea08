"""Clinical facts read out of a report: what it says is there, and what it denies.

A Chinese or English report or diagnosis is read by rules (clinical.yaml) for what a clinician acts on: organ,
side, lesion or none, its echogenicity and size, RADS category, and findings stated or denied. Negation works
as in NegEx (Chapman et al. 2001): a trigger, its reach, what ends it. What was there and is gone ("no longer
seen", 已消失) is denied; what is doubtful ("probably", "cannot be excluded", 不除外) is stated.

Knows nothing of models, files, the simulator or a second report (`eval.metrics.agreement` compares two). It
knows only the words in clinical.yaml; it does not say which of several lesions a fact belongs to and does
not read margins and shapes.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import yaml

RULES = Path(__file__).with_suffix(".yaml")
_NEAR = 60  # characters in which a size looks back for what it measures
_LISTED = 5  # characters between the sizes of a list: "、", " and "
_CHINESE = re.compile("[一-鿿]")
_KEPT_PART = 400  # characters; longer parts of a sentence hardly come twice
_INVISIBLE = [0xAD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF]  # soft hyphen, zero-width characters
_PATTERNS = (  # of a language in clinical.yaml, each one list
    "sentence_end",
    "part_begins",
    "clause_end",
    "ignore",
    "no_lesion",
    "no_finding",
    "unsaid",
    "uncertain",
    "negations",
    "negation_stops",
    "negated_after",
    "organ_measures",
)


@dataclass(frozen=True)
class Facts:
    """What a text says of its organ and its first lesion described with an echogenicity or a size.

    None where it says nothing. Without a lesion there is no kind and no size.
    """

    organ: str | None = None  # "thyroid" … "heart", as in clinical.yaml
    lesion: bool | None = None
    kind: str | None = None  # "anechoic" … "calcified"
    side: str | None = None  # of the lesion, else of the only side examined; paired organs only
    size_mm: tuple[float, ...] | None = None  # in the order written


@dataclass(frozen=True)
class Statements:
    """Everything a text states, each thing once. Empty where it says nothing."""

    organ: frozenset[str] = frozenset()  # the one it names most often
    side: frozenset[str] = frozenset()  # left, right: of what is seen, else of what is examined; any organ
    lesion: frozenset[bool] = frozenset()  # one verdict: is there a lesion?
    kind: frozenset[str] = frozenset()  # of every lesion
    size: frozenset[tuple[float, ...]] = frozenset()  # of every lesion: diameters in mm, largest first
    rads: frozenset[str] = frozenset()  # "BI-RADS 4A"
    findings: frozenset[tuple[str, bool]] = frozenset()  # ("flow", False): denied


def facts(text: str) -> Facts:
    """Read one report, diagnosis or answer: as Chinese when it holds a Chinese character, else as English."""
    page = _Page(text)
    organ, verdict = _organ(page), _verdict(page)
    if not verdict:
        return Facts(organ, verdict, side=_only_side(page, organ))
    lesion = _lesions(page)[0]
    sizes = _sizes(page, lesion)
    return Facts(organ, True, _kind(page, lesion), _side(page, organ, lesion), sizes[0] if sizes else None)


def statements(text: str) -> Statements:
    """Read everything that a text states, of all its lesions. The language is told as by `facts`.

    A text that neither shows nor denies a lesion ("23 mm", "低回声") gives every size and echogenicity in it.
    """
    page = _Page(text)
    organ, verdict = _organ(page), _verdict(page)
    lesions = _lesions(page) if verdict else []
    if verdict is None:
        kinds = {_brightness(page, hit, 0) for hit in page.hits("kinds") if not hit.denied}
        sizes = [_millimetres(hit.name) for name in ("size", "organ_size") for hit in page.hits(name)]
    else:
        kinds = {_kind(page, lesion) for lesion in lesions} - {None}
        sizes = [size for lesion in lesions for size in _sizes(page, lesion)]
    findings = {(hit.name, not hit.denied) for hit in page.hits("findings")}
    findings |= {(page.rules.normal_means, hit.denied) for hit in page.hits("normal")}
    return Statements(
        organ=frozenset([organ] if organ else []),
        side=_stated_sides(page, organ, lesions),
        lesion=frozenset([] if verdict is None else [verdict]),
        kind=frozenset(kinds),
        size=frozenset(tuple(sorted(size, reverse=True)) for size in sizes),
        rads=frozenset(hit.name for hit in page.hits("rads")),
        findings=frozenset(findings),
    )


def digest() -> str:
    """Eight hex digits that change with the rules."""
    return hashlib.sha256(RULES.read_bytes()).hexdigest()[:8]


class _Hit(NamedTuple):
    """A place in a sentence that a rule speaks of."""

    name: str  # what it is: "thyroid"; of a size its own words
    denied: bool
    start: int
    end: int
    clause: int


class _Lesion(NamedTuple):
    """Where a lesion is first mentioned."""

    sentence: int
    mention: _Hit


class _Page:
    """A text cut into sentences, with what the rules find in each, by family of rules ("kinds")."""

    def __init__(self, text: str):
        language = "zh" if _CHINESE.search(text) else "en"
        self.rules = _rules(language)
        sentences = self.rules.sentence_end.split(text)
        self.sentences = [_sentence(language, each) for each in sentences if each and not each.isspace()]
        self._places: dict[str, list[int]] = {}

    def hits(self, family: str) -> list[_Hit]:
        """All hits of a family, in the order of the text."""
        return [hit for found in self.sentences for hit in found.get(family, ())]

    def stated(self, family: str, sentence: int) -> list[_Hit]:
        """What a sentence states of a family; nothing for a sentence behind the last."""
        found = self.sentences[sentence] if sentence < len(self.sentences) else {}
        return [hit for hit in found.get(family, ()) if not hit.denied]

    def places(self, family: str) -> list[int]:
        """The sentences that state something of a family."""
        if family not in self._places:
            every = range(len(self.sentences))
            self._places[family] = [index for index in every if self.stated(family, index)]
        return self._places[family]


def _organ(page: _Page) -> str | None:
    """The organ named most often; of two named equally often the one named first."""
    named = Counter(hit.name for hit in page.hits("organs"))
    return named.most_common(1)[0][0] if named else None


def _verdict(page: _Page) -> bool | None:
    """Whether there is a lesion; None where the text neither shows nor denies one."""
    if page.places("lesion"):
        return True
    return False if page.hits("lesion") or page.places("normal") else None


def _lesions(page: _Page) -> list[_Lesion]:
    """The first mention in each sentence that describes a lesion; without any, the first mention of one."""
    lesions = [_Lesion(sentence, _mention(page, sentence)) for sentence in page.places("lesion")]
    described = [
        lesion
        for lesion in lesions
        if page.stated("size", lesion.sentence)
        or any(kind.name != "bright" for kind in page.stated("kinds", lesion.sentence))
    ]
    return described or lesions[:1]


def _mention(page: _Page, sentence: int) -> _Hit:
    """Where a sentence first speaks of its lesion: of "strong echo, with shadow, likely a stone" the echo."""
    named = page.stated("lesion", sentence)[0]
    readings = page.stated("reading", sentence)
    if any(word.clause == named.clause and word.start < named.start for word in readings):
        seen = (kind for kind in page.stated("kinds", sentence) if kind.clause < named.clause)
        return next(seen, named)
    return named


def _kind(page: _Page, lesion: _Lesion) -> str | None:
    """The echogenicity stated nearest to the lesion: in its clause, else in its sentence, else after it.

    A calcification in its sentence comes first; a "cyst" is anechoic only where no echogenicity is stated.
    """
    for family in ("kinds", "implied_kinds"):
        here = page.stated(family, lesion.sentence)
        if any(_brightness(page, kind, lesion.sentence) == "calcified" for kind in here):
            return "calcified"
        if here:
            return _brightness(page, min(here, key=partial(_distance, lesion.mention)), lesion.sentence)
        places = page.places(family)
        behind = bisect_right(places, lesion.sentence)
        if behind < len(places):
            return _brightness(page, page.stated(family, places[behind])[0], lesion.sentence)
    return None


def _distance(mention: _Hit, hit: _Hit) -> tuple[bool, int]:
    return hit.clause != mention.clause, abs(hit.start - mention.start)


def _brightness(page: _Page, kind: _Hit, sentence: int) -> str:
    """A "strong echo" is a calcification when the text then speaks of calcium or a shadow."""
    if kind.name != "bright":
        return kind.name
    calcium = page.places("calcium")
    return "calcified" if calcium and calcium[-1] >= sentence else "hyperechoic"


def _side(page: _Page, organ: str | None, lesion: _Lesion) -> str | None:
    """The side of a lesion of a paired organ: named in its sentence, else carried over from before it."""
    family = _sides(page, organ)
    here = _nearest_side(page.stated(family, lesion.sentence), lesion.mention)
    return _one_side(here or _inherited_side(page, organ, family, lesion))


def _nearest_side(named: list[_Hit], hit: _Hit) -> str | None:
    """The side named nearest in the hit's clause, else before it in its sentence, else after it."""
    behind = bisect_left(named, hit.start, key=attrgetter("start"))
    before, after = named[behind - 1 : behind] if behind else [], named[behind : behind + 1]
    own_clause = [side for side in before + after if side.clause == hit.clause]
    return next((side.name for side in own_clause + before + after), None)


def _inherited_side(page: _Page, organ: str | None, family: str, lesion: _Lesion) -> str | None:
    """The side of the last sentence before the lesion's that names one, if it names no other."""
    places = page.places(family)
    behind = bisect_left(places, lesion.sentence)
    if organ not in page.rules.inherits_side or not behind:
        return None
    last = {side.name for side in page.stated(family, places[behind - 1])}
    return last.pop() if len(last) == 1 else None


def _only_side(page: _Page, organ: str | None) -> str | None:
    sides = {side.name for side in page.hits(_sides(page, organ))}
    return _one_side(sides.pop()) if len(sides) == 1 else None


def _one_side(side: str | None) -> str | None:
    return None if side == "both" else side


def _sides(page: _Page, organ: str | None) -> str:
    """The family of rules for the sides of an organ; "" (which finds nothing) for one that has no sides."""
    if organ not in page.rules.sided:
        return ""
    return f"sides.{organ}" if f"sides.{organ}" in page.rules.families else "sides.any"


def _stated_sides(page: _Page, organ: str | None, lesions: list[_Lesion]) -> frozenset[str]:
    """The sides of lesions and of what else is seen; where they have none, every side that is named."""
    named = page.places("laterality")
    if not named:
        return frozenset()
    mentions = {lesion.sentence: [lesion.mention] for lesion in lesions}
    sides = set()
    for sentence in named:
        here = page.stated("laterality", sentence)
        seen = page.stated("findings", sentence) + mentions.get(sentence, [])
        sides |= {_nearest_side(here, hit) for hit in seen}
    if lesions and lesions[0].sentence not in named:
        sides |= {_inherited_side(page, organ, "laterality", lesions[0])} - {None}
    sides = sides or {hit.name for hit in page.hits("laterality")}
    return frozenset({"left", "right"} if "both" in sides else sides)


def _sizes(page: _Page, lesion: _Lesion) -> list[tuple[float, ...]]:
    """The lesion's size in mm, and those listed right behind it ("8×6mm、5×4mm"); empty where none is given.

    Its own sentence first, behind the lesion rather than before it, two diameters rather than one.
    """
    here, mention = page.stated("size", lesion.sentence), lesion.mention
    after = [size for size in here if size.start > mention.start]
    before = [size for size in here if size.start < mention.start and size.clause >= mention.clause - 1]
    for nearest in (after + before[::-1], page.stated("size", lesion.sentence + 1)):
        if nearest:
            together = [min(nearest, key=lambda size: "×" not in size.name)]
            for size in sorted(nearest, key=attrgetter("start")):
                if 0 < size.start - together[-1].end <= _LISTED:
                    together.append(size)
            return [_millimetres(size.name) for size in together]
    return []


@cache
def _numbers() -> tuple[re.Pattern, dict[re.Pattern, float]]:
    """A number with its unit in a size's own words, and what each unit is in mm."""
    units = {re.compile(unit): float(factor) for unit, factor in _data()["units"].items()}
    return re.compile(r"(\d+(?:\.\d+)?)\s*([^\d\s×]*)"), units


def _millimetres(text: str) -> tuple[float, ...]:
    """ "11.7×5.9cm" -> (117.0, 59.0): a number without a unit takes that of the next one that has it."""
    pattern, units = _numbers()
    values: list[float] = []
    factor = 1.0
    for number, unit in reversed(pattern.findall(text)):
        if unit:
            factor = next(value for name, value in units.items() if name.fullmatch(unit))
        values.append(round(float(number) * factor, 2))
    return tuple(reversed(values))


def _sentence(language: str, text: str) -> dict[str, list[_Hit]]:
    """What the rules find in one sentence, by family: in each part of it, and the categories in all of it."""
    rules = _rules(language)
    found: dict[str, list[_Hit]] = {}
    parts, at, clauses = [], 0, 0
    for words in rules.part_begins.split(text):
        part = (_read if len(words) <= _KEPT_PART else _read.__wrapped__)(language, words)
        for family, hits in part.hits.items():
            here = found.setdefault(family, [])
            for name, denied, start, end, clause in hits:
                here.append(_Hit(name, denied, start + at, end + at, clause + clauses))
        parts.append(part.text)
        at += len(part.text)
        clauses += part.clauses
    plain = "".join(parts)
    if "rads" in plain or "tr" in plain:  # every name of a system holds one of them
        found["rads"] = [_Hit(category, False, 0, 0, 0) for category in _categories(rules, plain)]
    return found


class _Part(NamedTuple):
    """A part of a sentence that no negation crosses, read."""

    text: str  # plain
    clauses: int
    hits: dict[str, list[_Hit]]  # by family; places within the part


@lru_cache(16384)
def _read(language: str, words: str) -> _Part:
    """Reports repeat their clauses, so what was read is kept; not to be changed."""
    rules, text = _rules(language), _plain(words)
    layout = _Layout(rules, _blanked(rules.ignore, text))
    return _Part(text, len(layout.clauses), dict(_scan(rules, layout)))


def _scan(rules: _Rules, layout: _Layout) -> Iterator[tuple[str, list[_Hit]]]:
    text = layout.text
    views = {"lesion": _blanked(rules.no_lesion, text), "finding": _blanked(rules.no_finding, text), "": text}
    lesions: list[_Hit] = []
    for name, family in rules.families.items():
        matches = family.any.finditer(views[family.view])
        found = [hit for match in matches for hit in layout.hits(family, match)]
        if found:
            yield name, found
        elif name == "laterality":
            break  # the families behind it are sides too
        if name == "lesion":
            lesions = found
    yield from _sizes_in(rules, layout, [lesion.start for lesion in lesions]).items()


def _sizes_in(rules: _Rules, layout: _Layout, lesions: Sequence[int]) -> dict[str, list[_Hit]]:
    """Every size: "size" of a lesion, "organ_size" of a part of the organ ("portal vein 12 mm").

    A size is the organ's behind a word of organ_measures in its clause, unless a lesion (`lesions`: where
    they start) is named there before it.
    """
    found: dict[str, list[_Hit]] = {}
    for match in rules.size.finditer(layout.text):
        clause = layout.clause(match.start())
        start = layout.clauses[clause]
        last = bisect_left(lesions, match.start()) - 1
        of_lesion = last >= 0 and lesions[last] >= start
        near = max(start, match.start() - _NEAR)
        of_organ = not of_lesion and rules.organ_measures.search(layout.text, near, match.start())
        words = rules.between.sub("×", match.group())
        size = _Hit(words, False, *match.span(), clause)
        found.setdefault("organ_size" if of_organ else "size", []).append(size)
    return found


def _categories(rules: _Rules, text: str) -> Iterator[str]:
    """ "BI-RADS 4A" for every category behind the name of its system, or beside 类 in the same sentence."""
    systems = [
        (match.start(), match.end(), rules.systems.meaning(match)[0])
        for match in rules.systems.any.finditer(text)
    ]
    if not systems:
        return
    for _, end, system in systems:
        match = rules.category.match(text, end)
        if match:
            yield f"{system} {_category(match.group(1))}"
    starts = [start for start, _, _ in systems]
    for match in rules.bare_category.finditer(text):
        system = systems[max(0, bisect_left(starts, match.start()) - 1)][2]
        yield f"{system} {_category(match.group(1))}"


def _category(words: str) -> str:
    """ "iv a" -> "4A"."""
    number, letter = re.fullmatch(r"([0-6ivx]+?)\s?([abc]?)", words).groups()
    return _data()["rads"]["roman"].get(number, number) + letter.upper()


class _Layout:
    """Where the clauses of a part begin, and what in it is denied or left unsaid."""

    def __init__(self, rules: _Rules, text: str):
        self.text, self.rules = text, rules
        self._certain = _blanked(rules.uncertain, text)
        clauses = list(_spans(text, 0, len(text), rules.clause_end))
        self.clauses = [start for start, _ in clauses] or [0]
        reach = clauses if rules.negation_reaches == "clause" else [(0, len(text))]
        self._denied = [span for start, end in reach for span in self._negated(start, end)]
        self._unsaid = [
            (match.start(), end)
            for start, end in clauses
            for match in [rules.unsaid.search(self._certain, start, end)]
            if match
        ]

    def _negated(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """What the negations between start and end reach: each up to its stop. The spans do not overlap."""
        while trigger := self.rules.negations.search(self._certain, start, end):
            stop = self.rules.negation_stops.search(self.text, trigger.end(), end)
            start = stop.start() if stop else end
            yield trigger.start(), start
            start = max(start, trigger.end())

    def clause(self, at: int) -> int:
        """The index of the clause that holds the character `at`."""
        return bisect_right(self.clauses, at) - 1

    def hits(self, family: _Family, match: re.Match) -> Iterator[_Hit]:
        """The match as a hit; nothing where the text says nothing of the patient ("to rule out …")."""
        start, end = match.span()
        if family.view and _within(self._unsaid, start):
            return
        name, denied = family.meaning(match)
        if family.deniable and (
            _within(self._denied, end - 1) or self.rules.negated_after.match(self._certain, end)
        ):
            denied = not denied
        yield _Hit(name, denied, start, end, self.clause(start))


def _within(spans: list[tuple[int, int]], at: int) -> bool:
    """Whether one of the spans, sorted and apart, holds the position."""
    index = bisect_right(spans, at, key=lambda span: span[0]) - 1
    return index >= 0 and at < spans[index][1]


def _spans(text: str, start: int, end: int, ends: re.Pattern) -> Iterator[tuple[int, int]]:
    """The stretches between the marks of `ends`, each with its closing mark; one at the start closes none."""
    for mark in ends.finditer(text, start + 1, end):
        yield start, mark.end()
        start = mark.end()
    if start < end:
        yield start, end


def _blanked(pattern: re.Pattern, text: str) -> str:
    """The text with spaces for what matches; positions stay."""
    return pattern.sub(lambda match: " " * len(match.group()), text)


def _plain(text: str) -> str:
    """NFKC, lower case, simplified characters, nothing invisible."""
    return unicodedata.normalize("NFKC", text).lower().translate(_characters())


@cache
def _characters() -> dict[int, str | None]:
    return str.maketrans(_data()["traditional"]) | dict.fromkeys(_INVISIBLE)


@dataclass(frozen=True)
class _Family:
    """Rules that answer one question (which organ?), found in one pass."""

    any: re.Pattern  # all of them
    names: tuple[tuple[str, bool, re.Pattern], ...]  # name, whether the words themselves deny it, rule
    view: str  # "lesion" reads over no_lesion, "finding" over no_finding, "" over neither
    deniable: bool  # whether a negation before or behind counts

    def meaning(self, match: re.Match) -> tuple[str, bool]:
        """(name, denied by its own words) of a match of `any`."""
        if len(self.names) == 1:
            return self.names[0][:2]
        return next(
            (name, denied) for name, denied, rule in self.names if rule.match(match.string, match.start())
        )


@dataclass(frozen=True)
class _Rules:
    """One language of clinical.yaml, compiled, with what holds for both."""

    sentence_end: re.Pattern
    part_begins: re.Pattern
    clause_end: re.Pattern
    ignore: re.Pattern
    no_lesion: re.Pattern
    no_finding: re.Pattern
    unsaid: re.Pattern
    uncertain: re.Pattern
    negations: re.Pattern
    negation_stops: re.Pattern
    negated_after: re.Pattern
    organ_measures: re.Pattern
    negation_reaches: str
    normal_means: str
    families: dict[str, _Family]
    sided: tuple[str, ...]
    inherits_side: tuple[str, ...]
    size: re.Pattern
    between: re.Pattern
    systems: _Family
    category: re.Pattern
    bare_category: re.Pattern


@cache
def _data() -> dict:
    return yaml.safe_load(RULES.read_text(encoding="utf-8"))


@cache
def _rules(language: str) -> _Rules:
    data, spoken = _data(), _data()[language]
    number, unit, by = r"\d{1,4}(?:\.\d{1,3})?", _either(data["units"]), _either(data["between_diameters"])
    rads = data["rads"]
    return _Rules(
        **{name: re.compile(_either(spoken[name])) for name in _PATTERNS},
        negation_reaches=spoken["negation_reaches"],
        normal_means=spoken["normal_means"],
        families=dict(_families(spoken)),
        sided=tuple(data["sided"]),
        inherits_side=tuple(data["inherits_side"]),
        size=re.compile(
            rf"(?<![\d.]){number}(?:\s*{unit}?\s*{by}\s*{number}){{0,2}}\s*{unit}(?!\s?/|[a-z]|[23](?![\d.]))"
        ),
        between=re.compile(rf"\s*{by}\s*"),
        systems=_family(rads["systems"], deniable=False),
        category=re.compile(rf"(?:{_either(rads['filler'])}){{0,8}}({rads['category']})"),
        bare_category=re.compile(rf"(?<![\da-z.])({rads['category']})\s*{rads['bare']}"),
    )


def _families(spoken: dict) -> Iterator[tuple[str, _Family]]:
    """Every family of a language, by name; the sides behind laterality, which speaks wherever they do."""
    yield "lesion", _family({"lesion": spoken["lesion"]}, "lesion")
    for name in ("kinds", "implied_kinds"):
        yield name, _family(spoken[name], "lesion")
    yield "calcium", _family({"calcium": spoken["calcium"]}, "lesion")
    yield "findings", _family(spoken["findings"], "finding")
    yield "normal", _family({"normal": spoken["normal"]})
    yield "reading", _family({"reading": spoken["reading"]}, deniable=False)
    for name in ("organs", "laterality"):
        yield name, _family(spoken[name], deniable=False)
    for organ, table in spoken["sides"].items():
        yield f"sides.{organ}", _family(table, deniable=False)


def _family(table: dict, view: str = "", *, deniable: bool = True) -> _Family:
    """name -> rules, or name -> {present: rules, absent: rules that deny it in their own words}."""
    names = []
    for name, rules in table.items():
        stated = rules if isinstance(rules, dict) else {"present": rules}
        names += [(name, how == "absent", re.compile(_either(each))) for how, each in stated.items()]
    return _Family(re.compile(_either([rule.pattern for _, _, rule in names])), tuple(names), view, deniable)


def _either(patterns: Iterable[str]) -> str:
    return f"(?:{'|'.join(patterns)})"
