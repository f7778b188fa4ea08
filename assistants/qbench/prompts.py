"""What a quality rater is asked: three tasks, five prompts, two languages, each with the place of its score.

Ultrasound-QBench, section III.A. The wording is data (prompts.yaml beside this file, which also says what of
it is the paper's). A `Probe` is one question with the beginning of its answer: the next word is the level, or
the number of the best image. The quantitative prompt is one question with seven probes, one an indicator.

Knows nothing of tokens, models or files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

LEVELS = ("high", "medium", "low")  # from best to worst
QUALITATIVE = ("basic", "contextual", "diagnostic")
PROMPTS = (*QUALITATIVE, "quantitative", "comparative")
LANGUAGES = ("zh", "en")
OWN = "own"  # the prompt of a question in a person's own words
MOST_IMAGES = 9  # of one comparison: the images' numbers are single digits


@dataclass(frozen=True)
class Probe:
    """One question and how its answer begins. `name` is the prompt, or "quantitative:clarity" and so on;
    `one_word` tells a model whose answer cannot be begun for it to say nothing but the level."""

    name: str
    question: str
    answer: str
    language: str
    one_word: str
    images: int = 1

    def messages(self) -> tuple[dict, ...]:
        """The images, the question, and the beginning of the answer, for a chat template."""
        content = [*({"type": "image"} for _ in range(self.images)), {"type": "text", "text": self.question}]
        return ({"role": "user", "content": content}, answer_message(self.answer))

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change with every word of the question, the answer and its choices, and with
        what levels are worth: scores of two wordings do not compare."""
        said = [self.question, self.answer, self.one_word, choices(self), weights()]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]


@cache
def wording() -> dict:
    """prompts.yaml, read once."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))


def organs() -> tuple[str, ...]:
    """The organs whose views have a wording of their own."""
    return tuple(organ for organ in wording()["views"] if organ != "any")


def indicators() -> tuple[str, ...]:
    return tuple(wording()["quantitative"]["indicators"])


def weights() -> dict[str, float]:
    """What each level is worth: a score is the weighted sum of their probabilities, 0 … 10."""
    return {level: float(wording()["levels"][level]["weight"]) for level in LEVELS}


def level_words(language: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Of each level its own words and its synonyms, as they stand behind a probe's `answer`."""
    joint = wording()["joint"][language]
    return {
        level: tuple(
            tuple(joint + word for word in wording()["levels"][level][language][kind])
            for kind in ("words", "synonyms")
        )
        for level in LEVELS
    }


def numbers(count: int, language: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """The images' numbers, from 1, in the same form as `level_words`."""
    return {str(i): ((wording()["joint"][language] + str(i),), ()) for i in range(1, count + 1)}


def choices(probe: Probe) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """What may stand at the probe's score: levels, or the numbers of its images."""
    return level_words(probe.language) if probe.images == 1 else numbers(probe.images, probe.language)


def qualitative(prompt: str, language: str, organ: str | None = None) -> Probe:
    """One of QUALITATIVE; ValueError for any other prompt, language or organ."""
    _check("prompt", prompt, QUALITATIVE)
    view = _view(organ, language)
    question = wording()["qualitative"][prompt][language].format(**view)
    return _level_probe(prompt, question, language)


def own_question(words: str, language: str) -> Probe:
    """A person's own question about one image's quality, answered at the same place."""
    _check("language", language, LANGUAGES)
    return _level_probe(OWN, words.strip(), language)


def quantitative(language: str) -> tuple[Probe, ...]:
    """The quantitative prompt: one probe an indicator."""
    _check("language", language, LANGUAGES)
    words = wording()["quantitative"]
    probes = []
    for key, names in words["indicators"].items():
        answer = words["answer"][language].format(indicator=names[language])
        one_word = wording()["one_word"]["indicator"][language].format(indicator=names[language])
        probes.append(Probe(f"quantitative:{key}", words["ask"][language], answer, language, one_word))
    return tuple(probes)


def comparative(count: int, language: str) -> Probe:
    """Which of `count` images is best; ValueError for fewer than two or more than MOST_IMAGES."""
    _check("language", language, LANGUAGES)
    if not 2 <= count <= MOST_IMAGES:
        raise ValueError(f"a comparison takes 2 to {MOST_IMAGES} images, not {count}")
    words = wording()["comparative"]
    question = words["ask"][language].format(n=count)
    one_word = wording()["one_word"]["number"][language]
    return Probe("comparative", question, words["answer"][language], language, one_word, count)


def answer_message(text: str) -> dict:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def full_answer(probe: Probe, choice: str) -> str:
    """The whole answer with `choice`, a level or an image's number, at the score's place: what training
    teaches. ValueError for what is none of the probe's choices."""
    _check("choice", choice, tuple(choices(probe)))
    own, _ = choices(probe)[choice]
    return probe.answer + own[0]


def _level_probe(name: str, question: str, language: str) -> Probe:
    answer = wording()["qualitative"]["answer"][language]
    return Probe(name, question, answer, language, wording()["one_word"]["levels"][language])


def _view(organ: str | None, language: str) -> dict[str, str]:
    _check("language", language, LANGUAGES)
    _check("organ", organ, (None, *organs()))
    return wording()["views"][organ or "any"][language]


def _check(field: str, value: str | None, allowed: Sequence[str | None]) -> None:
    if value not in allowed:
        raise ValueError(f"{field} {value!r} is not one of {', '.join(map(str, allowed))}")
