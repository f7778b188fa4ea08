"""What LLaVA-Med calls exact match, F1, precision, recall and BLEU (its llava/eval/run_eval.py, commit
ff616e7).

The names are the script's, not what they usually mean. Its "exact match" is the number of different
reference words that were found, over the number of words in the answer, so an answer that is right but
short gets 100 and "No mass no mass" beside itself gets 50. Its F1 counts a repeated right word again each
time. Both read the answer after the normalisation of the VQA challenge (Antol et al. 2015): punctuation,
articles and number words, applied twice there; its BLEU after one pass. LLaVA-Ultra reports these figures
on Chinese, for which the words must be given, since the script splits at spaces.

The word lists are in llava_med.yaml.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from eval.metrics.overlap import Grams

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_ANY_MARK = re.compile("[" + re.escape(_MARKS) + "]")
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")  # the script's pattern, its mistyped lookbehind included
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIODS_A_PASS = 32  # the script passes re.UNICODE where re.sub takes a count


def normalize(text: str) -> str:
    """One pass of the script's `normalize_word`."""
    text = _without_marks(text)
    if "." in text:
        text = _PERIOD.sub("", text, count=_PERIODS_A_PASS)
    words = text.lower().split()
    table = _replacements()
    if not table.keys().isdisjoint(words):
        words = [new for word in words if (new := table.get(word, word))]
    return " ".join(words).replace(",", "")


def _without_marks(text: str) -> str:
    """A mark is dropped where it stands next to a space anywhere in the text, else it becomes a space."""
    if not _ANY_MARK.search(text):
        return text
    in_number = bool(_COMMA_IN_NUMBER.search(text))
    cleaned = text
    for mark in _MARKS:
        if mark in text:
            drop = in_number or f"{mark} " in text or f" {mark}" in text
            cleaned = cleaned.replace(mark, "" if drop else " ")
    return cleaned


@cache
def _replacements() -> dict[str, str]:
    """What becomes of a word: number words become digits, articles nothing, contractions get their
    apostrophe."""
    lists = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
    return lists["contractions"] | lists["numbers"] | dict.fromkeys(lists["articles"], "")


def exact(words: Grams) -> np.ndarray:
    """The script's "exact match", 0…1, float64 [pairs]; 0 for an answer without words."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(words.predicted > 0, words.shared_types / words.predicted, 0.0)


def f1_precision_recall(words: Grams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The script's F1, precision and recall, 0…1, float64 [pairs] each; 0 where nothing is shared."""
    right = words.found
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = right / words.predicted
        recall = right / (right + words.referenced - words.wanted)
        f1 = 2 * precision * recall / (precision + recall)
    return tuple(np.where(right > 0, figure, 0.0) for figure in (f1, precision, recall))


def closed(prediction: str, reference: str) -> bool:
    """The script's verdict on a closed question: "yes" or "no" stands anywhere in the answer, inside
    "normal" too, and so does the reference. Where the script drops such an answer from its mean if the
    reference is missing, it is wrong here."""
    said, true = normalize(prediction.lower()), normalize(reference.lower())
    return ("yes" in said or "no" in said) and true in said
