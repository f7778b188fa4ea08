"""METEOR as nltk computes it (Banerjee and Lavie 2005; nltk 3.10.4's parameters), by equal words alone.

F = P·R / (alpha·P + (1 − alpha)·R) with alpha 0.9; the penalty is gamma·(chunks / matches)^beta with
gamma 0.5 and beta 3; tokens are compared in lower case. Stems and WordNet synonyms exist for English only
and are left out: for Chinese tokens they change nothing. The METEOR 1.5 program (Java) uses another
formula.
"""

from __future__ import annotations

import numpy as np

from eval.metrics.overlap import Alignment

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5
RECEIPT = "match:exact|alpha:0.9|beta:3|gamma:0.5|case:lower"


def meteor(aligned: Alignment, predicted: np.ndarray, referenced: np.ndarray) -> np.ndarray:
    """METEOR of each pair, 0…1, from its alignment and the two lengths; all [pairs]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = aligned.matches / predicted, aligned.matches / referenced
        mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
        penalty = GAMMA * (aligned.chunks / aligned.matches) ** BETA
        return np.where(aligned.matches > 0, (1 - penalty) * mean, 0.0)
