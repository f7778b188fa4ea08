"""How the four grades are confused, as a picture: AbVLM-Q (2025), Fig. 5.

A panel for every system: rows are true grades, columns what was said, and a last one for images without a
score where there are any. Every cell has its count and its share of the row; its colour is that share, in
matplotlib's cividis, which reads the same to the colour-blind and in grey.

Knows nothing of how a score came about: tables of `eval.metrics.grades.confusion` in, a file out.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.metrics.grades import GRADES
from eval.picture import DOTS, LETTERS, fonts_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE = 3.6  # inches of a panel
LIGHT = 0.55  # a share above is written on in black, below in white


def draw_grades(tables: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Save the picture of `tables` (int [4, 5] by system) as PNG, or as what the ending of `path` says.

    ValueError where no system has an image whose true score is known, or for an unknown ending.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {system: table for system, table in tables.items() if table.any()}
    if not shown:
        raise ValueError("no case has a true score: there are no grades to draw")
    figure = Figure(figsize=(SIDE * len(shown), SIDE), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (system, table) in zip(
        figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True
    ):
        _panel(axis, system, table)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, format=Path(path).suffix[1:].lower() or "png", dpi=DOTS)


def _panel(axis: Axes, system: str, table: np.ndarray) -> None:
    said = (*GRADES, "no score") if table[:, -1].any() else GRADES
    table = table[:, : len(said)]
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    axis.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        text = f"{table[row, column]}\n{100 * share:.1f} %"
        colour = "black" if share > LIGHT else "white"
        axis.text(column, row, text, color=colour, ha="center", va="center", fontsize=LETTERS - 1)
    axis.set_xticks(range(len(said)), labels=said, fontsize=LETTERS - 1)
    axis.set_yticks(range(len(GRADES)), labels=GRADES, fontsize=LETTERS - 1)
    axis.set_xlabel("predicted", fontsize=LETTERS)
    axis.set_ylabel("true", fontsize=LETTERS)
    axis.set_title(system, fontsize=LETTERS, fontfamily=fonts_for(system), parse_math=False)
    axis.tick_params(length=0)
