"""Closed questions: what an answer says, and whether that is right.

The field's parsers look for "no" and "yes" anywhere in the text, so that a "nodule" and a "normal" image
are a no; 是 and 否, True and False and options they do not know (LLaVA-Med's run_eval.py, MedEvalKit's
judge_judgement). Here an answer is read by rules (closed.yaml), in this order: what is enclosed or announced
as the answer; the words yes, no, 是, 否, true, false, or an option's letter; a statement that affirms or
denies what the question asks for, or an option's text. Denials are read first, and reach as in NegEx (Chapman
et al. 2001). An answer that names both sides, or neither, is unparsed, and unparsed is wrong.

The answer space comes from the case's `options`, from options written in its question, or from its reference.
Knows nothing of images, and no medicine beyond the words in closed.yaml: "malignant" is no answer to "Is it
benign?". Several right options, and languages other than Chinese and English, are not supported.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import Any

import yaml

from eval.measure import Measure, share
from eval.metrics.answers import normalised
from eval.pairs import Pair, PairError

POLAR = {"yes/no": ("yes", "no"), "true/false": ("true", "false")}
KINDS = (*POLAR, "choice", "level", "text")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
UNLISTED = LETTERS[:8]  # the options of a question that does not list them
LONGEST_QUESTION = 2000  # characters of a question that an answer may repeat; chosen, not tuned
WINDOW = 80  # characters around a word in which a denial of it is looked for; chosen, not tuned

Options = Mapping[str, str]  # key -> text, "A" -> "liver"; the text is "" where only the letter is known


@dataclass(frozen=True)
class Reading:
    """One closed answer as it was read. `said` is None where it names no side, or more than one."""

    kind: str  # one of KINDS; of several references, the first one's
    truth: str  # "yes" | "false" | "B" | "high"; the reference itself for the kind "text"
    said: str | None

    @property
    def right(self) -> bool:
        """Whether the answer names the true side."""
        return self.said is not None and self.said == self.truth


def measures(pairs: Sequence[Pair]) -> list[Measure]:
    """Accuracy and share of unparsed answers, over the pairs of answer type closed that have a reference.

    Where more than one kind of answer occurs, the accuracy of each follows: a guess is right half of the time
    between yes and no, but a quarter of the time among four options. A pair without an answer is unparsed and
    wrong. PairError for options that are neither texts nor a mapping to texts.
    """
    readings = [read_pair(pair) for pair in pairs]
    columns = [
        share("closed accuracy", [None if read is None else read.right for read in readings], _receipt()),
        share(
            "unparsed",
            [None if read is None else read.said is None for read in readings],
            _receipt(),
            lower_is_better=True,
        ),
    ]
    found = [kind for kind in KINDS if any(read is not None and read.kind == kind for read in readings)]
    for kind in found if len(found) > 1 else ():
        right = [None if read is None or read.kind != kind else read.right for read in readings]
        columns.append(share(f"{kind} accuracy", right, f"{_receipt()}|kind:{kind}"))
    return columns


def read_pair(pair: Pair) -> Reading | None:
    """How the pair's answer reads beside its reference; None unless it is closed and has a reference.

    Of several references the one that the answer agrees with counts, else the first. Where the reference is
    neither yes nor no, no level and no option, the closed set is unknown (kind "text"): the answer is right
    when it equals the reference after NFKC, in lower case, without white space and punctuation.
    """
    references = [text for text in pair.references if text.strip()]
    if str(pair.values.get("answer_type", "")).strip().lower() != "closed" or not references:
        return None
    question = pair.values.get("question")
    question = question if isinstance(question, str) else None
    readings = []
    for reference in references:
        kind, truth, options = _answer_space(reference, question, _given_options(pair))
        readings.append(Reading(kind, truth, _said(pair.prediction, kind, truth, options, question)))
    found = next((read for read in readings if read.right), readings[0])
    return replace(found, kind=readings[0].kind)  # the same for every system, whatever it answers


def read_answer(
    text: str, kind: str, options: Options | Sequence[str] | None = None, *, question: str | None = None
) -> str | None:
    """What an answer says: "yes" | "no", "true" | "false", "high" | "medium" | "low", or an option's key.

    `kind` is "yes/no", "true/false", "level" or "choice". `options` are texts, whose keys are then A, B, C …,
    or a mapping of keys to texts; without them a choice is one of the letters A to H. `question` lets a
    statement that repeats what was asked count ("The nodule is benign."). None where the answer names no side
    or more than one. ValueError for another kind.
    """
    if kind in POLAR:
        asked = _asked(question or "")
        said = _reading(text, lambda part, announced: _polar_votes(part, announced, asked))
        return None if said is None else POLAR[kind][("yes", "no").index(said)]
    if kind == "level":
        return _reading(text, _level_votes)
    if kind == "choice":
        keyed = _keyed(options) if options else dict.fromkeys(UNLISTED, "")
        return _reading(text, lambda part, announced: _choice_votes(part, announced, keyed))
    raise ValueError(f"kind {kind!r} is not one of yes/no, true/false, level, choice")


# ------------ the answer space ------------


def listed_options(question: str) -> Options:
    """The options that a question lists under letters from A on: "选择：A.肝 B.肾" -> {"A": "肝", "B": "肾"}.

    Empty where there are fewer than two.
    """
    return {key: text for key, text, _ in _listed(unicodedata.normalize("NFKC", question))}


def _listed(text: str) -> list[tuple[str, str, tuple[int, int]]]:
    """(key, text, span) of every option in a list that begins with A and leaves no letter out."""
    marks = []
    for mark in _rules()["choice.listed"].finditer(text):
        if len(marks) < len(LETTERS) and mark["key"].upper() == LETTERS[len(marks)]:
            marks.append(mark)
    found = []
    for mark, after in zip_longest(marks, marks[1:]):
        stop = after.start() if after else len(text)
        end = None if after else _rules()["choice.list_ends"].search(text, mark.end(), stop)
        stop = end.start() if end else stop
        found.append((mark["key"].upper(), _stripped(text[mark.end() : stop]), (mark.start(), stop)))
    return found if len(found) > 1 else []


def _given_options(pair: Pair) -> Options:
    """The case's own options, else those in its question; empty where there are none."""
    given = pair.values.get("options")
    if isinstance(given, str):
        return listed_options(given)
    if given:
        return _keyed(given, f"id {pair.id!r}: ")
    question = pair.values.get("question")
    return listed_options(question) if isinstance(question, str) else {}


def _keyed(options: Any, where: str = "") -> Options:
    """Options by key; texts in a list get the letters A, B, C … PairError for anything else than texts."""
    if isinstance(options, Mapping):
        keyed = dict(options)
    elif isinstance(options, list | tuple) and len(options) <= len(LETTERS):
        keyed = dict(zip(LETTERS, options, strict=False))
    else:
        raise PairError(f'{where}options {options!r:.60} are not a list of texts or {{"A": text}}.')
    for key, text in keyed.items():
        if not isinstance(key, str) or not key.strip() or not isinstance(text, str | int | float):
            raise PairError(f"{where}option {key!r:.20}: {text!r:.40} is not a text under a letter.")
    return {_stripped(key): _without_key(str(text), _stripped(key)) for key, text in keyed.items()}


def _without_key(text: str, key: str) -> str:
    """ "A. liver" under A -> "liver"."""
    plain = unicodedata.normalize("NFKC", text).strip()
    return re.sub(rf"^[(\[]?{re.escape(key)}[.):\]、]+(?!\d)\s*", "", plain, flags=re.I) or plain


def _answer_space(reference: str, question: str | None, options: Options) -> tuple[str, str, Options]:
    """(kind, truth, options) of one reference: from known options, else from the reference's own words."""
    key = _option_meant(reference, options) if options else None
    if key is not None:
        return "choice", key, options
    plain = _stripped(_plain(reference))
    lettered = re.fullmatch(rf"([{UNLISTED}])(?:[.):、]\s*(?!\d)(\S.*))?", plain, re.S | re.I)
    if lettered and not _polar_sign(plain):
        key = lettered[1].upper()
        return "choice", key, dict.fromkeys(UNLISTED, "") | {key: lettered[2] or ""}
    for level in _rules()["levels"]:
        if _rules()[f"levels.{level}"].fullmatch(plain.lower()):
            return "level", level, {}
    offered = _offered_in_words(plain.lower(), question or "")
    if offered:
        return "choice", plain.lower(), offered
    polar = read_answer(reference, "yes/no", question=question)
    if polar is not None:
        kind = "true/false" if _rules()["polar.true_or_false"].search(plain.lower()) else "yes/no"
        return kind, POLAR[kind][("yes", "no").index(polar)], {}
    return "text", reference, {}


def _option_meant(reference: str, options: Options) -> str | None:
    """The key that a reference names: the key itself, the option's text, or both ("B. kidney")."""
    for key, text in options.items():
        if normalised(reference, key) or (text and normalised(reference, text)):
            return key
    return read_answer(reference, "choice", options)


def _offered_in_words(reference: str, question: str) -> Options:
    """The two sides of "cystic or solid?" where the reference is one of them, else empty."""
    question, own = _rules()["polar.forms"].sub(" ", _plain(question).lower()), re.escape(reference)
    if not _rules()["questions.alternatives"].search(question):
        return {}
    for pattern in _rules()["offered"]:
        found = re.search(pattern.replace("REFERENCE", own), question)
        other = _stripped(found["other"]) if found else ""
        if reference.isascii():
            other = " ".join(other.split()[: len(reference.split())])
        if other and other != reference:
            return {reference: reference, other: other}
    return {}


def _said(
    prediction: str | None, kind: str, truth: str, options: Options, question: str | None
) -> str | None:
    if prediction is None or not prediction.strip():
        return None
    if kind != "text":
        return read_answer(prediction, kind, options or None, question=question)
    said = _stripped(_plain(prediction))
    return truth if said and normalised(said, truth) else said or None


# ------------ reading ------------

Votes = Callable[[str, bool], set[str]]  # (part of an answer, whether it was announced) -> what it names


def _reading(text: str, votes: Votes) -> str | None:
    """What the part of the text that counts most names: enclosed, final, announced, else all of it."""
    text = _plain(text)
    enclosed = [match["said"] for match in _rules()["announcements.enclosed"].finditer(text)]
    final, plain = _announced(text, "final"), _announced(text, "plain")
    for parts, announced in ((enclosed, True), (final, True), (plain, True), ([text], False)):
        named = set().union(*(votes(part, announced) for part in parts if part.strip()))
        if named:
            return named.pop() if len(named) == 1 else None
    return None


def _announced(text: str, rank: str) -> list[str]:
    """What follows each announcement of a rank, to the end of its sentence or to the next announcement."""
    found = list(_rules()[f"announcements.{rank}"].finditer(text))
    parts = []
    for match, after in zip_longest(found, found[1:]):
        part = text[match.end() : after.start() if after else len(text)].lstrip()
        end = _rules()["clean.sentence_end"].search(part)
        parts.append(part[: end.start()] if end else part)
    return parts


def _plain(text: str) -> str:
    """NFKC, without invisible marks, thinking aloud, special tokens and contractions; case is kept."""
    rules = _rules()
    text = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    thought = deque(rules["clean.thought_ends"].finditer(text), maxlen=1)
    text = text[thought[0].end() :] if thought else text
    text = rules["clean.thought_begins"].split(text, maxsplit=1)[0]
    text = rules["clean.special_tokens"].sub(" ", text)
    for pattern, new in rules["clean.rewrite"]:
        text = pattern.sub(new, text)
    return re.sub(r"[^\S\n]+", " ", text).translate(rules["clean.traditional"]).strip()


def _stripped(text: str) -> str:
    """Without what is neither letter nor digit at either end; all of it where there is nothing else."""
    kept = [i for i, c in enumerate(text) if c.isalnum()]
    return text[kept[0] : kept[-1] + 1] if kept else text.strip()


def _bare(text: str) -> str:
    """What is left to compare two texts by: lower case, nothing around it."""
    return _stripped(_plain(text)).lower()


def _clauses(text: str) -> list[str]:
    """The clauses of a text without the punctuation between them, cut also where a contrast begins."""
    return _pieces(text, _rules()["clauses"])


def _pieces(text: str, ends: re.Pattern) -> list[str]:
    """What lies between the matches of `ends`, without blank pieces and without signs at either end."""
    starts, stops = [0], []
    for match in ends.finditer(text):
        stops.append(match.start())
        starts.append(match.end())
    pieces = (text[start:stop] for start, stop in zip(starts, [*stops, len(text)], strict=True))
    return [piece for each in pieces if (piece := each.strip(" \t\n'.-&+#@_"))]


def _denied(text: str, start: int, end: int, rule: str) -> bool:
    """Whether a denial in the clause of text[start:end] reaches it, from before or from just after it."""
    rules = _rules()
    before, after = text[max(0, start - WINDOW) : start], text[end : end + WINDOW]
    ends = [match.end() for match in rules["clauses"].finditer(before)]
    before = before[ends[-1] :] if ends else before
    stop = rules["clauses"].search(after)
    after = after[: stop.start()] if stop else after
    denials = deque(rules[f"{rule}.denials"].finditer(before), maxlen=1)
    reaches = bool(denials) and not rules[f"{rule}.reach_ends"].search(before, denials[0].end())
    at_once = rules[f"{rule}.denied_at_once"].search(before)
    return reaches or bool(at_once) or bool(rules[f"{rule}.denied_after"].search(after))


# ------------ yes and no ------------


@dataclass(frozen=True)
class _Asked:
    """What a yes-or-no question asks for: the words (en) or the characters (zh) that an answer may repeat."""

    words: tuple[str, ...] = ()
    characters: str = ""
    absence: bool = False  # "is it normal?": "no lesion is seen" does not deny it
    side: str = ""  # "left" or "right" where the question names that side only


@lru_cache(maxsize=4096)
def _asked(question: str) -> _Asked:
    rules = _rules()
    text = rules["polar.forms"].sub(" ", _plain(question[:LONGEST_QUESTION]).lower())
    absence = bool(rules["questions.about_absence"].search(rules["polar.asking"].sub(" ", text)))
    sides = _sides_named(text)
    side = sides.pop() if len(sides) == 1 else ""
    if rules["questions.alternatives"].search(text):
        return _Asked(absence=absence, side=side)
    english = rules["questions.en"].search(text)
    chinese = rules["questions.zh_whether"].search(text) or rules["questions.zh_ma"].search(text)
    words = tuple(word for word, _, _ in _content(english["asked"])) if english else ()
    characters = rules["questions.trailing"].sub("", chinese["asked"].strip()) if chinese else ""
    return _Asked(words, characters, absence, side)


def _sides_named(text: str) -> set[str]:
    return {side for side in ("left", "right") if _rules()[f"questions.sides.{side}"].search(text)}


def _polar_votes(part: str, announced: bool, asked: _Asked) -> set[str]:
    """{"yes"}, {"no"}, both or neither; an announced part is read from its first clause on."""
    sign = _polar_sign(part)
    if sign:
        return {sign}
    rules = _rules()
    text = rules["polar.forms"].sub(" ", part.lower())
    told = _without_questions(text)
    unread = (rules["polar.asking"], rules["polar.open"])
    sentences = [
        [clause for clause in _clauses(sentence) if not any(pattern.search(clause) for pattern in unread)]
        for sentence in _pieces(told or text, rules["clean.sentence_end"])
    ]
    clauses = [clause for sentence in sentences for clause in sentence]
    votes = (_plain_words(clauses[:1]) if announced else set()) or _plain_words(clauses)
    if votes or not told:
        return votes
    sentences = _about_the_side(sentences, asked.side)
    clauses = [_reworded(clause, asked) for sentence in sentences for clause in sentence]
    return _repeated(clauses, asked) or (set() if announced else _statement(sentences[:1], asked))


def _polar_sign(text: str) -> str | None:
    """Yes or no where the whole text is a sign for it: "Y", "√"."""
    bare = {text.strip().lower(), _stripped(text).lower()}
    return next((side for side, signs in _rules()["signs"].items() if bare & set(signs)), None)


def _without_questions(text: str) -> str:
    """The text without the sentences that end in a question mark; empty where nothing else is there."""
    told, start = [], 0
    for end in _rules()["clean.sentence_end"].finditer(text):
        if "?" not in end.group():
            told.append(text[start : end.end()])
        start = end.end()
    rest = "".join([*told, text[start:]])
    return rest if _clauses(rest) else ""


def _plain_words(clauses: Sequence[str]) -> set[str]:
    """The sides named by the words yes, no, 是, 否, true, false … themselves."""
    votes = set()
    for clause in clauses:
        for words, side in (("denied_denial", "yes"), ("says_no", "no"), ("says_yes", "yes")):
            clause, hits = _rules()[f"polar.{words}"].subn(" ", clause)
            votes |= {side} if hits else set()
    return votes


def _about_the_side(sentences: Sequence[Sequence[str]], side: str) -> list[list[str]]:
    """The sentences without the clauses about the other side than the one that was asked about."""
    kept, at = [], {side}
    for sentence in sentences:
        here = []
        for clause in sentence:
            at = (side and _sides_named(clause)) or at
            here += [clause] if side in at else []
        kept += [here] if here else []
    return kept


def _reworded(clause: str, asked: _Asked) -> str:
    """The clause in the question's own word: asked 是否清晰, said 边界模糊, read 边界不清晰."""
    for asks, said, met_as in _rules()["reworded"]:
        word = asks.search(asked.characters or " ".join(asked.words))
        clause = said.sub(met_as.replace("WORD", word.group()), clause) if word else clause
    return clause


def _repeated(clauses: Sequence[str], asked: _Asked) -> set[str]:
    """The sides taken by clauses that repeat what was asked for, denied or not.

    "Normal in size, with a nodule" does not say that the liver is normal: where the question asks whether all
    is well, only an answer of one clause counts, or one whose every clause says so.
    """
    well = _rules()["questions.well"]
    if asked.absence and len(clauses) > 1 and not all(well.search(clause) for clause in clauses):
        return set()
    found = [_repeats_words(clause, asked.words) for clause in clauses if asked.words]
    found += [_repeats_characters(clause, asked.characters) for clause in clauses if asked.characters]
    return {side for side in found if side}


def _repeats_words(clause: str, asked: tuple[str, ...]) -> str | None:
    """A clause repeats a question when it has all its words, or no others and the last ("it is benign")."""
    content = _content(clause)
    words = [word for word, _, _ in content]
    if not words or not (set(asked) <= set(words) or (set(words) <= set(asked) and words[-1] == asked[-1])):
        return None
    order = list(dict.fromkeys(word for word in words if word in asked))
    if _rules()["questions.compares"].search(" ".join(asked)) and order != sorted(order, key=asked.index):
        return None
    spans = [(start, end) for word, start, end in content if word in asked]
    letters = list(clause)
    for start, end in spans:  # asked whether something is absent, or has resolved: these words deny nothing
        letters[start:end] = "x" * (end - start)
    clause = "".join(letters)
    denied = any(_denied(clause, start, end, "polar") for start, end in spans)
    return "no" if denied else "yes"


def _repeats_characters(clause: str, asked: str) -> str | None:
    start = clause.find(asked)
    if start >= 0:
        return "no" if _denied(clause, start, start + len(asked), "polar") else "yes"
    said = _rules()["questions.trailing"].sub("", clause)
    bare = _rules()["polar.negating_characters"].sub("", said)
    if len(bare) > 1 and asked.endswith(bare):  # asked 病灶边界清楚, said 边界不清楚
        return "yes" if bare == said else "no"
    return None


def _statement(first_sentence: Sequence[Sequence[str]], asked: _Asked) -> set[str]:
    """What the first sentence denies ("未见结节"), unless it asserts something else ("见囊肿，未见结节")."""
    rules = _rules()
    clauses = [] if asked.absence else [clause for sentence in first_sentence for clause in sentence]
    clauses = [rules["polar.incidental"].sub("", clause) for clause in clauses]
    denied = [bool(rules["polar.denials"].search(clause)) for clause in clauses]
    others = [clause for clause, no in zip(clauses, denied, strict=True) if not no]
    if any(denied):
        return {"no", "yes"} if any(rules["polar.asserted"].search(clause) for clause in others) else {"no"}
    if asked.words or asked.characters:
        return set()
    return {"yes"} if any(rules["polar.affirmed"].search(clause) for clause in others) else set()


# ------------ levels and options ------------


def _level_votes(part: str, announced: bool) -> set[str]:
    """The levels that the part names and does not deny; of an announced part, those of the first clause."""
    votes: set[str] = set()
    for clause in _clauses(part.lower()):
        for level in _rules()["levels"]:
            named = _rules()[f"levels.{level}"].finditer(clause)
            votes |= {level for match in named if not _denied(clause, *match.span(), "choice")}
        if announced and votes:
            break
    return votes


def _choice_votes(part: str, announced: bool, options: Options) -> set[str]:
    """The keys that a part names: one that it begins with, else marked letters, else any mention."""
    for _, _, (start, end) in _listed(part):  # the question's options came back in the answer
        part = part[:start] + " " * (end - start) + part[end:]
    lettered = _rules()["choice.terms"].sub(_blank, part)
    keys = _keys(tuple(options))
    found = keys.leading(lettered, announced, options) or keys.marked(lettered)
    sides = {} if found else _sides(options)
    if sides:
        found = {sides[side] for side in _polar_votes(part, announced, _Asked())}
    first = _rules()["clauses"].search(part) if announced else None
    for end in ((first.start(),) if first else ()) + (len(part),):
        texts = _texts_named(part[:end].lower(), options)
        found = found or keys.loose(lettered[:end]) | {key for key, _ in texts}
    return found or _on_a_scale(part, options)


def _on_a_scale(part: str, options: Options) -> set[str]:
    """The keys whose bare value is a clause of the part ("4b"), where all options are values of one scale."""
    if not all(_rules()["choice.scale"].search(_plain(text).lower()) for text in options.values()):
        return set()
    said = [_values(clause) for clause in _clauses(part)]
    return {key for key, text in options.items() if _values(_plain(text)) in said}


def _values(text: str) -> list[str]:
    """The words of a text without the names of scales: "BI-RADS 4B类" -> ["4b"]."""
    return [word for word, _, _ in _words(_rules()["choice.scale_words"].sub(" ", text.lower()))]


def _blank(match: re.Match) -> str:
    return " " * len(match.group())


def _sides(options: Options) -> dict[str, str]:
    """Which of two options is the yes and which the no ({"A": "是", "B": "否"}); empty for other options."""
    said = {key: _plain_words(_clauses(_plain(text).lower())) for key, text in options.items()}
    sides = {side.pop(): key for key, side in said.items() if len(side) == 1}
    return sides if len(options) == len(sides) == 2 else {}


class _Keys:
    """Finds the keys of a question's options, A to D mostly, where they stand for an option."""

    def __init__(self, keys: Sequence[str]):
        self.names = {key.lower(): key for key in keys}
        either = "|".join(re.escape(key) for key in sorted(keys, key=len, reverse=True))
        letters = "|".join(key.upper() for key in keys if re.fullmatch("[A-Za-z]", key)) or r"(?!)"
        key, rules = rf"(?P<key>{either})(?![A-Za-z0-9]|-[A-Za-z0-9]|[.,:]\d)", _rules()
        self.at_start = re.compile(rf"[\W_]*{key}", re.I)
        self.joined = re.compile(rf"(?:{rules['choice.joins'].pattern}){key}", re.I)
        self.marks = [
            re.compile(rf"(?:{rules['choice.adjacent'].pattern})\s*[(\[\"'“]?{key}", re.I),
            re.compile(rf"(?<![A-Za-z0-9]){key}\s*(?:{rules['choice.marked_after'].pattern})", re.I),
        ]
        self.mentions = [
            re.compile(rf"[(\[]\s*{key}\s*[)\]]", re.I),
            re.compile(rf"(?<![A-Za-z0-9_'-])(?P<key>{letters})(?![A-Za-z0-9]|-[A-Za-z0-9]|[.]\d)"),
        ]

    def leading(self, text: str, announced: bool, options: Options) -> set[str]:
        """The key that the text begins with, and a second one where the text gives another answer too.

        That is a key joined to the first ("A or B"), another option's text right after it ("A. kidney", where
        the kidney is B), or a sentence that is nothing but another answer.
        """
        match = self.at_start.match(text)
        if not match or self._is_a_word(text, match, announced) or self._denied(text, match):
            return set()
        found, rest = {self.names[match["key"].lower()]}, text[match.end("key") :]
        second = self.joined.match(rest)
        if second:
            return found | {self.names[second["key"].lower()]}
        line = rest.partition("\n")[0].lower()
        first_word = next((start for _, start, _ in _content(line)), None)
        found |= {key for key, start in _texts_named(line, options) if start == first_word}
        texts = {_bare(option): key for key, option in options.items() if option}
        sentences = (_bare(sentence) for sentence in _pieces(rest, _rules()["choice.answer_ends"]))
        return found | {(self.names | texts)[each] for each in sentences if each in self.names | texts}

    def marked(self, text: str) -> set[str]:
        """Keys that are called an option or the answer: "it is B", "选项B", "B项"."""
        return self._found(text, self.marks)

    def loose(self, text: str) -> set[str]:
        """Keys in brackets, and capital letters that stand alone."""
        return self._found(text, self.mentions)

    def _found(self, text: str, patterns: Sequence[re.Pattern]) -> set[str]:
        matches = [match for pattern in patterns for match in pattern.finditer(text)]
        return {
            self.names[match["key"].lower()]
            for match in matches
            if not self._is_a_word(text, match) and not self._denied(text, match)
        }

    def _denied(self, text: str, match: re.Match) -> bool:
        return _denied(text, match.start("key"), match.end("key"), "choice")

    def _is_a_word(self, text: str, match: re.Match, announced: bool = False) -> bool:
        """Whether the key is the article "a" or the word "I" and no option."""
        key, (start, end) = match["key"], match.span("key")
        if key.lower() not in _rules()["also_words"] or not re.match(" [A-Za-z]{2}", text[end : end + 3]):
            return False
        if _rules()["choice.after_a_letter"].match(text, end + 1):
            return False
        before = text[max(0, start - WINDOW) : start].rstrip()
        within_a_sentence = announced or (before and before[-1] not in ".!?。;:\n")
        return key.islower() or text[start : start + WINDOW].isupper() or not within_a_sentence


@lru_cache(maxsize=256)
def _keys(keys: tuple[str, ...]) -> _Keys:
    return _Keys(keys)


def _texts_named(text: str, options: Options) -> list[tuple[str, int]]:
    """(key, start) of the first mention of every option's text that the text does not deny.

    Longest first, so that "liver cyst" does not mention "liver". Words are whole; punctuation is read over.
    """
    tokens = _words(text)
    joined = _joined(tokens)
    offsets = list(accumulate((len(word) + 1 for word, _, _ in tokens), initial=0))
    wanted = {key: _joined(_words(_plain(option).lower())) for key, option in options.items()}
    taken, named = bytearray(len(tokens)), {}
    for key, option in sorted(wanted.items(), key=lambda item: -len(item[1])):
        at = joined.find(option) if option.strip() else -1
        while at >= 0:
            first = bisect_right(offsets, at) - 1
            last = first + option.count(" ") - 2
            if not any(taken[first : last + 1]):
                taken[first : last + 1] = b"\1" * (last + 1 - first)
                start, end = tokens[first][1], tokens[last][2]
                if key not in named and not _denied(text, start, end, "choice"):
                    named[key] = start
            at = joined.find(option, at + 1)
    return list(named.items())


def _joined(tokens: Sequence[tuple[str, int, int]]) -> str:
    return " ".join(["", *(word for word, _, _ in tokens), ""])


WORD = re.compile(r"\d+(?:\.\d+)?[a-z](?![a-z])|\d+(?:\.\d+)?|[a-z]+|[^\W\d_]")


def _words(text: str) -> list[tuple[str, int, int]]:
    """(word, start, end) of a text in lower case: English words without a plural's s, numbers, characters."""
    return [(_singular(match.group()), *match.span()) for match in WORD.finditer(text)]


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.isascii() and word[-1] == "s" else word


def _content(text: str) -> list[tuple[str, int, int]]:
    """The words that tell one question from another."""
    return [found for found in _words(text) if found[0] not in _rules()["small_words"]]


# ------------ rules ------------


@cache
def _receipt() -> str:
    rules = Path(__file__).with_suffix(".yaml").read_bytes()
    return f"rules:closed.yaml-{hashlib.sha256(rules).hexdigest()[:8]}|unparsed:wrong|unknown set:equal"


@cache
def _rules() -> dict[str, Any]:
    """closed.yaml, compiled: "polar.says_no" -> pattern; tables of words as they are."""
    source = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(source)
    data = yaml.safe_load(source.replace("MAYBE", data["polar"].pop("maybe")))
    rules = dict(_compiled("", data))
    rules["clean.rewrite"] = [(re.compile(old, re.I | re.A), new) for old, new in data["clean"]["rewrite"]]
    rules["clean.traditional"] = str.maketrans(data["clean"]["traditional"])
    tags = "|".join(data["clean"]["thought"])
    rules["clean.thought_begins"] = re.compile(f"<(?:{tags})>", re.I)
    rules["clean.thought_ends"] = re.compile(f"</(?:{tags})>", re.I)
    rules["reworded"] = [
        (re.compile(asked, re.I | re.A), re.compile(said, re.I | re.A), met_as)
        for asked, said, met_as in data["questions"]["reworded"]
    ]
    ends = [rules[f"clean.{name}"].pattern for name in ("sentence_end", "clause_end", "contrast")]
    rules["clauses"] = re.compile("|".join(ends), re.I | re.A)
    rules["offered"] = [data["questions"][f"offered_{side}"] for side in ("after", "before")]
    rules["levels"] = tuple(data["levels"])
    rules["signs"] = data["polar"]["alone"]
    rules["also_words"] = set(data["choice"]["also_words"])
    rules["small_words"] = {_singular(word) for word in data["questions"]["small_words"].split()}
    return rules


def _compiled(prefix: str, table: Mapping[str, Any]) -> Iterator[tuple[str, re.Pattern]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _compiled(f"{prefix}{name}.", value)
        elif isinstance(value, list) and all(isinstance(pattern, str) for pattern in value):
            # ASCII: a Chinese character ends a word, so that "答True" holds the word True.
            yield prefix + name, re.compile("|".join(f"(?:{pattern})" for pattern in value), re.I | re.A)
