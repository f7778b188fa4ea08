"""From what stands at the score to a rating of one image, and to the best of several.

Ultrasound-QBench, section III.B b. Softmax strategy: the levels' probabilities, weighted and added, are the
score. Raw strategy, the paper's baseline: the level is the word that was written, and an answer that names no
level has none; the evaluation counts it as wrong.

Several images are compared twice: by their levels, taken as independent, and by the direct question, asked
with every image at every place in turn, so that a liking for a place cancels out.

Knows nothing of models, tokens or files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from assistants.qbench.clustering import CutPoints, place
from assistants.qbench.prompts import LEVELS, level_words, weights, wording
from assistants.qbench.reading import Reading

ARGMAX, CLUSTERS, WORD = "argmax", "clusters", "word"  # what a level was decided by
DOUBTFUL = 0.5  # an open-set mass below which the model did not want to answer with a level
ALIKE = 0.01  # probabilities of two images to be the best that lie nearer tell no difference (chosen)

_CLAUSE = re.compile(r"[.,;:!?\n。，；：！？]")
_GAP = r"[^\w.,;:!?]"
_DENIED = re.compile(
    rf"(\b(?:no|not|never|cannot|than|below|above)\b|n't){_GAP}*(\w+{_GAP}+){{0,2}}$|[不非没](?:是|太|够|算|很|怎么|那么)*$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Rating:
    """One image's quality by one prompt. `level` is None for an answer that names none; `score` is 0 … 10,
    None where no probabilities were to be had; `borderline` None where the level was not decided by cuts,
    else `cuts_of` names the population they come from; `word` is the level that the written `text` names,
    None where it names none or nothing was written."""

    prompt: str
    level: str | None
    level_by: str
    path: str
    probabilities: Mapping[str, float] | None = None
    score: float | None = None
    open_mass: float | None = None
    borderline: bool | None = None
    text: str | None = None
    reasons: tuple[str, ...] = ()
    word: str | None = None
    cuts_of: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Which of several images is best: `probabilities` of each, and the two opinions they are the mean of.

    `by_question` is None where the question could not be asked or was not answered. `ranking` holds indices
    from the best image to the worst, of equals the one shown first.
    """

    probabilities: tuple[float, ...]
    by_levels: tuple[float, ...] | None
    by_question: tuple[float, ...] | None
    ranking: tuple[int, ...]


def rate(prompt: str, reading: Reading, language: str, cut_points: CutPoints | None = None) -> Rating:
    """The rating that a reading gives: by cuts of a population where there are some, else by the likeliest
    level, of equals the lower; by the word where there are no probabilities."""
    word = parse_level(reading.text or "", language)
    if reading.probabilities is None:
        return Rating(prompt, word, WORD, reading.path, text=reading.text, reasons=reading.reasons, word=word)
    shares = {level: reading.probabilities[level] for level in LEVELS}
    score = sum(weights()[level] * share for level, share in shares.items())
    level, level_by, borderline = max(reversed(LEVELS), key=shares.__getitem__), ARGMAX, None
    cuts_of = None
    if cut_points is not None:
        level, borderline = place(score, cut_points)
        level_by, cuts_of = CLUSTERS, cut_points.population
    return Rating(
        prompt, level, level_by, reading.path, shares, score, reading.open_mass, borderline, reading.text,
        reading.reasons, word, cuts_of,
    )  # fmt: skip


def parse_level(text: str, language: str) -> str | None:
    """The one level that a text names: in its first clause, or else anywhere. None where it names none, two,
    or denies one ("not high", "below average"). Greetings are skipped, and so is what is said of a part of
    quality ("low noise"); both are data (prompts.yaml, `written`)."""
    text = _greeting(language).sub("", text)
    clauses = [clause for clause in _CLAUSE.split(text) if clause.strip()]
    for scope in (*clauses[:1], text):
        found = _levels_in(scope, language)
        if found:
            return found.pop() if len(found) == 1 and None not in found else None
    return None


def parse_number(text: str, count: int) -> int | None:
    """The one number from 1 to `count` that a text names, or None."""
    found = {int(digits) for digits in re.findall(r"\d+", text)}
    return found.pop() if len(found) == 1 and min(found) in range(1, count + 1) else None


def compare(ratings: Sequence[Rating], question: Sequence[float] | None) -> Comparison:
    """The images' ratings by one prompt, and what the direct question said (`by_question`)."""
    by_levels = None
    if all(rating.probabilities for rating in ratings):
        by_levels = best_by_levels([rating.probabilities for rating in ratings])
    by_question = None if question is None else tuple(question)
    opinions = [opinion for opinion in (by_levels, by_question) if opinion is not None]
    if not opinions:
        opinions = [_by_words(ratings)]
    probabilities = tuple(sum(each) / len(opinions) for each in zip(*opinions, strict=True))
    return Comparison(probabilities, by_levels, by_question, _ranking(ratings, probabilities))


def alike(probabilities: Sequence[float]) -> tuple[int, ...]:
    """The images between which no best one can be told: the likeliest, and those nearer than ALIKE to it."""
    most = max(probabilities)
    return tuple(i for i, each in enumerate(probabilities) if most - each < ALIKE)


def _ranking(ratings: Sequence[Rating], probabilities: Sequence[float]) -> tuple[int, ...]:
    """The likeliest best, then the others by their scores: of those that are hardly ever the best, how
    often they are says little about which is better."""
    best = max(range(len(ratings)), key=probabilities.__getitem__)
    others = [i for i in range(len(ratings)) if i != best]
    return (best, *sorted(others, key=lambda i: (-_worth(ratings[i]), -probabilities[i])))


def _worth(rating: Rating) -> float:
    """The score; what the level is worth where only a word was written, less than any where none was."""
    if rating.score is not None:
        return rating.score
    return -1.0 if rating.level is None else weights()[rating.level]


def orders(count: int) -> list[tuple[int, ...]]:
    """Every image at every place once: for two images both orders, for more all rotations."""
    return [tuple((start + i) % count for i in range(count)) for start in range(count)]


def best_by_question(readings: Sequence[Reading], count: int) -> tuple[float, ...] | None:
    """Probability of each image to be called best, the mean over `orders`; None where no answer names one."""
    votes = []
    for order, reading in zip(orders(count), readings, strict=True):
        shares = [0.0] * count
        if reading.probabilities is not None:
            for at, image in enumerate(order):
                shares[image] = reading.probabilities[str(at + 1)]
        elif (number := parse_number(reading.text or "", count)) is not None:
            shares[order[number - 1]] = 1.0
        else:
            continue
        votes.append(shares)
    if not votes:
        return None
    return tuple(sum(shares) / len(votes) for shares in zip(*votes, strict=True))


def best_by_levels(probabilities: Sequence[Mapping[str, float]]) -> tuple[float, ...]:
    """Probability of each image to have the highest level, images independent, ties shared equally."""
    return tuple(
        sum(
            share * _wins(level, [*probabilities[:i], *probabilities[i + 1 :]])
            for level, share in own.items()
        )
        for i, own in enumerate(probabilities)
    )


def _wins(level: str, others: Sequence[Mapping[str, float]]) -> float:
    """Share of the win for an image of `level`: nothing where another is above, else split among equals."""
    worse = LEVELS[LEVELS.index(level) + 1 :]
    ties = [1.0]  # ties[t]: probability that none so far is above and t are equal
    for other in others:
        below, equal = sum(other[each] for each in worse), other[level]
        ties = [
            below * stays + equal * joins for stays, joins in zip([*ties, 0.0], [0.0, *ties], strict=True)
        ]
    return sum(chance / (1 + count) for count, chance in enumerate(ties))


def _by_words(ratings: Sequence[Rating]) -> tuple[float, ...]:
    """The written levels alone: the win is shared by the images of the best level named."""
    ranks = [len(LEVELS) if each.level is None else LEVELS.index(each.level) for each in ratings]
    return tuple((rank == min(ranks)) / ranks.count(min(ranks)) for rank in ranks)


def _levels_in(text: str, language: str) -> set[str | None]:
    """Levels that `text` names, with None for one that it denies."""
    found: set[str | None] = set()
    for match in _pattern(language).finditer(text):
        before = text[: match.start()]
        if not _part(language).search(before):
            found.add(None if _DENIED.search(before) else _meaning(language)[match[0].casefold()])
    return found


@cache
def _meaning(language: str) -> dict[str, str]:
    return {
        word.strip().casefold(): level
        for level, (own, synonyms) in level_words(language).items()
        for word in (*own, *synonyms)
    }


@cache
def _pattern(language: str) -> re.Pattern:
    words = _any_of(_meaning(language))
    if language == "en":
        parts = _any_of(wording()["written"]["parts"]["en"])
        return re.compile(rf"(?<![\w-])({words})(?:(?=-quality\b)|(?![\w-])(?!\s+{parts}))", re.IGNORECASE)
    # 高回声 and 低回声 speak of echoes: a level is followed by nothing, a stop, or a word for quality.
    # 优良 and 中高 are of other scales.
    alone = "".join(sorted(word for word in _meaning(language) if len(word) == 1))
    return re.compile(rf"(?<![{alone}])({words})(?=质量|品质|水平|等级|级|的|或|和|到|至|$|[\W])")


@cache
def _part(language: str) -> re.Pattern:
    """The end of a text whose next word is said of a part of quality: "the noise is", 噪声较."""
    between = r"\w*(?:\s+\w+){0,2}\s*" if language == "en" else r"[^，。；：,.;:]{0,3}"
    return re.compile(_any_of(wording()["written"]["parts"][language]) + between + "$", re.IGNORECASE)


@cache
def _greeting(language: str) -> re.Pattern:
    greetings = _any_of(wording()["written"]["greetings"][language])
    return re.compile(rf"^\W*{greetings}(?=[^\w\s]|$)\W*", re.IGNORECASE)


def _any_of(words: Iterable[str]) -> str:
    """A pattern of these words, the longest first."""
    return f"(?:{'|'.join(sorted(map(re.escape, words), key=len, reverse=True))})"
