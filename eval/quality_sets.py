"""Folders of images with quality levels as cases, and comparisons made of them.

The shapes in which image quality sets such as Ultrasound-QBench's IVUSQA and CardiacUltraQA can be kept:
a CSV with `image,label[,view][,score]` beside or above its images, or a folder for every level. Neither set
was at hand, so both shapes are descriptions of ours. Labels may be written as below.

Nothing is dropped in silence: a row whose image is missing stays a case, which then fails by name; files that
are no images by their ending, and images that no row names or that lie in no level's folder, are warned
about.

Knows nothing of predictions and opens no image.
"""

from __future__ import annotations

import csv
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from eval.rows import PairError, check_text, some

if TYPE_CHECKING:
    from imaging.case import Case

LEVELS = ("low", "medium", "high")  # rising
LABELS = {
    "low": ("low", "low quality", "poor", "bad", "低", "低质量", "差"),
    "medium": ("medium", "medium quality", "mid", "moderate", "fair", "中", "中等", "中等质量", "良"),
    "high": ("high", "high quality", "good", "高", "高质量", "优"),
}
ORGANS = {  # what a view, or else the set's name, says of the organ
    "vessel": ("ivus", "intravascular", "血管内"),
    "heart": ("cardiac", "chamber", "a4c", "heart", "心尖", "心腔", "心脏"),
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
    """`count` different cases of task "compare", each of two images one level apart, shuffled, and of one
    set, view and language; half of them between high and medium. No image comes again before all of its set
    and level came, so that the cases are as independent as they can be. The same seed makes the same pairs.

    PairError where no set has images of two neighbouring levels; a warning where there are fewer such pairs
    than `count`.
    """
    rng = np.random.default_rng(seed)
    decks: dict[tuple, dict[str, _Deck]] = defaultdict(dict)
    for case in cases:
        if case.level is not None and len(case.images) == 1:
            alike = (case.extra.get("dataset"), case.extra.get("view"), case.organ, case.language)
            decks[alike].setdefault(case.level, _Deck(rng)).cases.append(case)
    steps = [
        [(deck[one], deck[other]) for deck in decks.values() if one in deck and other in deck]
        for one, other in (("high", "medium"), ("medium", "low"))
    ]
    left = [sum(len(one.cases) * len(other.cases) for one, other in step) for step in steps]
    if count and not any(left):
        raise PairError("no set of these cases has images of two neighbouring levels to be compared")
    if sum(left) < count:
        warnings.warn(
            f"{sum(left)} pairs of images are one level apart, not {count}: each comes once", stacklevel=2
        )
    drawn: dict[tuple[str, ...], list[Case]] = {}
    while len(drawn) < count and any(left):
        possible = [number for number, pairs in enumerate(left) if pairs]
        number = possible[len(drawn) % len(possible)]
        step = steps[number]
        pair = [deck.draw() for deck in step[int(rng.integers(len(step)))]]
        names = tuple(case.id for case in pair)
        if names not in drawn:
            drawn[names] = [pair[int(i)] for i in rng.permutation(2)]
            left[number] -= 1
    return [_comparison(number, pair) for number, pair in enumerate(drawn.values())]


def organ_of(*words: str | None) -> str | None:
    """The organ that a view or a set's name speaks of."""
    for word in filter(None, words):
        for organ, signs in ORGANS.items():
            if any(sign in word.lower() for sign in signs):
                return organ
    return None


class _Deck:
    """Cases of one set and level, drawn without putting back; shuffled anew once all were drawn."""

    def __init__(self, rng: np.random.Generator):
        self.cases: list[Case] = []
        self._rng, self._left = rng, []

    def draw(self) -> Case:
        if not self._left:
            self._left = [self.cases[int(i)] for i in self._rng.permutation(len(self.cases))]
        return self._left.pop()


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
        return _plain(next(csv.reader(file, _dialect(file)), []))


def _dialect(file: TextIO) -> type[csv.Dialect]:
    """Commas, or the semicolons or tabs that a spreadsheet may write in their place, by the first line."""
    first = file.readline()
    file.seek(0)
    best = max(",;\t", key=first.count)
    return type("Dialect", (csv.excel,), {"delimiter": best})


def _plain(names: Sequence[str]) -> list[str]:
    """ " Label" and "label" are one column."""
    return [name.strip().lower() for name in names]


def _of_table(table: Path, folder: Path) -> list[Case]:
    check_text(table)
    dataset = table.absolute().parent.name
    try:
        cases = list(_rows(table, folder.absolute(), dataset))
    except UnicodeDecodeError:
        raise PairError(
            f"{table.name} is not UTF-8 text. Write it anew as UTF-8 (in Excel: CSV UTF-8)."
        ) from None
    if not cases:
        raise PairError(f"{table.name} names no images")
    _warn_of_left(folder, cases, f"stand in no row of {table.name}")
    return cases


def _rows(table: Path, folder: Path, dataset: str) -> Iterator[Case]:
    seen: dict[Path, int] = {}
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, _dialect(file))
        names = _plain(next(rows))
        for cells in filter(None, rows):
            number = rows.line_num
            values = dict(zip(names, cells, strict=False))
            name = values.get(IMAGE, "").strip()
            image = Path(os.path.normpath(folder / name))
            try:
                if not name:
                    raise PairError("the row names no image")
                if image in seen:
                    raise PairError(f"image {name!r} was already named in line {seen[image]}")
                yield _case(name, image, dataset, values)
            except PairError as error:
                raise PairError(f"{table.name} line {number}: {error}") from None
            seen[image] = number


def _case(name: str, image: Path, dataset: str, values: Mapping[str, Any]) -> Case:
    from imaging.case import Case

    view = (values.get(VIEW) or "").strip() or None
    extra = {"dataset": dataset} | ({"view": view} if view else {})
    used = (IMAGE, LABEL, VIEW, SCORE)
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
    _warn_of_left(folder, cases, "lie in no folder that is called like a level")
    return cases


def _warn_of_left(folder: Path, cases: Sequence[Case], why: str) -> None:
    named = {case.images[0] for case in cases}
    whole = folder.absolute()
    left = [path.relative_to(whole).as_posix() for path in _images_under(whole) if path not in named]
    if left:
        warnings.warn(f"{len(left)} images {why} and are not asked: {some(left)}", stacklevel=3)


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
