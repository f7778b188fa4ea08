"""Ask a report what the templates ask, and let the report answer.

EchoVLM (2025), Method, "Instruction-Tuning Data Generation Pipeline": questions from open- and closed-ended
templates, answers "derived from real ultrasound reports". The paper lets a language model vary the questions
and write open answers; here the variants are data (templates.yaml) and every answer, open ones too, is the
report's own words, so that nothing can be invented.

A template applies where the report states what it asks: said in a clause, not denied, not doubted, not of
the past, not of another organ, and not contradicted elsewhere, not even by what is only possible. In doubt
it does not apply.

Knows nothing of images and of what they truly show: a wrong report gives wrong answers. Sentences beyond
the patterns of templates.yaml are not understood; they are only quoted.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from imaging.case import LANGUAGES, Case

SITES = ("named", "unnamed", "both")
ANSWERS = ("section", "fact", "choice", "value", "quote")
LETTERS = "ABCD"


class TemplateError(ValueError):
    """A template that cannot be used; the message names the file, the template and the key."""


@dataclass(frozen=True)
class Report:
    """The report of one examination, in one language, and whose it is. `name` begins the ids made of it."""

    name: str
    images: tuple[str | Path, ...]
    language: str
    findings: str = ""
    impression: str = ""
    organ: str | None = None
    patient: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def reports_of(cases: Iterable[Case]) -> list[Report]:
    """The reports in a set of cases: one an examination (the same images) and language, in order.

    A case of the task "report" holds findings and impression under their headings, or in its extra keys
    `findings` and `impression`; one of "diagnosis" the impression. What the first says stays.
    """
    found: dict[tuple, Report] = {}
    for case in cases:
        if case.task not in ("report", "diagnosis") or not case.answer or case.language not in LANGUAGES:
            continue
        findings, impression = _sections(case)
        key = (case.images, case.language)
        known = found.get(key)
        found[key] = Report(
            name=known.name if known else case.id,
            images=case.images,
            language=case.language,
            findings=(known.findings if known else "") or findings,
            impression=(known.impression if known else "") or impression,
            organ=case.organ,
            patient=case.patient,
            extra=case.extra,
        )
    return list(found.values())


def instances(
    reports: Iterable[Report], *, seed: int = 0, site: str = "both", most: int | None = None
) -> Iterator[Case]:
    """Every template that applies to every report, as cases.

    `site` is LLaVA-Ultra's two versions (2024, section 4.2): the question names the site, or it does not
    and a template that gives it away is left out; "both" draws one for each question. `most` keeps a random
    choice of so many an examination. The wording depends on seed, report and template only.
    """
    if site not in SITES:
        raise ValueError(f"site {site!r} is not one of {', '.join(SITES)}")
    for report in reports:
        chance = random.Random(f"{seed}/{report.name}")
        drawn = [case for name in templates() if (case := ask(name, report, seed=seed, site=site))]
        if most is not None and len(drawn) > most:
            drawn = [drawn[i] for i in sorted(chance.sample(range(len(drawn)), most))]
        yield from drawn


def ask(name: str, report: Report, *, seed: int = 0, site: str = "both") -> Case | None:
    """The case that the template `name` makes of `report`, or None where it does not apply."""
    template = templates()[name]
    if template["organs"] != "all" and report.organ not in template["organs"]:
        return None
    chance = random.Random(f"{seed}/{report.name}/{name}")
    named = site == "named" or (site == "both" and chance.random() < 0.5)
    for fact, value in template.get("needs", {}).items():
        if stated(fact, report) != value:
            return None
    wordings = template[report.language]
    if site == "unnamed":
        wordings = [wording for wording in wordings if not gives_site_away(wording, report.language)]
        if not wordings:
            return None
    question = chance.choice(wordings)
    if named and not gives_site_away(question, report.language):
        question = _with_site(question, report)
    answered = _ANSWERED[_kind(template)](template["answer"], question, report, chance)
    if answered is None:
        return None
    question, answer = answered
    return Case(
        id=f"{report.name}-{name}",
        images=report.images,
        question=question,
        answer=answer,
        organ=report.organ,
        language=report.language,
        task=template.get("task", "vqa"),
        answer_type=template["answer_type"],
        patient=report.patient,
        extra={"template": f"{name}/{report.language}", "examination_id": report.name},
    )


def stated(fact: str, report: Report) -> str | None:
    """The value of a fact of templates.yaml that the report states, or None: not stated, or two values."""
    return _evidence(fact, report)[0]


# ---- reading a report -------------------------------------------------------------------------------------


def _sections(case: Case) -> tuple[str, str]:
    """Findings and impression of a case."""
    if isinstance(case.extra.get("findings"), str):
        return case.extra["findings"].strip(), str(case.extra.get("impression") or "").strip()
    if case.task == "diagnosis":
        return "", case.answer.strip()
    return split_report(case.answer, case.language)


def split_report(text: str, language: str) -> tuple[str, str]:
    """Findings and impression by their headings at the beginning of lines; all is findings without any."""
    parts = {"findings": "", "impression": ""}
    pieces = re.split(rf"(?im)^\s*({_any_heading(language)})\s*[:：]", text)
    if len(pieces) == 1:
        return text.strip(), ""
    parts["findings"] = pieces[0].strip()
    for heading, body in zip(pieces[1::2], pieces[2::2], strict=True):
        section = _heading_sections(language)[heading.lower()]
        parts[section] = f"{parts[section]}\n{body.strip()}".strip()
    return parts["findings"], parts["impression"]


def _evidence(fact: str, report: Report) -> tuple[str | None, str]:
    """The value of a fact and the sentence that states it."""
    rules, described = _rules(report.language).facts[fact], _data()["facts"][fact]
    reading = _rules(report.language)
    found: dict[str, str] = {}
    doubted: set[str] = set()
    sentences = _sentences(report)
    starts = _about_lesion(sentences, reading) if described.get("of_lesion") else [0] * len(sentences)
    places = _places(sentences, report if described.get("of_organ") else replace(report, organ=None))
    for sentence, start, place in zip(sentences, starts, places, strict=True):
        if start is None or reading.past.search(sentence):
            continue
        for value, certain in _values_in(rules, sentence, start, reading, place):
            if certain:
                found.setdefault(value, sentence)
            else:
                doubted.add(value)
    wins = described.get("wins")
    value = wins if wins in found else next(iter(found)) if len(found) == 1 else None
    if value != wins and doubted - {value}:
        return None, ""
    return value, found.get(value, "")


def _about_lesion(sentences: Sequence[str], reading: _Rules) -> list[int | None]:
    """Where in each sentence it begins to be about a lesion: at its name, or at once in sentences that go on
    about it ("It was oval"); None where it is not. An organ has margins and blood flow, too."""
    starts: list[int | None] = []
    for sentence in sentences:
        named = [hit for hit in reading.lesion.finditer(sentence) if _is_stated(hit, sentence, reading)]
        goes_on = bool(starts and starts[-1] is not None and reading.goes_on.match(sentence))
        starts.append(named[0].start() if named else 0 if goes_on else None)
    return starts


def _is_stated(hit: re.Match, sentence: str, reading: _Rules) -> bool:
    """Named in a sentence that is not of the past, and in its clause neither denied nor doubted before."""
    clause = max((end.end() for end in reading.clause_end.finditer(sentence, 0, hit.start())), default=0)
    if reading.past.search(sentence) or reading.unclear.search(sentence, clause, hit.start()):
        return False
    denials = reading.denials.finditer(sentence)
    return not any(
        denial.end() <= hit.start() and not reading.clause_end.search(sentence, denial.end(), hit.start())
        for denial in denials
    )


@dataclass(frozen=True)
class _Place:
    """Where in a sentence the organ itself is named (False) and where another is (True), by position; and
    whether the sentence goes on about another."""

    marks: tuple[tuple[int, bool], ...]
    carried: bool

    def elsewhere(self, at: int, clause: tuple[int, int]) -> bool:
        """True where what stands at `at`, inside the clause, belongs to another organ: by what is named
        before it in the clause, else after it, else before the clause."""
        before = [other for place, other in self.marks if clause[0] <= place <= at]
        after = [other for place, other in self.marks if at < place < clause[1]]
        earlier = [other for place, other in self.marks if place < clause[0]]
        return before[-1] if before else after[0] if after else earlier[-1] if earlier else self.carried


def _places(sentences: Sequence[str], report: Report) -> list[_Place]:
    reading = _rules(report.language)
    words = reading.anatomy.get(report.organ)
    places: list[_Place] = []
    away = False
    for sentence in sentences:
        marks = (
            [(hit.start(), other) for other in (False, True) for hit in words[other].finditer(sentence)]
            if words
            else []
        )
        away = away and bool(reading.goes_on.match(sentence))
        places.append(_Place(tuple(sorted(marks)), away))
        away = max(marks)[1] if marks else away
    return places


def _values_in(
    rules: Mapping[str, dict[str, list]], sentence: str, start: int, reading: _Rules, place: _Place
) -> Iterator[tuple[str, bool]]:
    """The values that one sentence states from `start` on; False with what is only possible or another
    organ's."""
    part = sentence[start:]
    at = 0
    for clause in _clauses(part, reading):
        at = part.index(clause, at)
        span = start + at, start + at + len(clause)
        before = part[:at] if reading.reach == "sentence" else ""
        unclear = reading.unclear.search(clause)
        for value, ways in rules.items():
            for way, patterns in ways.items():
                for hit in (hit for pattern in patterns for hit in pattern.finditer(clause)):
                    said = _said(hit, before, clause, reading)
                    elsewhere = place.elsewhere(span[0] + hit.start(), span)
                    if said == way and not unclear and not elsewhere:
                        yield value, True
                    elif way == "stated" and (said == way or (said == "unclear" and elsewhere)):
                        yield value, False


def _said(hit: re.Match, before: str, clause: str, reading: _Rules) -> str:
    """ "stated", "denied", or "unclear" where it cannot be told how far a denial reaches."""
    start = len(before) + hit.start()
    ends = [denial.end() for denial in reading.denials.finditer(before + clause) if denial.end() <= start]
    if ends:
        between = (before + clause)[ends[-1] : start]
        return "unclear" if reading.breaks.search(between) else "denied"
    return "denied" if reading.denied_after.search(clause, hit.end()) else "stated"


def _sentences(report: Report, sections: Sequence[str] = ("findings", "impression")) -> list[str]:
    end = _rules(report.language).sentence_end
    texts = [getattr(report, section) for section in sections]
    return [piece.strip() for text in texts for piece in end.split(text) if piece.strip()]


def _clauses(sentence: str, reading: _Rules) -> list[str]:
    return [piece for piece in reading.clause_end.split(sentence) if piece.strip()]


# ---- answers ----------------------------------------------------------------------------------------------

Answered = tuple[str, str] | None  # the question as it is asked, and its answer


def _section(answer: Mapping, question: str, report: Report, chance: random.Random) -> Answered:
    headings = _data()["reading"][report.language]["headings"]
    parts = {"findings": report.findings, "impression": report.impression}
    if answer["section"] != "report":
        return (question, parts[answer["section"]]) if parts[answer["section"]] else None
    if not all(parts.values()):
        return None
    colon = "：" if report.language == "zh" else ": "
    lines = [f"{headings[part][0].capitalize()}{colon}{text}" for part, text in parts.items()]
    return question, "\n".join(lines)


def _fact(answer: Mapping, question: str, report: Report, chance: random.Random) -> Answered:
    value, sentence = _evidence(answer["fact"], report)
    if value is None:
        return None
    polar, language = _data()["polar"], report.language
    word = polar["words"][language][value]
    if chance.random() < 0.5:
        return polar["short_request"][language].format(question=question), polar["short_answer"][
            language
        ].format(word=word)
    return question, polar["answer"][language].format(word=word, quote=sentence)


def _choice(answer: Mapping, question: str, report: Report, chance: random.Random) -> Answered:
    value = stated(answer["choice"], report)
    if value is None:
        return None
    words = _data()["facts"][answer["choice"]]["words"][report.language]
    others = chance.sample([word for key, word in words.items() if key != value], len(LETTERS) - 1)
    options = dict(zip(LETTERS, chance.sample([words[value], *others], len(LETTERS)), strict=True))
    letter = next(letter for letter, word in options.items() if word == words[value])
    wording = _data()["choice"]
    return (
        wording["options"][report.language].format(question=question, **options),
        wording["answer"][report.language].format(letter=letter, word=words[value]),
    )


def _value(answer: Mapping, question: str, report: Report, chance: random.Random) -> Answered:
    reading = _rules(report.language)
    patterns = reading.values[answer["value"]]
    of_organ = _data()["values"][answer["value"]].get("of_organ")
    sentences = _sentences(report)
    places = _places(sentences, report if of_organ else replace(report, organ=None))
    found: dict[str, str] = {}
    for sentence, place in zip(sentences, places, strict=True):
        if reading.past.search(sentence):
            continue
        for hit in (hit for pattern in patterns for hit in pattern.finditer(sentence)):
            if not _is_certain(hit, sentence, reading, place):
                return None
            found[re.sub(r"\s+", "", hit["value"]).lower()] = hit["value"].strip()
    if len(found) != 1:
        return None
    return question, answer[report.language].format(value=next(iter(found.values())))


def _is_certain(hit: re.Match, sentence: str, reading: _Rules, place: _Place) -> bool:
    """False for a value in a doubtful clause, with another value behind it, or of another organ."""
    ends = [0, *(end.end() for end in reading.clause_end.finditer(sentence)), len(sentence)]
    clause = (
        max(end for end in ends if end <= hit.start()),
        min(end for end in ends if end >= hit.end("value")),
    )
    if reading.doubtful.search(sentence, *clause) or reading.another.match(sentence, hit.end("value")):
        return False
    return not place.elsewhere(hit.start(), clause)


def _quote(answer: Mapping, question: str, report: Report, chance: random.Random) -> Answered:
    reading = _rules(report.language)
    rule = _data()["quotes"][answer["quote"]]
    sentences = _sentences(report, rule["sections"])
    if rule.get("of_lesion"):
        starts = _about_lesion(sentences, reading)
        sentences = [one for one, start in zip(sentences, starts, strict=True) if start is not None]
    else:
        patterns = reading.quotes[answer["quote"]]
        sentences = [sentence for sentence in sentences if any(p.search(sentence) for p in patterns)]
    if not sentences:
        return None
    stop, gap = ("。", "") if report.language == "zh" else (".", " ")
    ended = (one if one[-1] in "?？" else one + stop for one in dict.fromkeys(sentences))
    return question, gap.join(ended)


_ANSWERED = {"section": _section, "fact": _fact, "choice": _choice, "value": _value, "quote": _quote}


def _with_site(question: str, report: Report) -> str:
    """The question with the site in front, where the site is one of the seven."""
    organ = _data()["organs"].get(report.organ)
    if organ is None:
        return question
    cue = _data()["site_cue"][report.language]
    return cue.format(organ=organ[report.language]["name"], question=question)


# ---- the data ---------------------------------------------------------------------------------------------


def templates() -> dict[str, dict]:
    """The templates of templates.yaml by name."""
    return _data()["templates"]


def gives_site_away(question: str, language: str) -> bool:
    """True where a question holds a word that only one of the organs is asked with."""
    low = question.lower()
    organs = _data()["organs"].values()
    return any(word.lower() in low for organ in organs for word in organ[language]["words"])


@dataclass(frozen=True)
class _Rules:
    """The patterns of one language, compiled."""

    sentence_end: re.Pattern
    clause_end: re.Pattern
    denials: re.Pattern
    breaks: re.Pattern
    denied_after: re.Pattern
    unclear: re.Pattern
    doubtful: re.Pattern
    another: re.Pattern
    past: re.Pattern
    goes_on: re.Pattern
    lesion: re.Pattern
    reach: str
    anatomy: Mapping[str, tuple[re.Pattern, re.Pattern]]  # the organ's own words, and other organs'
    facts: Mapping[str, Mapping[str, dict[str, list[re.Pattern]]]]
    values: Mapping[str, list[re.Pattern]]
    quotes: Mapping[str, list[re.Pattern]]


@cache
def _rules(language: str) -> _Rules:
    data = _data()
    reading = data["reading"][language]

    def compiled(patterns: Iterable[str]) -> list[re.Pattern]:
        return [re.compile(_written_out(pattern, language), re.I) for pattern in patterns]

    facts = {
        name: {
            value: {way: compiled(patterns) for way, patterns in ways.items()}
            for value, ways in fact[language].items()
        }
        for name, fact in data["facts"].items()
    }
    lists = ("denials", "breaks", "denied_after", "unclear", "doubtful", "another", "past", "goes_on")
    joined = {key: re.compile("|".join(f"(?:{p})" for p in reading[key]), re.I) for key in lists}
    return _Rules(
        sentence_end=re.compile(reading["sentence_end"]),
        clause_end=re.compile(reading["clause_end"]),
        reach=reading["reach"],
        lesion=re.compile(data["macros"][language]["NOUN"], re.I),
        anatomy={
            organ: (re.compile(words[language]["here"], re.I), re.compile(words[language]["elsewhere"], re.I))
            for organ, words in data["anatomy"].items()
        },
        facts=facts,
        values={name: compiled(value[language]) for name, value in data["values"].items()},
        quotes={name: compiled(quote.get(language, ())) for name, quote in data["quotes"].items()},
        **joined,
    )


def _written_out(pattern: str, language: str) -> str:
    for name, meaning in _data()["macros"][language].items():
        pattern = pattern.replace(name, meaning)
    return pattern


@cache
def _heading_sections(language: str) -> dict[str, str]:
    headings = _data()["reading"][language]["headings"]
    return {word.lower(): section for section, words in headings.items() for word in words}


@cache
def _any_heading(language: str) -> str:
    return "|".join(sorted(map(re.escape, _heading_sections(language)), key=len, reverse=True))


@cache
def _data() -> dict:
    path = Path(__file__).with_name("templates.yaml")
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, template in data["templates"].items():
        _check(data, name, template, path.name)
    return data


def _kind(template: Mapping) -> str:
    return next(kind for kind in ANSWERS if kind in template["answer"])


def _check(data: Mapping, name: str, template: Mapping, file: str) -> None:
    """Raise TemplateError where a template names something that is not there."""
    answer = template.get("answer") or {}
    kinds = [kind for kind in ANSWERS if kind in answer]
    if len(kinds) != 1:
        raise TemplateError(f"{file}: template {name}: answer needs exactly one of {', '.join(ANSWERS)}")
    table = {"fact": "facts", "choice": "facts", "value": "values", "quote": "quotes"}.get(kinds[0])
    wanted = {table: [answer[kinds[0]]]} if table else {}
    wanted.setdefault("facts", []).extend(template.get("needs", {}))
    for place, names in wanted.items():
        for missing in set(names) - set(data[place]):
            raise TemplateError(f"{file}: template {name}: {missing!r} is not one of the {place}")
    organs = template.get("organs")
    if organs != "all" and not (organs and set(organs) <= set(data["organs"])):
        raise TemplateError(f"{file}: template {name}: organs {organs!r} is not 'all' or a list of organs")
    if template.get("answer_type") not in ("open", "closed"):
        raise TemplateError(f"{file}: template {name}: answer_type must be open or closed")
    for language in LANGUAGES:
        if not template.get(language):
            raise TemplateError(f"{file}: template {name}: no questions in {language}")
