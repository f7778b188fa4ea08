"""One view of one examination becomes pixels and a label map, as a scanner's screen would show them.

The screen carries what scanners draw and a model can learn from: the scan, a ruler with a tick every 10 mm
(longer at 50) on the right edge, the side marker of a paired organ, a body mark with the clock position for
the breast, and the colour box of a Doppler view. No text about a patient; calipers come later, in
`calipers`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.anatomy.registry import DRAW, GROUND, VIEWS
from simulator.examination import Examination, View
from simulator.probe import SIZE, TOP, ScanGrid, scan_grid
from simulator.scene import Scene
from simulator.speckle import Machine, form_image
from simulator.tissue import FLUID, LESION

INK = 200  # grey of everything drawn on the screen
_GLYPHS = {  # 5 x 7 dots: the side marker
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}


@dataclass(frozen=True, eq=False)
class Picture:
    """`pixels` uint8 [SIZE, SIZE, 3]; `labels` uint8 [SIZE, SIZE] (classes of `tissue.LABELS`)."""

    pixels: np.ndarray
    labels: np.ndarray
    mm_per_pixel: float


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
        _colour_box(pixels, scene, grey)
    _screen(pixels, grid, examination, view)
    return Picture(pixels, grid.labels_to_image(scene.label), grid.mm_per_pixel)


def _colour_box(pixels: np.ndarray, scene: Scene, grey: np.ndarray) -> None:
    """Colour Doppler: red towards, blue away from the probe, inside a thin box around lesion or vessel."""
    grid = scene.grid
    flow = grid.to_image(scene.flow)
    labels = grid.labels_to_image(scene.label)
    focus = labels == LESION if (labels == LESION).any() else (np.abs(flow) > 0.1) | (labels == FLUID)
    if not (focus & grid.inside).any():  # nothing flows here: the box lies on the middle of the scan
        focus = np.zeros_like(focus)
        focus[SIZE // 4 : SIZE // 2, SIZE // 4 : SIZE // 2] = True
    rows, columns = np.nonzero(focus & grid.inside)
    r0, r1 = max(int(np.percentile(rows, 2)) - 10, 0), min(int(np.percentile(rows, 98)) + 10, SIZE - 1)
    c0, c1 = max(int(np.percentile(columns, 2)) - 10, 0), min(int(np.percentile(columns, 98)) + 10, SIZE - 12)
    flow[: r0 + 1], flow[r1:], flow[:, : c0 + 1], flow[:, c1:] = 0, 0, 0, 0
    speed = np.clip(np.abs(flow) + 0.12 * scene.rng.standard_normal(flow.shape, dtype=np.float32), 0, 1)
    coloured = np.abs(flow) > 0.15
    warm = np.stack([110 + 145 * speed, 190 * speed**2, 20 * speed], -1)
    cold = np.stack([20 * speed, 150 * speed**2, 110 + 145 * speed], -1)
    colour = np.where((flow > 0)[..., None], warm, cold)
    pixels[coloured] = colour[coloured].astype(np.uint8)
    edge = np.zeros(grey.shape, bool)
    edge[[r0, r1], c0 : c1 + 1] = True
    edge[r0 : r1 + 1, [c0, c1]] = True
    pixels[edge] = (60, 190, 90)


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
