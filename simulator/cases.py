"""From an order to a folder of cases: `cases.jsonl`, `images/`, on request `labels/` and `metadata.jsonl`.

Every task has a maker, a function (order, number) → Examined that draws one examination with its rows of
text. A maker seeds everything random with (order.seed, number): the same order gives the same files whatever
the number of worker processes, and two seeds share nothing. Each row becomes a Case (`imaging.case`); keys of
a row that Case does not know, such as the truth behind the images, are kept beside it.

The order itself is written first, `simulator.json`. A run that was killed leaves that file and some images:
the same order clears them and begins anew, any other is refused, so that no folder ever mixes two orders.

Knows nothing of what is drawn or said; only how it goes to disk.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from imaging.case import KEYS, LISTS, Case, write_cases
from imaging.limits import MAX_FILES
from simulator.dicom import BANNER, burned_in, invented_patient, write_dicom
from simulator.draw import Picture
from simulator.examination import ORGANS

MAKERS = {  # the module whose `make` draws the task; tasks of one maker share their images
    "report": "simulator.examinations",
    "diagnosis": "simulator.examinations",
    "vqa": "simulator.examinations",
    "cine": "simulator.cine",
    "group": "simulator.group",
    "plane": "simulator.planes",
    "quality": "simulator.quality",
    "compare": "simulator.quality",
}
TASKS = tuple(MAKERS)
FORMATS = ("png", "dicom")
CALIPERS = ("none", "some", "all")
WITH_CALIPERS = (
    "simulator.examinations",
    "simulator.cine",
)  # makers of images in which something is measured
# Of a cine: as PNG each frame is a file, and no more files are opened together; 256 are ten seconds, chosen.
MOST_FRAMES = {"png": MAX_FILES, "dicom": 256}
ORDER_FILE = "simulator.json"
CHUNK = 4  # examinations a worker takes at once: small, so that both finish together


class OrderError(ValueError):
    """An order that cannot be carried out; the message says what to change."""


@dataclass(frozen=True)
class Order:
    """What to make. Raises OrderError where the parts do not fit together.

    `language` is "zh", "en" or "both" (each row draws one); `rows` is the number of rows an examination gets
    for each task, in other words each time; `labels` also writes the label map of every image; `frames` is
    the length of a cine, 2 to MOST_FRAMES; `calipers` one of CALIPERS, `caliper_values` writes their
    millimetres into a corner; `patient_names` invents a patient for the DICOM header and burns
    the name into every image.
    """

    seed: int
    tasks: tuple[str, ...] = ("report",)
    organ: str | None = None
    language: str = "both"
    rows: int = 1
    labels: bool = False
    frames: int = 16
    calipers: str = "none"
    caliper_values: bool = False
    format: str = "png"
    patient_names: bool = False

    def __post_init__(self):
        makers = {MAKERS[task] for task in self.tasks}
        if len(set(self.tasks)) != len(self.tasks):
            raise OrderError(
                f"the tasks {', '.join(self.tasks)} name one twice: order it once, with more rows"
            )
        if len(makers) != 1:
            raise OrderError(f"the tasks {', '.join(self.tasks)} have different images: order them apart")
        if self.calipers != "none" and not makers <= set(WITH_CALIPERS):
            raise OrderError(
                f"the images of the task {self.tasks[0]} hold no measurement: leave out calipers"
            )
        if self.caliper_values and self.calipers == "none":
            raise OrderError("caliper values need calipers: choose calipers some or all")
        if not 2 <= self.frames <= MOST_FRAMES[self.format]:
            raise OrderError(
                f"a cine has 2 to {MOST_FRAMES[self.format]} frames in the format {self.format}, "
                f"not {self.frames}: choose --frames in between"
            )


@dataclass(frozen=True)
class Examined:
    """One examination as it goes to disk.

    `name` is made of seed and number ("s7-000012"). `rows` hold fields of Case except id, images and patient,
    and any other key; "pictures" names the pictures that a row shows, in its order (default: all). `loop`
    says that the pictures are the frames of one cine.
    """

    name: str
    pictures: tuple[Picture, ...]
    rows: tuple[dict, ...]
    loop: bool = False


Maker = Callable[[Order, int], Examined]


def maker(task: str) -> Maker:
    """The function that draws the examinations of a task; its module is imported only now. Raises
    OrderError."""
    try:
        return import_module(MAKERS[task]).make
    except ModuleNotFoundError as error:
        if error.name != MAKERS[task]:
            raise
        raise OrderError(f"nothing draws the task {task} yet: {MAKERS[task]} does not exist") from error


def organs(task: str) -> tuple[str, ...]:
    """The organs that can be ordered for a task: its maker's ORGANS, or the seven of `examination`."""
    return getattr(import_module(MAKERS[task]), "ORGANS", ORGANS)


def examination_name(order: Order, number: int) -> str:
    return f"s{order.seed}-{number:06d}"


def languages(order: Order, rng: np.random.Generator) -> str:
    """The language of the next row: the order's, or one of the two by chance."""
    return str(rng.choice(("zh", "en"))) if order.language == "both" else order.language


def write_examinations(order: Order, count: int, out: Path, workers: int = 1) -> Iterator[list[Case]]:
    """Write `count` examinations under `out`, yielding the cases of each as it is done; `simulator.json`
    comes first, at once, `cases.jsonl` last, whole or not at all.

    Raises, before it returns, OrderError for an organ that the task has not, and where `out` holds anything
    but leftovers of this very order; OSError where nothing can be written there.
    """
    write = partial(_write_one, maker(order.tasks[0]), order, out)
    if order.organ is not None and order.organ not in (known := organs(order.tasks[0])):
        task, choices = order.tasks[0], ", ".join(known)
        raise OrderError(f"the task {task} has no organ {order.organ!r}: choose one of {choices}, or none")
    _claim(order, count, out)
    (out / "images").mkdir(parents=True, exist_ok=True)
    if order.labels:
        (out / "labels").mkdir(exist_ok=True)
    return _written(write, count, out, workers)


def _written(write: Callable[[int], list[Case]], count: int, out: Path, workers: int) -> Iterator[list[Case]]:
    rows: list[Case] = []
    if workers <= 1:
        with threadpool_limits(1):
            for number in range(count):
                rows += (cases := write(number))
                yield cases
    else:
        with ProcessPoolExecutor(workers, initializer=threadpool_limits, initargs=(1,)) as pool:
            for cases in pool.map(write, range(count), chunksize=CHUNK):
                rows += cases
                yield cases
    write_cases(out / "cases.jsonl", rows)


def _claim(order: Order, count: int, out: Path) -> None:
    """Make `out` this order's folder: its order file is there, and no image of an earlier run."""
    wanted = json.loads(json.dumps({"cases": count} | asdict(order)))
    path = out / ORDER_FILE
    if (out / "cases.jsonl").exists():
        raise OrderError(f"{out} holds finished cases already: choose another OUT")
    if path.exists():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise OrderError(f"{path} is no JSON: choose another OUT") from error
        if key := next((key for key in wanted if there.get(key) != wanted[key]), None):
            was, now = (json.dumps(each.get(key)) for each in (there, wanted))
            raise OrderError(f"{path} is of another order ({key} {was}, now {now}): choose another OUT")
    elif any((out / "images").glob("*")):
        raise OrderError(f"{out / 'images'} holds files, and no {ORDER_FILE} says whose: choose another OUT")
    else:
        out.mkdir(parents=True, exist_ok=True)
        unfinished = out / f".{ORDER_FILE}"
        unfinished.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)
    for folder in ("images", "labels"):
        for left in (out / folder).glob(f"s{order.seed}-*"):
            left.unlink()


def write_metadata(out: Path, cases: Sequence[Case]) -> None:
    """Make `out` a folder that `datasets.load_dataset("imagefolder", data_dir=out)` opens: `metadata.jsonl`.

    Columns: the images, the label maps where there are any, the texts, and the whole case as JSON text in
    `case`, so that every row has the same columns of the same types. Needs no package.
    """
    lines = (out / "cases.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    unfinished = out / ".metadata.jsonl"
    with unfinished.open("w", encoding="utf-8") as file:
        for case, line in zip(cases, lines, strict=True):
            row: dict = {"file_names": [str(image) for image in case.images]}
            if "labels" in case.extra:
                row["labels_file_names"] = case.extra["labels"]
            for key in ("id", "question", "answer", "organ", "language", "task", "answer_type", "patient"):
                row[key] = getattr(case, key) or ""
            file.write(json.dumps(row | {"case": line}, ensure_ascii=False) + "\n")
    unfinished.replace(out / "metadata.jsonl")


def _write_one(make: Maker, order: Order, out: Path, number: int) -> list[Case]:
    examined = make(order, number)
    top = BANNER if order.patient_names else 0
    write = _write_dicom if order.format == "dicom" else _write_png
    images = write(order, examined, number, out)
    labels = []
    if order.labels:
        labels = [f"labels/{examined.name}-{i}.png" for i in range(len(examined.pictures))]
        for path, picture in zip(labels, examined.pictures, strict=True):
            Image.fromarray(np.pad(picture.labels, ((top, 0), (0, 0)))).save(out / path, compress_level=3)
    return list(_cases(examined, images, labels, top))


def _write_png(order: Order, examined: Examined, number: int, out: Path) -> list[str]:
    paths = [f"images/{examined.name}-{i}.png" for i in range(len(examined.pictures))]
    for path, picture in zip(paths, examined.pictures, strict=True):
        pixels = picture.pixels
        if order.patient_names:
            pixels = burned_in(pixels, invented_patient(order.seed, number))
        grey = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
        Image.fromarray(pixels[..., 0] if grey else pixels).save(out / path, compress_level=3)
    return paths


def _write_dicom(order: Order, examined: Examined, number: int, out: Path) -> list[str]:
    """One file for each picture, or one for all where they are a loop."""
    patient = invented_patient(order.seed, number) if order.patient_names else None
    stacks = [examined.pictures] if examined.loop else [(picture,) for picture in examined.pictures]
    paths = [f"images/{examined.name}-{i}.dcm" for i in range(len(stacks))]
    study = f"{examined.name} {order.tasks[0]}"
    for i, (path, pictures) in enumerate(zip(paths, stacks, strict=True)):
        write_dicom(out / path, pictures, study=study, number=i + 1, patient=patient)
    return paths


def _cases(examined: Examined, images: list[str], labels: list[str], top: int) -> Iterator[Case]:
    """The rows as cases. `top` rows of pixels were put above every picture: boxes move down by as much."""
    of_task, done = Counter(row["task"] for row in examined.rows), Counter()
    one_file = examined.loop and len(images) == 1 and len(examined.pictures) > 1
    for row in examined.rows:
        task = row["task"]
        shown = row.get("pictures", range(len(examined.pictures)))
        files = [0] if one_file else shown
        known = {key: tuple(row[key]) if key in LISTS else row[key] for key in KEYS if key in row}
        extra = {key: value for key, value in row.items() if key not in (*KEYS, "pictures")}
        extra["mm_per_pixel"] = [round(examined.pictures[i].mm_per_pixel, 4) for i in files]
        if labels:
            extra["labels"] = [labels[i] for i in shown]
        if one_file and "valid_images" in known:  # Case counts files, and all frames are in one
            extra["valid_frames"] = list(known["valid_images"])
            known["valid_images"] = (0,) if known["valid_images"] else ()
        if top and "boxes" in known:
            known["boxes"] = tuple(_moved(box, top) for box in known["boxes"])
        if top and "calipers" in extra:
            extra["calipers"] = [[_lowered(one, top) for one in picture] for picture in extra["calipers"]]
        yield Case(
            id=f"{examined.name}-{task}" + (f"-{done[task]}" if of_task[task] > 1 else ""),
            images=tuple(images[i] for i in files),
            patient=examined.name,
            extra=extra,
            **known,
        )
        done[task] += 1


def _lowered(caliper: dict, down: int) -> dict:
    return caliper | {"ends": [[x, y + down] for x, y in caliper["ends"]]}


def _moved(box: dict, down: int) -> dict:
    x1, y1, x2, y2 = box["box"]
    return box | {"box": [x1, y1 + down, x2, y2 + down]}
