"""From a test set to a table: predict, score, compare.

    >>> from eval import score
    >>> result = score(["低回声结节"], ["低回声结节"], resamples=0)
    >>> result.value("answers", "EM")
    100.0

Importing it loads neither torch nor nltk nor gradio.
"""

from eval.pairs import Pair, PairError, read_pairs
from eval.result import Result
from eval.scoring import Options, score, score_pairs

__all__ = ["Options", "Pair", "PairError", "Result", "read_pairs", "score", "score_pairs"]
