"""From random examinations to a folder of cases: `cases.jsonl`, `images/`, and on request `labels/`.

Every examination has its own random stream, seeded by (seed, number): the same seed gives the same files
whatever the number of worker processes, and two runs with different seeds share nothing. Each row of
`cases.jsonl` is a Case (`imaging.case`) that carries the examination's truth under the extra key
`examination`.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from imaging.case import Case, write_cases
from simulator import language
from simulator.draw import draw_view
from simulator.examination import Examination
from simulator.population import sample_examination

TASKS = ("report", "diagnosis", "vqa")


@dataclass(frozen=True)
class Order:
    """What to make. `language` is "zh", "en" or "both" (each row draws one); `rows` is the number of rows
    an examination gets for each task, in other words each time; `labels` also writes the label map of
    every image."""

    seed: int
    tasks: tuple[str, ...] = ("report",)
    organ: str | None = None
    language: str = "both"
    rows: int = 1
    labels: bool = False


def write_examinations(order: Order, count: int, out: Path, workers: int = 1) -> Iterator[list[Case]]:
    """Write `count` examinations under `out`, yielding the cases of each as it is done; `cases.jsonl` comes
    last."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    if order.labels:
        (out / "labels").mkdir(exist_ok=True)
    make = partial(_write_one, order, out)
    rows: list[Case] = []
    if workers <= 1:
        batches = map(make, range(count))
        for cases in batches:
            rows += cases
            yield cases
    else:
        with ProcessPoolExecutor(workers) as pool:
            for cases in pool.map(make, range(count), chunksize=8):
                rows += cases
                yield cases
    write_cases(out / "cases.jsonl", rows)


def _write_one(order: Order, out: Path, number: int) -> list[Case]:
    examination = sample_examination(np.random.default_rng([order.seed, number]), order.organ)
    name = f"s{order.seed}-{number:06d}"
    images, labels, scales = [], [], []
    for i, view in enumerate(examination.views):
        picture = draw_view(examination, view)
        scales.append(round(picture.mm_per_pixel, 4))
        images.append(f"images/{name}-{i}.png")
        _save(picture.pixels, out / images[-1])
        if order.labels:
            labels.append(f"labels/{name}-{i}.png")
            Image.fromarray(picture.labels).save(out / labels[-1], compress_level=3)
    extra = {"mm_per_pixel": scales} | ({"labels": labels} if labels else {})
    return list(_cases(order, examination, name, images, extra))


def _save(pixels: np.ndarray, path: Path) -> None:
    grey = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    Image.fromarray(pixels[..., 0] if grey else pixels).save(path, compress_level=3)


def _cases(
    order: Order, examination: Examination, name: str, images: list[str], extra: dict
) -> Iterator[Case]:
    rng = np.random.default_rng([order.seed, int(name.split("-")[1]), 1])
    for task in order.tasks:
        for row in range(order.rows):
            tongue = str(rng.choice(("zh", "en"))) if order.language == "both" else order.language
            question, answer, answer_type = _texts(examination, task, tongue, rng)
            yield Case(
                id=f"{name}-{task}" + (f"-{row}" if order.rows > 1 else ""),
                images=tuple(images),
                question=question,
                answer=answer,
                organ=examination.organ,
                language=tongue,
                task=task,
                answer_type=answer_type,
                valid_images=tuple(i for i, view in enumerate(examination.views) if view.shows_lesion),
                patient=name,
                extra={"examination": examination.truth(), **extra},
            )


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
