"""Folders of images with quality levels as cases, and comparisons made of them.

The shapes in which image quality sets such as Ultrasound-QBench's IVUSQA and CardiacUltraQA can be kept:
a CSV with `image,label[,view][,score]` beside or above its images, or a folder for every level. Neither set
was at hand, so both shapes are descriptions of ours. Labels may be written as below.

Nothing is dropped in silence: a row whose image is missing stays a case, which then fails by name; files that
are no images by their ending, and images that no row names, are warned about.

Knows nothing of predictions and opens no image.
"""

from __future__ import annotations

import csv
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.rows import PairError, check_text, some

if TYPE_CHECKING:
    from imaging.case import Case

LEVELS = ("low", "medium", "high")  # rising
LABELS = {
    "low": ("low", "low quality", "poor", "bad", "低", "低质量"),
    "medium": ("medium", "medium quality", "mid", "moderate", "中", "中等", "中等质量"),
    "high": ("high", "high quality", "good", "高", "高质量"),
}
ORGANS = {  # what a view, or else the set's name, says of the organ
    "vessel": ("ivus", "intravascular", "血管内"),
    "heart": ("cardiac", "a4c", "apical", "heart", "心尖", "心脏"),
}
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".dcm", ".dicom", ""}
IMAGE, LABEL, VIEW, SCORE = "image", "label", "view", "score"


def is_quality_set(path: Path) -> bool:
    """Whether `path` is a CSV with image and label, a folder that holds one, or a folder of levels."""
    if path.is_dir():
        return _table_in(path) is not None or len(_level_folders(path)) > 1
    return path.suffix.lower() == ".csv" and {IMAGE, LABEL} <= set(_header(path))


def read_quality_set(path: Path, images: str | Path | None = None) -> list[Case]:
    """A case of task "quality" for every image, named after the folder as `dataset`, without a question.

    `images` is the folder of a CSV's images where it is not the CSV's own. PairError for a row without an
    image or with a label that is no level, and for no images at all.
    """
    table = path if path.is_file() else _table_in(path)
    if table is not None:
        return _of_table(table, Path(images) if images is not None else table.parent)
    return _of_folders(path)


def comparisons(cases: Sequence[Case], count: int, seed: int = 0) -> list[Case]:
    """`count` cases of task "compare", each of two images one level apart, shuffled, and of one set, view and
    language; half of them between high and medium. The same seed makes the same pairs.

    PairError where no set has images of two neighbouring levels.
    """
    rng = np.random.default_rng(seed)
    pools: dict[tuple, dict[str, list[Case]]] = defaultdict(lambda: defaultdict(list))
    for case in cases:
        if case.level is not None and len(case.images) == 1:
            alike = (case.extra.get("dataset"), case.extra.get("view"), case.organ, case.language)
            pools[alike][case.level].append(case)
    steps = {
        step: [pool for pool in pools.values() if all(level in pool for level in step)]
        for step in (("high", "medium"), ("medium", "low"))
    }
    possible = [step for step, found in steps.items() if found]
    if count and not possible:
        raise PairError("no set of these cases has images of two neighbouring levels to be compared")
    made = []
    for number in range(count):
        step = possible[number % len(possible)]
        pool = steps[step][int(rng.integers(len(steps[step])))]
        pair = [pool[level][int(rng.integers(len(pool[level])))] for level in step]
        made.append(_comparison(number, [pair[int(i)] for i in rng.permutation(2)]))
    return made


def organ_of(*words: str | None) -> str | None:
    """The organ that a view or a set's name speaks of."""
    for word in filter(None, words):
        for organ, signs in ORGANS.items():
            if any(sign in word.lower() for sign in signs):
                return organ
    return None


def _comparison(number: int, pair: Sequence[Case]) -> Case:
    from imaging.case import Case

    best = max(range(len(pair)), key=lambda i: LEVELS.index(pair[i].level))
    kept = {key: pair[0].extra[key] for key in ("dataset", "view") if key in pair[0].extra}
    return Case(
        id=f"compare {number}: {' · '.join(case.id for case in pair)}",
        images=tuple(case.images[0] for case in pair),
        organ=pair[0].organ,
        language=pair[0].language,
        task="compare",
        extra={**kept, "levels": [case.level for case in pair], "best_first": [best, 1 - best]},
    )


# --- a table ------------------------------------------------------------------------------------------------


def _table_in(folder: Path) -> Path | None:
    """The one CSV of a folder with image and label; PairError for several."""
    found = [path for path in sorted(folder.glob("*.csv")) if {IMAGE, LABEL} <= set(_header(path))]
    if len(found) > 1:
        raise PairError(f"{folder.name} holds {some([path.name for path in found])}. Name one of them.")
    return found[0] if found else None


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return next(csv.reader(file), [])


def _of_table(table: Path, folder: Path) -> list[Case]:
    check_text(table)
    dataset = table.absolute().parent.name
    cases = list(_rows(table, folder.absolute(), dataset))
    if not cases:
        raise PairError(f"{table.name} names no images")
    named = {case.images[0] for case in cases}
    left = [path.name for path in _images_under(folder.absolute()) if path not in named]
    if left:
        warnings.warn(
            f"{len(left)} images stand in no row of {table.name} and are not asked: {some(left)}",
            stacklevel=2,
        )
    return cases


def _rows(table: Path, folder: Path, dataset: str) -> Iterator[Case]:
    seen: dict[str, int] = {}
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for values in reader:
            number = reader.line_num
            name = (values.get(IMAGE) or "").strip()
            try:
                if not name:
                    raise PairError("the row names no image")
                if name in seen:
                    raise PairError(f"image {name!r} was already named in line {seen[name]}")
                yield _case(name, Path(os.path.normpath(folder / name)), dataset, values)
            except PairError as error:
                raise PairError(f"{table.name} line {number}: {error}") from None
            seen[name] = number


def _case(name: str, image: Path, dataset: str, values: Mapping[str, Any]) -> Case:
    from imaging.case import Case

    view = (values.get(VIEW) or "").strip() or None
    extra = {"dataset": dataset} | ({"view": view} if view else {})
    used = (IMAGE, LABEL, VIEW, SCORE, None)  # None: cells beyond the header
    extra |= {key: value for key, value in values.items() if key not in used and value}
    return Case(
        id=name,
        images=(image,),
        organ=organ_of(view, dataset),
        task="quality",
        level=_level(values.get(LABEL)),
        score=_score(values.get(SCORE)),
        extra=extra,
    )


def _level(label: str | None) -> str:
    word = (label or "").strip().lower().replace("_", " ")
    for level, words in LABELS.items():
        if word in words:
            return level
    raise PairError(f"label {label!r:.40} is not one of {', '.join(LEVELS)}")


def _score(value: str | None) -> float | None:
    if value is None or not value.strip():
        return None
    try:
        return float(value)
    except ValueError:
        raise PairError(f"score {value!r:.40} is not a number") from None


# --- a folder for every level -------------------------------------------------------------------------------


def _level_folders(folder: Path) -> dict[str, list[Path]]:
    """Level -> the folders below `folder` that are called so."""
    found: dict[str, list[Path]] = {}
    for path in sorted(each for each in folder.iterdir() if each.is_dir()):
        try:
            found.setdefault(_level(path.name), []).append(path)
        except PairError:
            continue  # a folder of something else
    return found


def _of_folders(folder: Path) -> list[Case]:
    dataset = folder.absolute().name
    folders = [(level, each) for level, found in _level_folders(folder).items() for each in found]
    cases = [
        _case(path.relative_to(folder.absolute()).as_posix(), path, dataset, {LABEL: level})
        for level, each in folders
        for path in _images_under(each.absolute(), warn=True)
    ]
    if not cases:
        raise PairError(f"the folders of levels in {dataset} hold no images")
    return cases


def _images_under(folder: Path, *, warn: bool = False) -> list[Path]:
    """Files with the ending of an image, or with none as scanners write them."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    others = [path.name for path in files if path.suffix.lower() not in ENDINGS]
    if others and warn:
        warnings.warn(
            f"{len(others)} files of {folder.name} are no images by their ending and are not asked: "
            f"{some(others)}",
            stacklevel=4,
        )
    return [path for path in files if path.suffix.lower() in ENDINGS]
