"""Still images of the seven organs with reports, diagnoses and questions: the maker of these three tasks.

Draws a random examination (`population`), each of its views (`draw`), and the texts of the ordered tasks
(`language`); one truth stands behind all of them. Calipers come on top where they are ordered.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from simulator import language
from simulator.calipers import ordered_calipers
from simulator.cases import Examined, Order, examination_name, languages
from simulator.draw import draw_view
from simulator.examination import Examination
from simulator.population import sample_examination


def make(order: Order, number: int) -> Examined:
    """Examination `number` of the order: a picture for each view, `order.rows` rows for each task."""
    examination = sample_examination(np.random.default_rng([order.seed, number]), order.organ)
    pictures = [draw_view(examination, view) for view in examination.views]
    pictures, extra = ordered_calipers(order, number, examination, pictures)
    rows = tuple(row | extra for row in _rows(order, examination, number))
    return Examined(examination_name(order, number), tuple(pictures), rows)


def _rows(order: Order, examination: Examination, number: int) -> Iterator[dict]:
    rng = np.random.default_rng([order.seed, number, 1])
    for task in order.tasks:
        for _ in range(order.rows):
            tongue = languages(order, rng)
            question, answer, answer_type = _texts(examination, task, tongue, rng)
            yield {
                "question": question,
                "answer": answer,
                "organ": examination.organ,
                "language": tongue,
                "task": task,
                "answer_type": answer_type,
                "valid_images": [i for i, view in enumerate(examination.views) if view.shows_lesion],
                "examination": examination.truth(),
            }


def _texts(
    examination: Examination, task: str, tongue: str, rng: np.random.Generator
) -> tuple[str, str, str]:
    """Question, answer and answer type of one row."""
    if task == "vqa":
        asked = language.questions(examination, tongue, rng)
        drawn = asked[int(rng.integers(len(asked)))]
        return drawn.question, drawn.answer, drawn.answer_type
    organ = examination.organ if rng.random() < 0.5 else None
    text = language.report if task == "report" else language.diagnosis
    return language.request(task, tongue, rng, organ), text(examination, tongue, rng), "open"
