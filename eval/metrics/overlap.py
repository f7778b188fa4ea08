"""One pass over tokens that every overlap metric is computed from: shared n-grams, shared order, shared
chunks.

BLEU, ROUGE, token F1, LLaVA-Med's scores and METEOR all ask how many n-grams (n = 1…4) a prediction and its
reference share, counted with repeats, clipped, or as sets; ROUGE-L asks for the longest common subsequence,
METEOR for an alignment and its chunks. Each is counted here once for all, in numpy over blocks of texts: an
n-gram is packed with the index of its text into one integer, sorted, and equal neighbours are counted.

Exact, not hashed. Knows nothing of any metric's formula.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import LCSseq

ORDERS = 4
_BLOCK = 512  # pairs of texts that are sorted together: small enough to stay in the cache
_BITS = 62  # of a packed n-gram; two are kept for the side and the sign


Texts = Sequence[np.ndarray]  # integers [tokens] each


@dataclass(frozen=True)
class Grams:
    """What predictions and references share of one order n; int64 [pairs] each."""

    predicted: np.ndarray  # n-grams of the prediction, repeats counted
    referenced: np.ndarray
    predicted_types: np.ndarray  # different n-grams of the prediction
    referenced_types: np.ndarray
    clipped: np.ndarray  # shared n-grams, each as often as the side that has it less often
    shared_types: np.ndarray  # different n-grams that both have
    found: np.ndarray  # the prediction's n-grams, repeats counted, that the reference has at all
    wanted: np.ndarray  # the reference's n-grams, repeats counted, that the prediction has at all


@dataclass(frozen=True)
class Overlap:
    """`grams[n - 1]` for n = 1…4; `subsequence`, the longest common one, int64 [pairs]."""

    grams: tuple[Grams, ...]
    subsequence: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """Tokens of each prediction, int64 [pairs]."""
        return self.grams[0].predicted

    @property
    def referenced(self) -> np.ndarray:
        """Tokens of each reference, int64 [pairs]."""
        return self.grams[0].referenced


@dataclass(frozen=True)
class Alignment:
    """METEOR's word alignment: `matches` and the `chunks` they form, int64 [pairs] each."""

    matches: np.ndarray
    chunks: np.ndarray


class Numbered:
    """Texts as numbers, int32 [tokens] each: equal tokens have equal numbers, the index of the token in
    `vocabulary`. A text that occurs several times is cut once."""

    def __init__(self, texts: Sequence[str], tokenize: Callable[[str], Sequence[str]]):
        numbers: defaultdict[str, int] = defaultdict()
        numbers.default_factory = numbers.__len__
        self._known: dict[str, np.ndarray] = {}
        for text in texts:
            if text not in self._known:
                tokens = tokenize(text)
                self._known[text] = np.fromiter(map(numbers.__getitem__, tokens), np.int32, len(tokens))
        self.texts = [self._known[text] for text in texts]
        self.vocabulary = list(numbers)

    def lower(self) -> Texts:
        """The texts with tokens that differ in case alone made equal."""
        numbers: dict[str, int] = {}
        folded = [numbers.setdefault(token.lower(), len(numbers)) for token in self.vocabulary]
        if len(numbers) == len(folded):
            return self.texts
        table = np.array(folded, np.int32)
        return [table[text] for text in self.texts]

    def tokens(self, text: str) -> list[str]:
        """The tokens of one of the texts."""
        return [self.vocabulary[number] for number in self._known[text].tolist()]


def overlap(predictions: Texts, references: Texts, *, subsequence: bool = True) -> Overlap:
    """Count what each prediction shares with the reference of the same index."""
    parts = [
        [_grams(block, order) for order in range(1, ORDERS + 1)] for block in _blocks(predictions, references)
    ]
    grams = tuple(
        Grams(*map(np.concatenate, zip(*column, strict=True))) for column in zip(*parts, strict=True)
    )
    if not parts:
        grams = (Grams(*[np.zeros(0, np.int64)] * 8),) * ORDERS
    return Overlap(grams, _subsequences(predictions, references) if subsequence else np.zeros(0, np.int64))


def align(predictions: Texts, references: Texts) -> Alignment:
    """nltk's alignment by equal tokens: from the end, each token takes the last equal one that is still
    free."""
    parts = [_aligned(block) for block in _blocks(predictions, references)]
    matches, chunks = zip(*parts, strict=True) if parts else ((), ())
    return Alignment(*(np.concatenate([np.zeros(0, np.int64), *part]) for part in (matches, chunks)))


@dataclass(frozen=True)
class _Side:
    """The texts of one side of a block, end to end."""

    tokens: np.ndarray  # int64 [T]
    text: np.ndarray  # int64 [T]: index of the text within the block
    lengths: np.ndarray  # int64 [pairs]

    @property
    def place(self) -> np.ndarray:
        """int64 [T]: position of each token within its text."""
        starts = np.cumsum(self.lengths) - self.lengths
        return np.arange(len(self.tokens)) - np.repeat(starts, self.lengths)


@dataclass(frozen=True)
class _Block:
    prediction: _Side
    reference: _Side
    token_bits: int

    def __len__(self) -> int:
        return len(self.prediction.lengths)


def _blocks(predictions: Texts, references: Texts) -> Iterator[_Block]:
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    for start in range(0, len(predictions), _BLOCK):
        sides = [_side(texts[start : start + _BLOCK]) for texts in (predictions, references)]
        largest = max((int(side.tokens.max(initial=0)) for side in sides), default=0)
        yield _Block(*sides, token_bits=max(1, largest.bit_length()))


def _side(texts: Texts) -> _Side:
    lengths = np.array([len(text) for text in texts], np.int64)
    tokens = np.concatenate([np.zeros(0, np.int64), *texts])
    return _Side(tokens, np.repeat(np.arange(len(texts)), lengths), lengths)


def _grams(block: _Block, order: int) -> tuple[np.ndarray, ...]:
    """The fields of Grams for one block."""
    sides = (block.prediction, block.reference)
    keys, bits = _packed(sides, order, block.token_bits)
    marked = np.concatenate([(key << 1) | side for side, key in enumerate(keys)])
    marked.sort()
    kinds, counts = _runs(marked)
    texts, is_reference = kinds >> (bits + 1), (kinds & 1).astype(bool)
    both = np.flatnonzero((kinds[:-1] >> 1) == (kinds[1:] >> 1))  # a prediction's run, then the reference's
    here = texts[both]
    predicted, referenced = counts[both], counts[both + 1]
    n = len(block)
    totals = [np.maximum(side.lengths - order + 1, 0) for side in sides]
    types = [np.bincount(texts[is_reference == side], minlength=n) for side in (False, True)]
    return (
        *totals,
        *types,
        _sum(here, np.minimum(predicted, referenced), n),
        np.bincount(here, minlength=n),
        _sum(here, predicted, n),
        _sum(here, referenced, n),
    )


def _packed(sides: Sequence[_Side], order: int, token_bits: int) -> tuple[list[np.ndarray], int]:
    """Every n-gram of both sides as text index << bits | n-gram; and `bits`. Equal only for equal n-grams."""
    grams, bits = [side.tokens for side in sides], token_bits
    text_bits = max(1, max(len(side.lengths) for side in sides).bit_length())
    for added in range(1, order):
        if bits + token_bits + text_bits > _BITS:
            grams, bits = _renumbered(grams)
        grams = [
            (gram[:-1] << token_bits) | side.tokens[added:] for gram, side in zip(grams, sides, strict=True)
        ]
        bits += token_bits
    if bits + text_bits > _BITS:
        grams, bits = _renumbered(grams)
    keys = []
    for gram, side in zip(grams, sides, strict=True):
        text = side.text[: len(gram)]
        inside = (
            text == side.text[order - 1 :][: len(gram)]
        )  # an n-gram does not run from one text into the next
        keys.append((text[inside] << bits) | gram[inside])
    return keys, bits


def _renumbered(grams: Sequence[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Equal values stay equal, and take as few bits as there are different ones."""
    kinds, numbers = np.unique(np.concatenate(list(grams)), return_inverse=True)
    return [numbers[: len(grams[0])], numbers[len(grams[0]) :]], max(1, len(kinds).bit_length())


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different values of a sorted array, and how often each occurs."""
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])[: len(values)])
    return values[first], np.diff(np.append(first, len(values)))


def _sum(where: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    return np.bincount(where, weights=values, minlength=n).astype(np.int64)


def _subsequences(predictions: Texts, references: Texts) -> np.ndarray:
    pairs = zip(predictions, references, strict=True)
    lengths = (LCSseq.similarity(prediction.tolist(), reference.tolist()) for prediction, reference in pairs)
    return np.fromiter(lengths, np.int64, len(predictions))


def _aligned(block: _Block) -> tuple[np.ndarray, np.ndarray]:
    """Matches and chunks of every pair of one block."""
    hyp_key, hyp_place, ref_key, ref_place = _ranked(block)
    at = np.searchsorted(ref_key, hyp_key)
    at[at == len(ref_key)] = 0
    hit = ref_key[at] == hyp_key if len(ref_key) else np.zeros(len(hyp_key), bool)
    hyp, ref = hyp_place[hit], ref_place[at[hit]]
    order = np.argsort(hyp)
    hyp, ref = hyp[order], ref[order]
    text = block.prediction.text[hyp]
    goes_on = (np.diff(hyp) == 1) & (np.diff(ref) == 1) & (np.diff(text) == 0)
    matches = np.bincount(text, minlength=len(block))
    return matches, matches - np.bincount(text[1:][goes_on], minlength=len(block))


def _ranked(block: _Block) -> tuple[np.ndarray, ...]:
    """For each side: (text, token, how many equal ones follow in the text) as sorted keys, and each one's
    place in the block. The keys of the two sides are equal where METEOR aligns two tokens."""
    sides = (block.prediction, block.reference)
    tokens, bits = [side.tokens for side in sides], block.token_bits
    place_bits = max(1, max(len(side.tokens) for side in sides).bit_length())
    if bits + place_bits + _BLOCK.bit_length() > _BITS:
        tokens, bits = _renumbered(tokens)
    found = []
    for side, numbers in zip(sides, tokens, strict=True):
        total = len(numbers)
        index = np.arange(total)
        key = (((side.text << bits) | numbers) << place_bits) | (total - 1 - index)
        key.sort()
        kind = key >> place_bits
        first = np.concatenate([[True], kind[1:] != kind[:-1]])[:total]
        rank = index - np.maximum.accumulate(np.where(first, index, 0)) if total else index
        found += [(kind << place_bits) | rank, total - 1 - (key & ((1 << place_bits) - 1))]
    return tuple(found)
