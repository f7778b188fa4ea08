"""Calipers: the crosses that a sonographer sets at the ends of a length, with the millimetres in a corner.

Where they go is measured on the picture's own label map, not taken from the code that drew it: a length gets
calipers only where the picture shows it as long as the examination states it, within TOLERANCE pixels, and
the crosses then stand exactly the stated length apart. What a view shows in part or not at all gets none.

Measured are the long and the short axis of the lesion where the view shows it, else structures of the organ
(STRUCTURES). The label map does not tell everything apart: for the thyroid's width and isthmus, the
intima-media, the septum, the left atrium, the uterus's length and the endometrium the anatomy hands out the
ends (`Picture.measured`), and the same tolerance holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from simulator.cases import Order
from simulator.draw import Picture
from simulator.examination import Examination
from simulator.probe import RULER, SIZE, TOP
from simulator.tissue import FLUID, LESION, PARENCHYMA

TOLERANCE = 1.5  # pixels between the length in the picture and the stated one
ARM = 3  # pixels from the middle of a cross to its ends
INKS = ((250, 230, 90), (120, 240, 120), (110, 220, 250))  # of the first caliper of a picture, the second …

# View → the measures its calipers show, and how each lies in the picture: "down" a column or "across" a row
# of one class of the label map, "tube" across a vessel, "axes" of an organ that lies free (long, short),
# "rim" between the outline of such an organ and the hole in its middle.
STRUCTURES = {
    ("breast", "radial"): [(("gland_thickness",), "down", PARENCHYMA)],
    ("breast", "antiradial"): [(("gland_thickness",), "down", PARENCHYMA)],
    ("thyroid", "transverse"): [(("lobe_depth",), "down", PARENCHYMA)],
    ("liver", "right_intercostal"): [(("portal_vein",), "tube", FLUID)],
    ("kidney", "longitudinal"): [
        (("length", "width"), "axes", PARENCHYMA),
        (("parenchyma",), "rim", PARENCHYMA),
    ],
    ("gynaecology", "sagittal"): [(("uterus_depth",), "down", PARENCHYMA)],
    ("vessel", "longitudinal"): [(("lumen",), "down", FLUID)],
    ("heart", "apical_four_chamber"): [(("left_ventricle",), "across", FLUID)],
    ("heart", "apical_two_chamber"): [(("left_ventricle",), "across", FLUID)],
}

Point = tuple[float, float]  # column, row


@dataclass(frozen=True)
class Caliper:
    """`what` is "long_mm" or "short_mm" of the lesion or a measure of the organ; `mm` its stated length."""

    what: str
    ends: tuple[Point, Point]
    mm: float

    def as_json(self) -> dict:
        return {"what": self.what, "ends": [list(end) for end in self.ends], "mm": self.mm}


def ordered_calipers(
    order: Order,
    number: int,
    examination: Examination,
    pictures: Sequence[Picture],
    only: int | None = None,
) -> tuple[list[Picture], dict]:
    """`with_calipers` as the order has them; chance is examination `number`'s own."""
    rng = np.random.default_rng([order.seed, number, 2])
    return with_calipers(examination, pictures, order.calipers, rng, values=order.caliper_values, only=only)


def with_calipers(
    examination: Examination,
    pictures: Sequence[Picture],
    choice: str,
    rng: np.random.Generator,
    *,
    values: bool = False,
    only: int | None = None,
) -> tuple[list[Picture], dict]:
    """The pictures, one for each view (or the frames of one view), with calipers; and what was set, as JSON.

    `choice` is "none", "some" (every second picture by chance) or "all"; `only` names the one frame of a
    cine that was frozen. The second value is empty for "none", else {"calipers": a list for each picture}.
    """
    if choice == "none":
        return list(pictures), {}
    drawn, found = [], []
    for i, picture in enumerate(pictures):
        wanted = choice == "all" or rng.random() < 0.5
        view = examination.views[i if only is None else 0].name
        calipers = measure(examination, view, picture) if wanted and only in (None, i) else []
        drawn.append(draw_calipers(picture, calipers, values))
        found.append([caliper.as_json() for caliper in calipers])
    return drawn, {"calipers": found}


def measure(examination: Examination, view: str, picture: Picture) -> list[Caliper]:
    """The lengths that this picture shows as long as the examination states them."""
    lesion = picture.labels == LESION
    if lesion.any():
        stated = {"long_mm": examination.lesion.long_mm, "short_mm": examination.lesion.short_mm}
        return _axes(lesion, stated, picture.mm_per_pixel)
    calipers: list[Caliper | None] = []
    for names, how, label in STRUCTURES.get((examination.organ, view), ()):
        stated = {name: examination.measures[name] for name in names}
        mask = picture.labels == label
        if how == "axes":
            body = _body_in_the_middle(mask)
            calipers += _axes(body, stated, picture.mm_per_pixel) if body is not None else []
        else:
            find = {"down": _down, "across": _across, "tube": _tube, "rim": _rim}[how]
            calipers += [find(mask, name, mm, picture.mm_per_pixel) for name, mm in stated.items()]
    for name, ends in picture.measured.items():
        calipers.append(_handed_out(picture, name, examination.measures[name], ends))
    return [caliper for caliper in calipers if caliper is not None]


def draw_calipers(picture: Picture, calipers: Sequence[Caliper], values: bool = False) -> Picture:
    """Crosses at both ends and dots between, as scanners draw them; with `values` the lengths in the
    lower left corner."""
    if not calipers:
        return picture
    screen = Image.fromarray(picture.pixels.copy())
    pen = ImageDraw.Draw(screen)
    for i, caliper in enumerate(calipers):
        ink = INKS[i % len(INKS)]
        (x0, y0), (x1, y1) = caliper.ends
        steps = max(int(np.hypot(x1 - x0, y1 - y0) // 4), 1)
        for share in np.arange(1, steps) / steps:
            pen.point((round(x0 + share * (x1 - x0)), round(y0 + share * (y1 - y0))), fill=ink)
        for x, y in caliper.ends:
            pen.line((round(x) - ARM, round(y), round(x) + ARM, round(y)), fill=ink)
            pen.line((round(x), round(y) - ARM, round(x), round(y) + ARM), fill=ink)
        if values:
            text = f"{i + 1} {caliper.mm:.1f} mm"
            at = (18, SIZE - 12 * (len(calipers) - i))  # between the side marker and the body mark
            pen.text(at, text, fill=ink, font=ImageFont.load_default_imagefont())
    return replace(picture, pixels=np.array(screen))


def _axes(mask: np.ndarray, stated: dict[str, float], mm_per_pixel: float) -> list[Caliper]:
    """Long and short axis of a free body: the turn at which both extents fit the stated millimetres best."""
    edge = mask & ~ndimage.binary_erosion(mask)
    points = np.argwhere(edge)[:, ::-1].astype(float)  # [n, 2]: column, row
    long_px, short_px = (mm / mm_per_pixel for mm in stated.values())
    best, least = None, np.inf
    for degrees in range(0, 180, 2):
        along, across = _turned(points, degrees)
        miss = max(abs(np.ptp(along) + 1 - long_px), abs(np.ptp(across) + 1 - short_px))
        if miss < least:
            best, least = degrees, miss
    if best is None or least > TOLERANCE:
        return []
    calipers = []
    for name, degrees in zip(stated, (best, best + 90), strict=True):
        along, across = _turned(points, degrees)
        ends = np.concatenate([across[along > along.max() - 1.5], across[along < along.min() + 1.5]])
        middle = ((along.max() + along.min()) / 2, ends.mean())
        calipers.append(_caliper(name, stated[name], middle, degrees, mm_per_pixel))
    return calipers


def _turned(points: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates [n] along a direction and across it."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return points[:, 0] * cos + points[:, 1] * sin, points[:, 1] * cos - points[:, 0] * sin


def _caliper(what: str, mm: float, middle: Point, degrees: float, mm_per_pixel: float) -> Caliper:
    """A caliper of the stated length around `middle`, given along and across the direction."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    ends = []
    for way in (-0.5, 0.5):
        along = middle[0] + way * mm / mm_per_pixel
        ends.append((round(along * cos - middle[1] * sin, 2), round(along * sin + middle[1] * cos, 2)))
    return Caliper(what, tuple(ends), mm)


def _handed_out(picture: Picture, what: str, mm: float, ends: tuple[Point, Point]) -> Caliper | None:
    """Between ends that the anatomy hands out, where they are in the scan and as far apart as stated."""
    scan = picture.labels > 0
    inside = [0 <= round(y) < SIZE and 0 <= round(x) < SIZE and scan[round(y), round(x)] for x, y in ends]
    (x0, y0), (x1, y1) = ends
    if not all(inside) or abs(np.hypot(x1 - x0, y1 - y0) - mm / picture.mm_per_pixel) > TOLERANCE:
        return None
    degrees = float(np.rad2deg(np.arctan2(y1 - y0, x1 - x0)))
    along, across = _turned(np.array([[(x0 + x1) / 2, (y0 + y1) / 2]]), degrees)
    return _caliper(what, mm, (along[0], across[0]), degrees, picture.mm_per_pixel)


def _body_in_the_middle(mask: np.ndarray) -> np.ndarray | None:
    """The connected piece of `mask` around the middle of the picture, its holes filled."""
    pieces, count = ndimage.label(mask)
    for piece in range(1, count + 1):
        filled = ndimage.binary_fill_holes(pieces == piece)
        rows, columns = np.nonzero(filled)
        if len(rows) > 0.05 * mask.size and abs(columns.mean() - (SIZE - RULER) / 2) < 0.1 * SIZE:
            return filled
    return None


def _down(mask: np.ndarray, what: str, mm: float, mm_per_pixel: float) -> Caliper | None:
    """A column of the middle third whose longest run through the filled `mask` is as long as stated."""
    filled = ndimage.binary_fill_holes(mask)
    best, least = None, TOLERANCE
    for column in _from_the_middle(mask.any(axis=0)):
        start, length = _longest_run(filled[:, column])
        if abs(length - mm / mm_per_pixel) < least - 0.25:  # nearer to the middle wins unless clearly better
            best, least = (column, start + (length - 1) / 2), abs(length - mm / mm_per_pixel)
    return best and _caliper(what, mm, (best[1], -best[0]), 90, mm_per_pixel)


def _across(mask: np.ndarray, what: str, mm: float, mm_per_pixel: float) -> Caliper | None:
    """As `_down`, along a row."""
    turned = _down(mask.T, what, mm, mm_per_pixel)
    return turned and replace(turned, ends=tuple((y, x) for x, y in turned.ends))


def _tube(mask: np.ndarray, what: str, mm: float, mm_per_pixel: float) -> Caliper | None:
    """Across a vessel: where the largest circle that fits into it is as wide as stated."""
    reach, nearest = ndimage.distance_transform_edt(mask, return_indices=True)
    ridge = mask & (reach >= ndimage.maximum_filter(reach, 3)) & _away_from_the_edge(mask)
    width = 2 * reach - 1
    miss = np.where(ridge, np.abs(width - mm / mm_per_pixel), np.inf)
    row, column = np.unravel_index(miss.argmin(), miss.shape)
    if miss[row, column] > TOLERANCE:
        return None
    wall = nearest[:, row, column]
    degrees = float(np.rad2deg(np.arctan2(wall[0] - row, wall[1] - column)))
    along, across = _turned(np.array([[column, row]], float), degrees)
    return _caliper(what, mm, (along[0], across[0]), degrees, mm_per_pixel)


def _rim(mask: np.ndarray, what: str, mm: float, mm_per_pixel: float) -> Caliper | None:
    """Between the outline of the body in the middle and the largest hole in it, where it is as thick as
    stated: of such places in the middle third the one nearest to the middle."""
    body = _body_in_the_middle(mask)
    if body is None:
        return None
    holes, _ = ndimage.label(body & ~mask)
    sizes = np.bincount(holes.ravel())
    if len(sizes) < 2:
        return None
    hole = holes == 1 + int(sizes[1:].argmax())
    reach, nearest = ndimage.distance_transform_edt(body, return_indices=True)
    edge = np.argwhere(hole & ~ndimage.binary_erosion(hole))
    best, least = None, TOLERANCE
    for column in _from_the_middle(body.any(axis=0)):
        for row, _ in edge[edge[:, 1] == column]:
            miss = abs(reach[row, column] - 1 - mm / mm_per_pixel)
            if miss < least - 0.25:
                best, least = (row, column), miss
    if best is None:
        return None
    inner, outer = np.array(best, float), nearest[:, best[0], best[1]]
    degrees = float(np.rad2deg(np.arctan2(*(outer - inner))))
    along, across = _turned(((inner + outer) / 2)[None, ::-1], degrees)
    return _caliper(what, mm, (along[0], across[0]), degrees, mm_per_pixel)


def _away_from_the_edge(mask: np.ndarray) -> np.ndarray:
    """True where no pixel outside the scan lies near: a vessel that leaves the scan has no width there."""
    inside = np.zeros(mask.shape, bool)
    inside[TOP + 40 : SIZE - 40, 40 : SIZE - RULER - 40] = True
    return inside


def _from_the_middle(there: np.ndarray) -> Iterator[int]:
    """Indices of the middle third of what is True, the middle first."""
    where = np.flatnonzero(there)
    if len(where):
        middle, reach = (where[0] + where[-1]) / 2, (where[-1] - where[0]) / 6
        near = where[np.abs(where - middle) <= reach]
        yield from near[np.argsort(np.abs(near - middle), kind="stable")]


def _longest_run(line: np.ndarray) -> tuple[int, int]:
    """First index and length of the longest run of True."""
    steps = np.diff(np.concatenate([[0], line.astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    if not len(starts):
        return 0, 0
    longest = int((ends - starts).argmax())
    return int(starts[longest]), int(ends[longest] - starts[longest])
