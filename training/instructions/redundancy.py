"""Leave out instances that say again what an earlier one said.

EchoVLM (2025), appendix, "Data Generation Pipeline Implementation": an instance is dropped when its ROUGE-L
similarity to any prior instance exceeds 0.7, or when its SimHash lies within a Hamming distance of 3. The
paper names no tokens and no variant, so this is decided here:

* "prior" is every instance before it, also one that was dropped itself: so the wording goes. The order
  matters. (Self-Instruct compares with what was kept; that leaves more in, and chains of small changes too.)
* Tokens: text in NFKC and lower case; every ideograph is one, every number ("1.2") and every run of other
  letters ("12mm" and "BI-RADS" are two); punctuation and white space are none.
* ROUGE-L is the F-measure 2 LCS / (m + n) over tokens, as in Self-Instruct, which the paper follows.
* SimHash has 64 bits; its features are the windows of four characters over letters and digits, counted, each
  hashed by the last eight bytes of MD5, as the package `simhash` does by default (1e0ng/simhash).

The index is exact, for both are bounded before they are computed. LCS is at most the number of common
tokens, so two texts above the threshold share one of their rarest tokens (prefix filter, Chaudhuri et al.
2006); lengths and a bitmap of the tokens (bitmap filter, Sandes et al. 2020) exclude most of the rest, and
rapidfuzz computes the LCS of what is left. Two hashes within 3 bits agree in one of four bands of 16.

Does not know: meaning. "Yes" and "no" to one long question are alike to it, and so are two patients'
normal reports; group what may not exclude each other. Time is near linear while texts have words of their
own or many are dropped; it is quadratic for long texts of few words of which none is dropped.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from hashlib import md5

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

ROUGE_L = (7, 10)  # more alike than 7/10 is dropped: a fraction, so that the comparison is exact
HAMMING = 3  # bits; as near or nearer is dropped
BITS, BANDS = 64, 4
WINDOW = 4  # characters
BITMAP = 512  # bits that a text's tokens are marked in; chosen
FIRST_LOOK = 64  # most promising candidates, whose LCS is computed before that of the others; chosen
MOST_WORDS = 0x110000  # tokens are written as characters for rapidfuzz

_IDEOGRAPHS = "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"[{_IDEOGRAPHS}]|\d+(?:\.\d+)*|[^\W\d_{_IDEOGRAPHS}]+")
_NO_LETTER = re.compile(r"[\W_]+")


def tokens(text: str) -> list[str]:
    """The tokens of ROUGE-L: ideographs, numbers, and runs of other letters, in lower case."""
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).lower())


def rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    """ROUGE-L F-measure of two texts' tokens, 0 to 1; 1 for two texts without tokens."""
    total = len(first) + len(second)
    return 2 * LCSseq.similarity(first, second) / total if total else 1.0


def simhash(text: str) -> int:
    """The 64-bit SimHash (Charikar 2002) of a text: bit k is set where most features have it set."""
    letters = _NO_LETTER.sub("", unicodedata.normalize("NFKC", text).lower())
    windows = [letters[i : i + WINDOW] for i in range(max(1, len(letters) - WINDOW + 1))]
    hashed = b"".join(md5(window.encode("utf-8", "replace")).digest()[8:] for window in windows)
    bits = np.unpackbits(np.frombuffer(hashed, np.uint8).reshape(-1, 8), axis=1)  # [windows, 64]
    majority = bits.sum(axis=0, dtype=np.int32) * 2 > len(windows)
    return int.from_bytes(np.packbits(majority).tobytes(), "big")


def redundant(
    texts: Sequence[str], progress: Iterable[int] | None = None, *, workers: int = 1
) -> list[str | None]:
    """For each text, why it is left out: "rouge_l" or "simhash" (when the first does not hold already), or
    None where it is kept.

    `progress` may wrap `range(len(texts))`, say in a progress bar. With `workers`, as many processes judge a
    share of the texts each; the result is the same. Memory grows with the tokens of all different texts, in
    every process. Raises ValueError where the texts have more different tokens than there are characters to
    write them as (1,114,112).
    """
    if workers <= 1:
        return _verdicts(texts, 0, 1, progress)
    with ProcessPoolExecutor(workers - 1) as pool:
        others = [pool.submit(_verdicts, texts, share, workers) for share in range(1, workers)]
        parts = [_verdicts(texts, 0, workers, progress), *(other.result() for other in others)]
    return [parts[i % workers][i] for i in range(len(texts))]


def _verdicts(
    texts: Sequence[str], share: int, shares: int, progress: Iterable[int] | None = None
) -> list[str | None]:
    """The verdict on every text whose number leaves the rest `share` on division by `shares`. The verdict on
    one needs the texts before it and not theirs, so that shares do not wait for one another."""
    coded = _coded(texts)
    ranks = _ranks(coded)
    alike, near = _RougeIndex(), _SimHashIndex()
    reasons: list[str | None] = [None] * len(texts)
    for i in progress or range(len(texts)):
        text, bits = _Tokens(coded[i], ranks), simhash(texts[i])
        if i % shares == share:
            reasons[i] = (
                "rouge_l" if alike.holds_similar(text) else "simhash" if near.holds_near(bits) else None
            )
        alike.add(text)
        near.add(bits)
    return reasons


def enough(total: int | np.ndarray) -> int | np.ndarray:
    """The smallest LCS with which two texts of `total` tokens together are more alike than ROUGE_L."""
    return ROUGE_L[0] * total // (2 * ROUGE_L[1]) + 1


def _coded(texts: Sequence[str]) -> list[str]:
    """Every text with one character for each token, the same for the same token."""
    codes: dict[str, str] = {}
    coded = []
    for text in texts:
        words = tokens(text)
        for word in words:
            if word not in codes:
                if len(codes) == MOST_WORDS:
                    raise ValueError(f"more than {MOST_WORDS:,} different words: split the file")
                codes[word] = chr(len(codes))
        coded.append("".join([codes[word] for word in words]))
    return coded


def _features(coded: str) -> list[int]:
    """The tokens as a set: the second occurrence of a token is another feature than its first."""
    seen: dict[str, int] = {}
    features = []
    for character in coded:
        occurrence = seen.get(character, 0)
        seen[character] = occurrence + 1
        features.append(ord(character) + occurrence * MOST_WORDS)
    return features


def _ranks(coded: Sequence[str]) -> dict[int, int]:
    """Features by how many texts have them, the rarest first."""
    counts: Counter[int] = Counter()
    for text in coded:
        counts.update(_features(text))
    return {feature: rank for rank, feature in enumerate(sorted(counts, key=lambda f: (counts[f], f)))}


class _Tokens:
    """What the index compares of a text: `coded`, its rarest features (`prefix`), `bitmap` [BITMAP / 64] of
    all features, and how many of them the bitmap does not show (`unmarked`), since bits are shared."""

    def __init__(self, coded: str, ranks: dict[int, int]):
        self.coded = coded
        features = sorted(ranks[feature] for feature in _features(coded))
        self.prefix = features[: _prefix_length(len(coded))]
        marks = np.zeros(BITMAP, np.uint8)
        marks[np.array(features, np.int64) % BITMAP] = 1
        self.bitmap = np.packbits(marks).view(np.uint64)
        self.unmarked = len(features) - int(marks.sum())


def _prefix_length(length: int) -> int:
    """Of its rarest features, how many a text must show so that none of its partners is missed: all but one
    less than what it must share with the shortest partner."""
    shortest = ROUGE_L[0] * length // (2 * ROUGE_L[1] - ROUGE_L[0])
    while shortest < enough(length + shortest):
        shortest += 1
    return length - enough(length + shortest) + 1 if length else 0


class _RougeIndex:
    """Different texts, found again by what is more alike than ROUGE_L."""

    def __init__(self):
        self.texts: list[str] = []
        self.same: set[str] = set()
        self.postings: dict[int, array] = {}  # feature → the texts that have it in their prefix
        self.lengths = np.zeros(1024, np.int32)
        self.unmarked = np.zeros(1024, np.int32)  # tokens that share their bit of the bitmap with another
        self.bitmaps = np.zeros((BITMAP // 64, 1024), np.uint64)

    def add(self, text: _Tokens) -> None:
        if text.coded in self.same:
            return
        number = len(self.texts)
        if number == len(self.lengths):
            for name in ("lengths", "unmarked", "bitmaps"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros_like(old)], axis=-1))
        self.texts.append(text.coded)
        self.same.add(text.coded)
        self.lengths[number] = len(text.coded)
        self.unmarked[number] = text.unmarked
        self.bitmaps[:, number] = text.bitmap
        for feature in text.prefix:
            self.postings.setdefault(feature, array("i")).append(number)

    def holds_similar(self, text: _Tokens) -> bool:
        if text.coded in self.same:
            return True
        candidates = self._candidates(text)
        first, rest = candidates[:FIRST_LOOK], candidates[FIRST_LOOK:]
        return self._any_similar(text.coded, first) or self._any_similar(text.coded, rest)

    def _candidates(self, text: _Tokens) -> np.ndarray:
        """Texts that may be similar, those that share most of the bitmap first: those that share the
        prefix, where lengths and bitmaps leave room for enough common tokens."""
        lists = [self.postings[feature] for feature in text.prefix if feature in self.postings]
        met = np.zeros(len(self.texts), bool)
        for numbers in lists:
            met[np.frombuffer(numbers, np.int32)] = True
        candidates = np.flatnonzero(met)
        if 4 * len(candidates) > len(met):  # all of them are looked through faster than many picked out
            candidates, where = np.arange(len(met)), slice(len(met))
        else:
            where = candidates
        length, lengths = len(text.coded), self.lengths[where]
        needed = enough(length + lengths)
        # A bit that is set on one side only is a token that is not common.
        shared = np.bitwise_count(self.bitmaps[:, where] & text.bitmap[:, None]).sum(axis=0, dtype=np.int32)
        possible = shared + np.minimum(text.unmarked, self.unmarked[where]) >= needed
        possible &= needed <= np.minimum(length, lengths)
        return candidates[possible][np.argsort(-shared[possible], kind="stable")]

    def _any_similar(self, coded: str, candidates: np.ndarray) -> bool:
        if not len(candidates):
            return False
        needed = enough(len(coded) + self.lengths[candidates])
        others = [self.texts[i] for i in candidates]
        common = cdist([coded], others, scorer=LCSseq.similarity, score_cutoff=int(needed.min()), workers=1)
        return bool((common[0] >= needed).any())


class _SimHashIndex:
    """Kept hashes, found again by what is within HAMMING bits: one of more bands than that is equal."""

    def __init__(self):
        self.bands: list[dict[int, set[int]]] = [{} for _ in range(BANDS)]

    def add(self, bits: int) -> None:
        for band, key in zip(self.bands, _band_keys(bits), strict=True):
            band.setdefault(key, set()).add(bits)

    def holds_near(self, bits: int) -> bool:
        return any(
            (bits ^ other).bit_count() <= HAMMING
            for band, key in zip(self.bands, _band_keys(bits), strict=True)
            for other in band.get(key, ())
        )


def _band_keys(bits: int) -> list[int]:
    width = BITS // BANDS
    return [bits >> (width * band) & ((1 << width) - 1) for band in range(BANDS)]
