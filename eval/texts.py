"""The texts of a file of pairs, cut and counted as a profile wants them; each way of cutting is done once.

A pair with several right references becomes several rows here, and `best` takes the highest score of each
pair. Pairs without a reference text (a quality case, say) have no row. Knows nothing of metrics' formulas
or of groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from eval import tokenizers
from eval.metrics import bleu
from eval.metrics.overlap import Alignment, Numbered, Overlap, align, overlap
from eval.normalization import normalizer, signature
from eval.pairs import Pair
from eval.tokenizers import Tokenize


class Cut:
    """The rows of a file as tokens, with what they share, counted when first asked for."""

    def __init__(self, predictions: list[str], references: list[str], pair: np.ndarray, tokenize: Tokenize):
        self._predictions, self._references = predictions, references
        self._numbered = Numbered(predictions + references, tokenize)
        self._pair = pair  # int64 [rows]: index of each row's pair
        self._n = len(predictions)

    def tokens(self, text: str) -> list[str]:
        """The tokens of one of the texts."""
        return self._numbered.tokens(text)

    @cached_property
    def shared(self) -> Overlap:
        """What each row's two sides share."""
        return overlap(self._numbered.texts[: self._n], self._numbered.texts[self._n :])

    @cached_property
    def alignment(self) -> Alignment:
        """METEOR's alignment of each row, case ignored."""
        lower = self._numbered.lower()
        return align(lower[: self._n], lower[self._n :])

    def bleu_counts(self, pairs: int) -> np.ndarray:
        """float64 [pairs, 10] for `eval.metrics.bleu`, the references of a pair taken together as BLEU
        does."""
        counted = bleu.counts(self.shared)
        counts = np.zeros((pairs, counted.shape[1]))
        counts[self._pair] = counted
        several = np.flatnonzero(np.bincount(self._pair, minlength=pairs) > 1)
        for index in several:
            rows = np.flatnonzero(self._pair == index)
            references = [self.tokens(self._references[row]) for row in rows]
            counts[index] = bleu.counts_of_several(self.tokens(self._predictions[rows[0]]), references)
        return counts


class Texts:
    """Predictions and references, rewritten as asked, one row for each reference."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        tokenize: str = "jieba",
        user_dictionary: str | Path | None = None,
        normalize: Sequence[str] = (),
        lower: bool = False,
    ):
        self.pairs = pairs
        self._rewrite = rewrite = normalizer(normalize, lower=lower)
        self.signature = signature(normalize, lower=lower)
        self.tokens, self.token_signature = tokenizers.tokenizer(tokenize, user_dictionary)
        rows = [(i, reference) for i, pair in enumerate(pairs) for reference in pair.references]
        self.pair = np.array([i for i, _ in rows], np.int64)  # [rows]
        self.predictions = [rewrite(pairs[i].prediction or "") for i, _ in rows]
        self.references = [rewrite(reference) for _, reference in rows]
        self._cuts: dict[str, Cut] = {}

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.pair)

    def rewritten(self) -> list[Pair]:
        """The pairs with both texts rewritten as asked."""
        return [
            replace(
                pair,
                prediction=None if pair.prediction is None else self._rewrite(pair.prediction),
                references=tuple(map(self._rewrite, pair.references)),
            )
            for pair in self.pairs
        ]

    @property
    def words(self) -> Cut:
        """Cut by the tokenizer that was chosen, jieba unless said otherwise."""
        return self.cut("words", self.tokens)

    def cut(self, name: str, tokenize: Tokenize) -> Cut:
        """Cut by `tokenize`; `name` tells ways of cutting apart."""
        if name not in self._cuts:
            self._cuts[name] = Cut(self.predictions, self.references, self.pair, tokenize)
        return self._cuts[name]

    def best(self, rows: Sequence[float] | np.ndarray) -> np.ndarray:
        """The highest value among each pair's rows, float64 [pairs]; NaN for a pair without a row."""
        values = np.full(len(self.pairs), -np.inf)
        np.maximum.at(values, self.pair, np.nan_to_num(np.asarray(rows, np.float64), nan=-np.inf))
        return np.where(np.isinf(values), np.nan, values)
