"""ROUGE-1, -2 and -L by the definitions of three packages that disagree.

- `chinese` (rouge_chinese 1.0.3, what LLaMA-Factory and, we infer, EchoVLM print): n-grams as sets, the
  longest common subsequence over lists; so ROUGE-L can exceed ROUGE-1.
- `google` (rouge_score 0.1.2 on ready tokens): n-grams counted with repeats, clipped.
- `pltrdy` (rouge 1.0.1, what ms-swift prints): texts are cut at every ".", everything is a set, ROUGE-L
  is the union of the words of one longest common subsequence per pair of sentences; which one is part of
  the definition.

Lin 2004 defined ROUGE for English; what a token is decides the number in Chinese.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.overlap import Overlap

_SMALL = 1e-8  # in the denominator of F in rouge_chinese and rouge
_MOST_BITS = 1 << 30  # of the table kept for one pair of sentences, 128 MB


@dataclass(frozen=True)
class Rouge:
    """Precision, recall and F of one variant, 0…1, float64 [pairs] each."""

    precision: np.ndarray
    recall: np.ndarray
    f: np.ndarray


def chinese(shared: Overlap) -> tuple[Rouge, Rouge, Rouge]:
    """ROUGE-1, -2 and -L as rouge_chinese defines them; 0 where a side is empty."""
    one, two = shared.grams[0], shared.grams[1]
    by_sets = [_rouge(g.shared_types, g.predicted_types, g.referenced_types, _SMALL) for g in (one, two)]
    return (*by_sets, _rouge(shared.subsequence, shared.predicted, shared.referenced, _SMALL))


def google(shared: Overlap) -> tuple[Rouge, Rouge, Rouge]:
    """ROUGE-1, -2 and -L as rouge_score defines them; 0 where a side is empty."""
    clipped = [_rouge(g.clipped, g.predicted, g.referenced) for g in shared.grams[:2]]
    return (*clipped, _rouge(shared.subsequence, shared.predicted, shared.referenced))


def _rouge(shared: np.ndarray, predicted: np.ndarray, referenced: np.ndarray, small: float = 0.0) -> Rouge:
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(predicted > 0, shared / predicted, 0.0)
        recall = np.where(referenced > 0, shared / referenced, 0.0)
        f = 2.0 * ((precision * recall) / (precision + recall + small))
    return Rouge(precision, recall, np.where(shared > 0, f, 0.0))


def pltrdy(prediction: Sequence[str], reference: Sequence[str]) -> tuple[float, float, float] | None:
    """F of ROUGE-1, -2 and -L as rouge 1.0.1 gives them for tokens joined by spaces.

    None where the package raises: a side with nothing but full stops. Also None for a pair of sentences
    whose table would not fit into memory (more than 2^30 cells); the package itself stops at about 1,000
    tokens.
    """
    sides = [_sentences(" ".join(tokens)) for tokens in (prediction, reference)]
    if not all(sides):
        return None
    words = [[word for sentence in side for word in sentence] for side in sides]
    kinds = [(set(side), set(zip(side, side[1:], strict=False))) for side in words]
    scores = [_f(len(said & true), len(said), len(true)) for said, true in zip(*kinds, strict=True)]
    union: set[Hashable] = set()
    for wanted in sides[1]:
        for said in sides[0]:
            if len(wanted) * len(said) > _MOST_BITS:
                return None
            union |= _words_of_a_longest_subsequence(wanted, said)
    return (*scores, _f(len(union), len(kinds[0][0]), len(kinds[1][0])))


def _sentences(text: str) -> list[list[str]]:
    """Stretches between full stops as words; a stretch of spaces is one empty word, as in the package."""
    return [" ".join(stretch.split()).split(" ") for stretch in text.split(".") if stretch]


def _f(shared: int, predicted: int, referenced: int) -> float:
    precision = shared / predicted if predicted else 0.0
    recall = shared / referenced if referenced else 0.0
    return 2.0 * ((precision * recall) / (precision + recall + _SMALL))


def _words_of_a_longest_subsequence(x: Sequence[Hashable], y: Sequence[Hashable]) -> set[Hashable]:
    """The words of the longest common subsequence that a walk back through the usual table finds: a match
    is taken, else the row above is entered only where its value is larger than the value to the left.

    The table is kept as one integer a row (Hyyrö 2004): bit j of row i is 0 where the value grows at
    column j + 1. Without a match a cell equals the larger of its two neighbours, so it is the row above
    exactly where the value grows.
    """
    places: dict[Hashable, int] = {}
    for j, word in enumerate(y):
        places[word] = places.get(word, 0) | 1 << j
    full = (1 << len(y)) - 1
    row = full
    rows = [row]
    for word in x:
        match = row & places.get(word, 0)
        row = (row + match | row - match) & full
        rows.append(row)
    found: set[Hashable] = set()
    i, j = len(x), len(y)
    while i and j:
        if x[i - 1] == y[j - 1]:
            found.add(x[i - 1])
            i, j = i - 1, j - 1
        elif rows[i] >> (j - 1) & 1:
            j -= 1
        else:
            i -= 1
    return found


_SENTENCE_ENDS = (
    tuple(  # one after the other: a character that one of them looks at is free again for the next
        re.compile(pattern)
        for pattern in (
            "([。！？?])([^”’])",
            r"(\.{6})([^”’])",
            "(…{2})([^”’])",
            "([。！？?][”’])([^，。！？?])",
        )
    )
)


def chinese_words(text: str) -> list[str]:
    """The words that rouge_chinese counts in a text of tokens joined by spaces, line breaks and all.

    The package starts a new line after each sentence; a line that then holds only spaces becomes an empty
    word.
    """
    for end in _SENTENCE_ENDS:
        text = end.sub(r"\1\n\2", text)
    return [word for line in text.rstrip().split("\n") if line for word in " ".join(line.split()).split(" ")]
