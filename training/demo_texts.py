"""The texts that a demo tokenizer is learned from: the cases' own, and what the assistants ask and answer.

One tokenizer serves every adapter on the demo base, so words that only a later assistant says are read here
too: the requests of EchoVLM, QBench's probes with each level at the score's place (a level should be one
token), AbVLM-Q's answers (without the marks of boxes, which are tokens of their own).

Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from assistants.abvlm_q.answers import Names, answer_of, write
from assistants.echovlm.prompts import organs, standard_request
from assistants.qbench import prompts
from assistants.wording import LANGUAGES
from imaging.case import Case
from imaging.planes import Planes
from models.boxes import MARKS, Canvas

# How often a text that is asked or said of every image counts beside texts that are one case's own.
STANDARD = 50
PLANES = 5  # likewise for the answers about planes, whose cases are few beside the examinations
_CANVAS = Canvas((224, 224))


def demo_texts(cases: Sequence[Case], protocol: Planes) -> Iterator[str]:
    """Texts in no order of weight: what counts more comes more often."""
    names = Names(protocol)
    for case in cases:
        yield from (text for text in (case.question, case.answer) if text)
        if case.plane:
            yield from [_plane_answer(case, names)] * PLANES
    for text in (*_requests(), *_ratings()):
        yield from [text] * STANDARD


def _plane_answer(case: Case, names: Names) -> str:
    language = case.language or "zh"
    text = write(answer_of(case, names.protocol, language), names, language, _CANVAS)
    for mark in MARKS:
        text = text.replace(mark, "")
    return text


def _requests() -> Iterator[str]:
    for task in ("report", "diagnosis", "vqa"):
        for language in LANGUAGES:
            for organ in (None, *organs()):
                yield standard_request(task, language, organ)


def _ratings() -> Iterator[str]:
    for language in LANGUAGES:
        one = [prompts.qualitative(name, language) for name in prompts.QUALITATIVE]
        probes = (*one, *prompts.quantitative(language), prompts.comparative(2, language))
        for probe in probes:
            yield probe.question
            yield from (probe.answer + words[0] for words, _ in prompts.choices(probe).values())
