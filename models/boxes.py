"""Boxes in a model's text: how Qwen2-VL and Qwen2.5-VL write them, and how they are read while they come.

    <|object_ref_start|>胆囊颈<|object_ref_end|><|box_start|>(312,402),(388,471)<|box_end|>
    {"bbox_2d": [80, 103, 99, 121], "label": "gallbladder neck"}

The first is Qwen2-VL's (arXiv 2409.12191), with coordinates from 0 to 1000 of the image; the second is what
Qwen2.5-VL (arXiv 2502.13923) writes on its own, in pixels of the image as it was resized for the model. Both
ways of writing are read from either; what the numbers mean comes with the backbone.

Knows nothing of tokens, models or structures: text in, boxes in pixels out.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

REF_START, REF_END = "<|object_ref_start|>", "<|object_ref_end|>"
BOX_START, BOX_END = "<|box_start|>", "<|box_end|>"
MARKS = (REF_START, REF_END, BOX_START, BOX_END)
RELATIVE, RESIZED = "relative", "resized"
CONVENTIONS = {
    "qwen2_vl": RELATIVE,
    "echovlm": RELATIVE,
    "qwen2_5_vl": RESIZED,
}  # by config.json's model_type
PER_MILLE = 1000

# Why a box was refused …
REFUSALS = ("malformed", "unfinished", "nameless", "empty", "outside", "duplicate")
# … or changed before it was taken.
CORRECTIONS = ("reversed", "clipped")

_LONGEST_MARK = max(map(len, MARKS))
_LONGEST_OBJECT = 500  # characters of a JSON object that can still be a box
_LONGEST_NUMBER = 9  # characters; a longer one is no coordinate
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
_BETWEEN = re.compile(r"[\s()（）\[\],，]*")
_MARK = re.compile("|".join(map(re.escape, MARKS)))
_BOX_TEXT = re.compile(f"{re.escape(BOX_START)}.*?(?:{re.escape(BOX_END)}|$)", re.DOTALL)

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels; x2 and y2 are the first column and row outside
Corners = Sequence[float]  # x1, y1, x2, y2 in the model's own units


@dataclass(frozen=True)
class NamedBox:
    """One structure at one place, in pixels of the original image."""

    label: str
    box: Box


@dataclass(frozen=True)
class Canvas:
    """What a model's coordinates mean for one image.

    The picture that the model saw has `size` (width, height) in pixels and begins at `origin` (x, y) of the
    original image; over it the model's coordinates run from 0 to `units` (across, down). They are written in
    multiples of `step` units.
    """

    size: tuple[int, int]
    units: tuple[int, int] = (PER_MILLE, PER_MILLE)
    origin: tuple[int, int] = (0, 0)
    step: int = 1

    def written(self, box: Corners) -> Box:
        """A box in pixels of the original image, in the model's units.

        Each edge moves by half a step at most, by less than one at the far side of a picture whose units are
        no multiple of it; a side shorter than a step is widened to one. What lies outside the picture is cut
        off.
        """
        edges = []
        for axis in (0, 1):
            steps = self.units[axis] // self.step
            scale = self.units[axis] / self.step / self.size[axis]
            ends = ((box[axis] - self.origin[axis]) * scale, (box[axis + 2] - self.origin[axis]) * scale)
            edges.append(tuple(end * self.step for end in _whole(*ends, steps)))
        (x1, x2), (y1, y2) = edges
        return x1, y1, x2, y2

    def pixels(self, corners: Corners) -> Box:
        """A box in the model's units, in whole pixels of the original image.

        Each edge moves by half a pixel at most; a side shorter than a pixel is widened to one. What lies
        outside the picture is cut off.
        """
        edges = []
        for axis in (0, 1):
            scale = self.size[axis] / self.units[axis]
            low, high = _whole(corners[axis] * scale, corners[axis + 2] * scale, self.size[axis])
            edges.append((low + self.origin[axis], high + self.origin[axis]))
        (x1, x2), (y1, y2) = edges
        return x1, y1, x2, y2


def canvas_for(
    convention: str,
    size: tuple[int, int],
    grid: Sequence[int],
    patch_size: int,
    origin: tuple[int, int] = (0, 0),
) -> Canvas:
    """The canvas of one encoded image under one of RELATIVE and RESIZED.

    `size` is (width, height) before resizing; `grid` is the image's row of `image_grid_thw` (frames, rows,
    columns of patches), whose patches of `patch_size` pixels make up the resized image.
    """
    if convention == RELATIVE:
        return Canvas(size, origin=origin)
    if convention == RESIZED:
        _, rows, columns = (int(number) for number in grid)
        return Canvas(size, (columns * patch_size, rows * patch_size), origin)
    raise ValueError(f"box convention {convention!r} is not one of {RELATIVE}, {RESIZED}")


def convention_of(model_type: str) -> str:
    """RELATIVE or RESIZED for the `model_type` of a config.json; ValueError where it is not known."""
    if model_type not in CONVENTIONS:
        raise ValueError(f"how {model_type!r} writes boxes is not known; known are {', '.join(CONVENTIONS)}")
    return CONVENTIONS[model_type]


def write_boxes(name: str, boxes: Iterable[Corners], canvas: Canvas) -> str:
    """A name and its boxes (pixels of the original image) as the backbone's text; the name alone for none."""
    places = (canvas.written(box) for box in boxes)
    return f"{REF_START}{name}{REF_END}" + "".join(map(_box_text, places))


def write_box(box: Corners, canvas: Canvas) -> str:
    """One box without a name."""
    return _box_text(canvas.written(box))


def read_boxes(text: str, canvas: Canvas) -> tuple[list[NamedBox], Counter[str]]:
    """All boxes of a finished text, and how often each of REFUSALS and CORRECTIONS was needed."""
    reader = BoxReader(canvas)
    found = reader.feed(text)
    reader.close()
    return found, reader.counts


def readable(text: str) -> str:
    """The text for a person: without marks and without coordinates between them."""
    return _MARK.sub("", _BOX_TEXT.sub("", text))


class BoxReader:
    """Reads boxes from text that comes in pieces cut anywhere; the pieces' boxes are those of the whole text.

    A name belongs to all boxes that follow it up to the next name or the end of the line. Boxes are taken
    leniently: four numbers with brackets, commas and blanks between them. Reversed corners are put in order
    and what lies outside the image is cut off, each with a count; REFUSALS are dropped with a count.
    """

    def __init__(self, canvas: Canvas):
        self.counts: Counter[str] = Counter()
        self._canvas = canvas
        self._seen: set[NamedBox] = set()
        self._tail = ""  # the last characters, in which a mark may just end
        self._name = ""
        self._open: str | None = None  # the mark whose contents are being collected
        self._inside = ""
        self._object: str | None = None  # a JSON object from its brace on

    def feed(self, text: str) -> list[NamedBox]:
        """The boxes that this piece completes."""
        # One character after another: so nothing can depend on where the text is cut.
        found = (self._step(character) for character in text)
        return [box for box in found if box is not None]

    def close(self) -> None:
        """The text is over: count what is left open."""
        self._abandon()

    def _step(self, character: str) -> NamedBox | None:
        self._tail = (self._tail + character)[-_LONGEST_MARK:]
        if self._open is not None:
            self._inside += character
        if character == ">":
            mark = next((mark for mark in MARKS if self._tail.endswith(mark)), None)
            if mark is not None:
                return self._mark(mark)
        if character == "\n" and self._open == REF_START:
            self._abandon()  # no name goes over a line
        if self._open is not None:
            return None
        if character == "\n" and self._object is None:
            self._name = ""
        return self._json(character)

    def _mark(self, mark: str) -> NamedBox | None:
        inside = self._inside.removesuffix(mark)
        if mark == REF_END and self._open == REF_START:
            self._name, self._open, self._inside = " ".join(inside.split()), None, ""
        elif mark == BOX_END and self._open == BOX_START:
            self._open, self._inside = None, ""
            return self._placed(self._name, _four_numbers(inside))
        elif mark == BOX_END:
            self._abandon()
            self.counts["malformed"] += 1
        else:
            self._abandon()
            self._open = mark if mark in (REF_START, BOX_START) else None
            if mark != BOX_START:
                self._name = ""
        return None

    def _abandon(self) -> None:
        if self._open == BOX_START or "bbox_2d" in (self._object or ""):
            self.counts["unfinished"] += 1
        self._open, self._inside, self._object = None, "", None

    def _json(self, character: str) -> NamedBox | None:
        """A JSON object that holds no other one."""
        if character == "{":
            self._object = ""
        if self._object is None:
            return None
        self._object += character
        if character == "}":
            text, self._object = self._object, None
            return self._from_object(text) if "bbox_2d" in text else None
        if len(self._object) > _LONGEST_OBJECT:
            if "bbox_2d" in self._object:
                self.counts["malformed"] += 1
            self._object = None
        return None

    def _from_object(self, text: str) -> NamedBox | None:
        try:
            values = json.loads(text)
        except ValueError:
            values = {}
        label = values.get("label")
        corners = values.get("bbox_2d")
        if not isinstance(corners, list) or len(corners) != 4 or not all(map(_is_coordinate, corners)):
            corners = None
        return self._placed(" ".join(label.split()) if isinstance(label, str) else "", corners)

    def _placed(self, name: str, corners: Corners | None) -> NamedBox | None:
        """The box in pixels; None, and a count, when it is refused."""
        if corners is None:
            return self._refused("malformed")
        if not name:
            return self._refused("nameless")
        x1, y1, x2, y2 = corners
        ordered = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
        if x1 == x2 or y1 == y2:
            return self._refused("empty")
        right, bottom = self._canvas.units
        if ordered[0] >= right or ordered[1] >= bottom or ordered[2] <= 0 or ordered[3] <= 0:
            return self._refused("outside")
        box = NamedBox(name, self._canvas.pixels(ordered))
        if box in self._seen:
            return self._refused("duplicate")
        self._seen.add(box)
        if ordered != (x1, y1, x2, y2):
            self.counts["reversed"] += 1
        if min(ordered) < 0 or ordered[2] > right or ordered[3] > bottom:
            self.counts["clipped"] += 1
        return box

    def _refused(self, reason: str) -> None:
        self.counts[reason] += 1


def _box_text(places: Box) -> str:
    x1, y1, x2, y2 = places
    return f"{BOX_START}({x1},{y1}),({x2},{y2}){BOX_END}"


def _whole(low: float, high: float, limit: int) -> tuple[int, int]:
    """Both ends as whole numbers from 0 to `limit`, at least one apart.

    Halves go up, never to the even number: two ends that are one apart must not meet.
    """
    first, last = (min(max(math.floor(end + 0.5), 0), limit) for end in (low, high))
    if first < last:
        return first, last
    first = min(max(math.floor(low), 0), limit - 1)
    return first, first + 1


def _four_numbers(text: str) -> Corners | None:
    numbers = _NUMBER.findall(text)
    if len(numbers) != 4 or any(len(number) > _LONGEST_NUMBER for number in numbers):
        return None
    return [float(number) for number in numbers] if _BETWEEN.fullmatch(_NUMBER.sub("", text)) else None


def _is_coordinate(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < 10**_LONGEST_NUMBER  # NaN and infinity are not
