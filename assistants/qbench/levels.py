"""Which tokens mean high, medium and low at the score's place, and how probable each level is there.

Ultrasound-QBench, Fig. 4 ([SCORE TOKEN]); Q-Align (arXiv 2312.17090) for the closed set. The ids of a word
are what it adds behind the beginning of the answer: a word alone, or at a fixed index behind a start token,
has other ids (a space in front, a sign of sentencepiece, two Chinese signs that merge), and some of them are
equal for every level, which gives one third each and no error.

Two paths. "token": each level has a token of its own, probabilities of a level's tokens are added.
"sequence": some level has not (a Chinese sign cut into bytes), so the levels' words are compared by the mean
log-probability of their tokens. That mean is no probability: it favours words of many tokens, whose later
ones follow from the first, so scores of the two paths do not compare and the path is part of every result.

Knows nothing of models or of what a level is worth: a function from text to ids comes in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Ids = tuple[int, ...]
Words = Mapping[str, tuple[Sequence[str], Sequence[str]]]  # of each level: its own words, its synonyms

TOKEN, SEQUENCE = "token", "sequence"


class UnstablePrefix(ValueError):
    """The beginning of the answer gets other tokens when a level follows it: no place to read the score."""


@dataclass(frozen=True)
class LevelTokens:
    """What stands for each level behind one beginning of an answer.

    `forms` are token ids, none of them the beginning of another of its level; all start with the same
    `stem` tokens (a lone space, say), which tell nothing. `reasons` says what was left out and why.
    """

    path: str
    forms: Mapping[str, tuple[Ids, ...]]
    stem: int
    reasons: tuple[str, ...]

    @property
    def candidates(self) -> tuple[Ids, ...]:
        """All forms, level after level: the order in which `read` wants their log-probabilities."""
        return tuple(form for forms in self.forms.values() for form in forms)

    def read(self, log_probabilities: Sequence[Sequence[float]]) -> tuple[dict[str, float], float]:
        """The levels' probabilities among themselves (they add up to 1), and the open-set mass: how much of
        the whole vocabulary's probability goes to the forms at all."""
        rated = iter(log_probabilities)
        weights = {level: self._weight([next(rated) for _ in forms]) for level, forms in self.forms.items()}
        largest = max(weights.values())
        shares = {level: math.exp(weight - largest) for level, weight in weights.items()}
        total = sum(shares.values())
        mass = sum(math.exp(sum(tokens)) for tokens in log_probabilities)
        return {level: share / total for level, share in shares.items()}, mass

    def _weight(self, forms: Sequence[Sequence[float]]) -> float:
        """A level's logarithm: of the sum over its forms; of their mean where they are no probabilities."""
        if self.path == TOKEN:
            return _log_sum([form[self.stem] for form in forms])
        means = [sum(form[self.stem :]) / len(form[self.stem :]) for form in forms]
        return _log_sum(means) - math.log(len(means))


def find(tokenise: Callable[[str], Sequence[int]], beginning: str, words: Words) -> LevelTokens:
    """The tokens of every level behind `beginning`. `tokenise` gives the ids of a whole prompt that ends with
    the given text of the answer.

    Raises UnstablePrefix where a level's plainest word changes the ids before it, ValueError where two
    levels cannot be told apart.
    """
    start = tuple(tokenise(beginning))
    reasons: list[str] = []
    own, more = {}, {}
    for level, (mine, others) in words.items():
        own[level] = _added(tokenise, start, beginning, mine, reasons)
        more[level] = _added(tokenise, start, beginning, others, reasons)
        if mine[0] not in own[level]:
            raise UnstablePrefix(
                f"{beginning!r} has other tokens when {mine[0].strip()!r} follows than alone"
            )
    stem = _common_start([form for forms in own.values() for form in forms.values()])
    single = {
        level: {form for form in forms.values() if len(form) == stem + 1} for level, forms in own.items()
    }
    if all(single.values()) and len(set().union(*single.values())) == sum(map(len, single.values())):
        forms = {level: _tokens(level, own, more, single, stem, reasons) for level in words}
        return LevelTokens(TOKEN, forms, stem, tuple(reasons))
    for level, forms in own.items():
        if not single[level]:
            word, ids = next(iter(forms.items()))
            reasons.append(f"{word.strip()!r} is {len(ids) - stem} tokens: words are compared as a whole")
    left_out = [word.strip() for others in more.values() for word in others]
    if left_out:
        reasons.append(f"synonyms are not counted on this path: {', '.join(left_out)}")
    forms = {level: _shortest(list(mine.values())) for level, mine in own.items()}
    if len({form for each in forms.values() for form in each}) != sum(map(len, forms.values())):
        raise ValueError("two levels have the same tokens with this tokenizer, so they cannot be told apart")
    return LevelTokens(SEQUENCE, forms, stem, tuple(reasons))


def _added(
    tokenise: Callable[[str], Sequence[int]],
    start: Ids,
    beginning: str,
    words: Sequence[str],
    reasons: list[str],
) -> dict[str, Ids]:
    """What each word adds behind the beginning; one that changes the beginning's own ids is left out."""
    added = {}
    for word in words:
        ids = tuple(tokenise(beginning + word))
        if ids[: len(start)] == start and len(ids) > len(start):
            added[word] = ids[len(start) :]
        else:
            reasons.append(f"{word.strip()!r} changes the tokens before it: left out")
    return added


def _tokens(
    level: str,
    own: Mapping[str, Mapping[str, Ids]],
    more: Mapping[str, Mapping[str, Ids]],
    single: Mapping[str, set[Ids]],
    stem: int,
    reasons: list[str],
) -> tuple[Ids, ...]:
    """The level's forms of one token each; a longer form that begins with one of them is counted with it."""
    kept = sorted(single[level])
    common = kept[0][:stem]
    of_others = set().union(*(forms for name, forms in single.items() if name != level))
    claimed = {
        form for name, forms in more.items() if name != level for form in forms.values()
    }  # a synonym of two levels speaks for neither
    for word, form in {**own[level], **more[level]}.items():
        first = form[: stem + 1]
        if first in kept:
            continue
        if form[:stem] != common or len(form) != stem + 1:
            reasons.append(f"{word.strip()!r} is {len(form)} tokens: left out")
        elif form in of_others or form in claimed:
            reasons.append(f"{word.strip()!r} has the token of another level: left out")
        else:
            kept.append(form)
    return tuple(kept)


def _shortest(forms: Sequence[Ids]) -> tuple[Ids, ...]:
    """Without those that begin with another: their probability is part of the shorter one's."""
    kept: list[Ids] = []
    for form in sorted(set(forms), key=lambda ids: (len(ids), ids)):
        if not any(form[: len(shorter)] == shorter for shorter in kept):
            kept.append(form)
    return tuple(kept)


def _common_start(forms: Sequence[Ids]) -> int:
    """How many first tokens all forms share; each keeps one that tells it from others."""
    shortest = min(map(len, forms)) - 1
    return next((i for i in range(shortest) if len({form[i] for form in forms}) > 1), shortest)


def _log_sum(logarithms: Sequence[float]) -> float:
    largest = max(logarithms)
    return largest + math.log(sum(math.exp(each - largest) for each in logarithms))
