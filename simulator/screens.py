"""Three invented makes of scanner: how each turns a grey picture into a screen.

They differ in what real makes differ in: dynamic range, speckle smoothing, grey curve, tint, and what is
drawn beside the sector. The names are invented. Nothing is drawn inside the sector and no text at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.probe import SIZE, TOP, ScanGrid
from simulator.speckle import Machine

INK = 200


@dataclass(frozen=True)
class Style:
    """`range_db` and `looks` are what a machine of this make is set to; `gamma` bends the greys; `tint` is
    the colour of white."""

    name: str
    range_db: tuple[float, float]
    looks: tuple[int, ...]
    gamma: float
    tint: tuple[float, float, float]
    ruler: str  # "ticks" | "dots" | "none"
    mark: str  # orientation mark beside the probe: "ring" | "square" | "bar"


STYLES = (
    Style("alder", (56, 66), (1, 2), 1.0, (1.0, 1.0, 1.0), "ticks", "ring"),
    Style("birch", (60, 70), (2,), 0.88, (0.90, 0.96, 1.0), "dots", "square"),
    Style("cedar", (54, 62), (2, 3), 1.1, (1.0, 0.95, 0.86), "none", "bar"),
)


def sample_machine(rng: np.random.Generator, style: Style) -> Machine:
    """A machine of this make as somebody has set it."""
    return Machine(
        gain_db=float(rng.uniform(-3, 4)),
        dynamic_range_db=float(rng.uniform(*style.range_db)),
        tilt_db=float(rng.uniform(-3, 3)),
        looks=int(rng.choice(style.looks)),
    )


def show(grey: np.ndarray, grid: ScanGrid, style: Style) -> np.ndarray:
    """The screen, uint8 [SIZE, SIZE, 3], of a grey picture float32 [SIZE, SIZE], 0 to 255."""
    bent = 255 * (grey / 255) ** np.float32(style.gamma)
    pixels = (bent[..., None] * np.asarray(style.tint, np.float32)).astype(np.uint8)
    _ruler(pixels, grid, style)
    _mark(pixels, style)
    return pixels


def tinted(pixels: np.ndarray, style: Style) -> np.ndarray:
    """A finished grey screen, uint8 [H, W, 3], in the make's tint."""
    return (pixels * np.asarray(style.tint, np.float32)).astype(np.uint8)


def _ruler(pixels: np.ndarray, grid: ScanGrid, style: Style) -> None:
    """A tick or dot every 10 mm at the right edge, longer every 50."""
    if style.ruler == "none":
        return
    for k in range(int(grid.depth_mm // 10) + 1):
        row = round(TOP + k * 10 / grid.mm_per_pixel)
        long = 7 if k % 5 == 0 else 4
        if row < SIZE - 1 and style.ruler == "ticks":
            pixels[row, SIZE - long : SIZE - 1] = INK
        elif row < SIZE - 1:
            pixels[row : row + 2, SIZE - 3 - long // 7 : SIZE - 1] = INK


def _mark(pixels: np.ndarray, style: Style) -> None:
    """The side of the probe that carries its notch, at the upper left."""
    rows, columns = np.mgrid[:12, :12]
    ring = np.abs(np.hypot(rows - 5.5, columns - 5.5) - 4) < 0.8
    square = (np.maximum(abs(rows - 5.5), abs(columns - 5.5)) < 4.6) & (
        np.maximum(abs(rows - 5.5), abs(columns - 5.5)) > 2.6
    )
    bar = (np.abs(columns - 5.5) < 1.1) & (rows > 1) & (rows < 11)
    shape = {"ring": ring, "square": square, "bar": bar}[style.mark]
    pixels[4:16, 4:16][shape] = INK
