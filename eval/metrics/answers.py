"""Short answers: exact match and token F1.

- strict: the two texts are equal once white space around them is gone.
- normalised: equal after NFKC, lower case, and without white space and punctuation (Unicode categories P*).
- token precision, recall and F1 count shared tokens with repeats, each as often as the side that has it
  less often (SQuAD 1.1's definition, on the tokens that are given).

Two blank texts match. Knows no synonyms, units or languages: 2.3cm and 23mm do not match.
"""

from __future__ import annotations

import unicodedata

import numpy as np

from eval.metrics.overlap import Grams


def strict(prediction: str, reference: str) -> bool:
    """Whether the texts are equal, white space around them aside."""
    return prediction.strip() == reference.strip()


def normalised(prediction: str, reference: str) -> bool:
    """Whether the texts are equal, form, case, white space and punctuation aside."""
    return prediction == reference or _bare(prediction) == _bare(reference)


def _bare(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower().translate(_DROPPED)


class _Dropped(dict):
    """A table for `str.translate` that drops white space and punctuation, filled as characters occur."""

    def __missing__(self, code: int) -> int | None:
        character = chr(code)
        drop = character.isspace() or unicodedata.category(character).startswith("P")
        self[code] = None if drop else code
        return self[code]


_DROPPED = _Dropped()


def token_scores(words: Grams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F1, precision and recall of shared tokens, 0…1, float64 [pairs] each; 0 where nothing is shared."""
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = words.clipped / words.predicted, words.clipped / words.referenced
        f1 = 2 * precision * recall / (precision + recall)
    return tuple(np.where(words.clipped > 0, figure, 0.0) for figure in (f1, precision, recall))
