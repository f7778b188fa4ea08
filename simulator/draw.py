"""One view of one examination becomes pixels and a label map, as a scanner's screen would show them.

The screen carries what scanners draw and a model can learn from: the scan, a ruler with a tick every 10 mm
(longer at 50) on the right edge, the side marker of a paired organ, a body mark with the clock position for
the breast, and the colour box and bar of a Doppler view. No text about a patient; calipers come later, in
`calipers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from simulator.anatomy.registry import DRAW, GROUND, VIEWS
from simulator.examination import Examination, View
from simulator.probe import RULER, SIZE, TOP, ScanGrid, scan_grid
from simulator.scene import Scene
from simulator.speckle import Machine, form_image
from simulator.tissue import FLUID, LESION, PARENCHYMA

INK = 200  # grey of everything drawn on the screen
BOX_INK = (60, 190, 90)
BAR_TOP, BAR_ROWS, BAR_COLUMNS = 8, 62, 3  # the bar of the colours: between the scan and the ruler's ticks
WALL_FILTER = 0.1  # share of the Nyquist speed below which motion counts as the wall's and gets no colour
# Colours from standstill to the Nyquist speed, towards the probe and away from it.
WARM = ((60, 0, 0), (190, 10, 0), (250, 110, 0), (255, 240, 60))
COLD = ((0, 0, 80), (0, 20, 200), (20, 130, 250), (110, 245, 255))
BLOOD_ORGANS = ("vessel", "heart")
_GLYPHS = {  # 5 x 7 dots: the side marker
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}


@dataclass(frozen=True, eq=False)
class Picture:
    """`pixels` uint8 [SIZE, SIZE, 3]; `labels` uint8 [SIZE, SIZE] (classes of `tissue.LABELS`); `measured`
    the ends (column, row) of the measures that the anatomy hands out (`Scene.measured`)."""

    pixels: np.ndarray
    labels: np.ndarray
    mm_per_pixel: float
    measured: Mapping[str, tuple[tuple[float, float], tuple[float, float]]] = field(default_factory=dict)


def draw_view(examination: Examination, view: View) -> Picture:
    """Deterministic: the view's own seed decides everything random in its pixels."""
    setting = VIEWS[examination.organ][view.name]
    grid = scan_grid(setting.probe, view.depth_mm)
    rng = np.random.default_rng(view.seed)
    scene = Scene(grid, rng, GROUND[examination.organ])
    DRAW[examination.organ](scene, examination, view)
    return to_picture(scene, random_machine(rng), examination, view)


def random_machine(rng: np.random.Generator) -> Machine:
    """A scanner's knobs as sonographers leave them: near the middle, never the same."""
    return Machine(
        gain_db=float(rng.uniform(-4, 4)),
        dynamic_range_db=float(rng.uniform(56, 66)),
        tilt_db=float(rng.uniform(-4, 4)),
        looks=int(rng.integers(1, 3)),
    )


def to_picture(scene: Scene, machine: Machine, examination: Examination, view: View) -> Picture:
    """Form the image of a finished scene and draw the screen around it."""
    grid = scene.grid
    grey = form_image(scene, machine)
    pixels = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if view.doppler:
        _colour_box(pixels, scene, examination.organ)
    _screen(pixels, grid, examination, view)
    measured = {name: tuple(grid.to_pixel(*end) for end in ends) for name, ends in scene.measured.items()}
    return Picture(pixels, grid.labels_to_image(scene.label), grid.mm_per_pixel, measured)


def _colour_box(pixels: np.ndarray, scene: Scene, organ: str) -> None:
    """Colour Doppler inside a thin box, with the bar of its colours beside the ruler: red towards the probe,
    blue away from it, and past the Nyquist speed over yellow and cyan into the other colour."""
    rng, grid = scene.rng, scene.grid
    nyquist = rng.uniform(0.55, 1.05)  # the fastest `scene.flow` has speed 1
    box = _box(grid, rng, _focus(scene, organ))
    flow = np.where(box, grid.to_image(scene.flow), np.float32(0))
    speed = _speed(flow, rng) / np.float32(nyquist)
    seen = np.abs(speed) > WALL_FILTER
    pixels[seen] = _colours((speed[seen] + 1) % 2 - 1)
    pixels[box & ~ndimage.binary_erosion(box)] = BOX_INK
    bar = np.linspace(1, -1, BAR_ROWS)[:, None].repeat(BAR_COLUMNS, 1)
    pixels[BAR_TOP : BAR_TOP + BAR_ROWS, SIZE - RULER : SIZE - RULER + BAR_COLUMNS] = _colours(bar)


def _focus(scene: Scene, organ: str) -> np.ndarray:
    """Bool [SIZE, SIZE]: what the sonographer lays the box around. In vessels and the heart that is the
    blood; elsewhere the lesion or, where none is seen, any place of the organ, so that the box tells
    nothing."""
    grid, rng = scene.grid, scene.rng
    labels = grid.labels_to_image(scene.label)
    place, size = rng.random(), rng.uniform(10, 28, 2)
    if organ in BLOOD_ORGANS:
        focus = (np.abs(grid.to_image(scene.flow)) > 0.1) | (labels == FLUID)
    else:
        focus = labels == LESION
    if focus.any():
        return focus
    parenchyma = np.argwhere(labels == PARENCHYMA)
    middle = parenchyma[int(place * len(parenchyma))] if len(parenchyma) else (SIZE // 3, SIZE // 2)
    rows, columns = np.ogrid[:SIZE, :SIZE]
    return (np.abs(rows - middle[0]) < size[0]) & (np.abs(columns - middle[1]) < size[1]) & grid.inside


def _box(grid: ScanGrid, rng: np.random.Generator, focus: np.ndarray) -> np.ndarray:
    """Bool [SIZE, SIZE]: the box around `focus`, along the beams as scanners gate it: a piece of the fan, or
    a rectangle under a linear probe."""
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    down, across, pixel = rows, columns, 1.0
    if grid.probe.fan:
        radius = np.float32(grid.probe.radius_mm / grid.mm_per_pixel)
        x = columns - (SIZE - RULER) / 2
        z = rows - TOP + np.float32(grid.z.min() / grid.mm_per_pixel) + radius
        down, across = np.hypot(x, z), np.arctan2(x, z)
        pixel = 1 / float(down[focus & grid.inside].mean())
    spare = rng.uniform(6, 13, 4)
    (top, bottom), (left, right) = (
        np.percentile(way[focus & grid.inside], (2, 98)) for way in (down, across)
    )
    box = (down > top - spare[0]) & (down < bottom + spare[1])
    box &= (across > left - spare[2] * pixel) & (across < right + spare[3] * pixel)
    return box & grid.inside


def _speed(flow: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Speed at every pixel [SIZE, SIZE] from the mean flow: laminar (fastest in the middle of a stream, slow
    at its wall), at one moment of the pulse, uneven in clumps of a few pixels."""
    stream = np.abs(flow) > 0.02
    depth = ndimage.distance_transform_edt(stream)
    widest = ndimage.maximum_filter(depth, 15)  # the middle of the stream; wider streams are flat there
    share = np.clip(depth / np.maximum(widest, 1), 0, 1)
    laminar = 1 - (1 - share) ** 2
    pulse = rng.uniform(0.75, 1.15)
    grains = rng.standard_normal((2, SIZE, SIZE), dtype=np.float32)
    clumps = ndimage.uniform_filter(grains[0], 5) * 5
    return flow * (pulse * laminar * (1 + 0.08 * clumps + 0.04 * grains[1])).astype(np.float32)


def _colours(speed: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] for speeds -1 … 1 in units of the Nyquist speed."""
    fast = np.abs(speed)
    warm, cold = (
        np.stack(
            [np.interp(fast, np.linspace(0, 1, len(stops)), channel) for channel in zip(*stops, strict=True)],
            -1,
        )
        for stops in (WARM, COLD)
    )
    return np.where(speed[..., None] > 0, warm, cold).astype(np.uint8)


def _screen(pixels: np.ndarray, grid: ScanGrid, examination: Examination, view: View) -> None:
    for k in range(int(grid.depth_mm // 10) + 1):
        row = round(TOP + k * 10 / grid.mm_per_pixel)
        if row < SIZE:
            pixels[row, SIZE - (7 if k % 5 == 0 else 4) : SIZE - 1] = INK
    if examination.side:
        _glyph(pixels, "L" if examination.side == "left" else "R", SIZE - 18, 3)
    if examination.organ == "breast":
        _clock(pixels, _scanned_hour(examination, view), SIZE - 14, SIZE - 26)


def _scanned_hour(examination: Examination, view: View) -> int:
    """Clock position under the probe: the lesion's where the view shows it, else any."""
    if view.shows_lesion:
        return int(examination.lesion.place.split("_")[0])
    return 1 + view.seed % 12


def _glyph(pixels: np.ndarray, letter: str, row: int, column: int) -> None:
    dots = np.kron(
        np.array([[int(d) for d in line] for line in _GLYPHS[letter]], bool), np.ones((2, 2), bool)
    )
    area = pixels[row : row + 14, column : column + 10]
    area[...] = 0
    area[dots] = INK


def _clock(pixels: np.ndarray, hour: int, row: int, column: int) -> None:
    """Body mark of the breast: a circle and a hand that points to the scanned clock position."""
    y, x = np.mgrid[:SIZE, :SIZE]
    distance = np.hypot(x - column, y - row)
    pixels[distance < 12.5] = 0
    pixels[np.abs(distance - 11) < 0.8] = INK
    angle = np.deg2rad(30 * hour)
    for step in np.linspace(2, 10, 20):
        pixels[round(row - step * np.cos(angle)), round(column + step * np.sin(angle))] = (240, 210, 80)
