"""A paper's table as a picture: systems down, settings across, every figure on a ground of its height.

Ours stand above the paper's own, which are marked "other images"; settings that the paper lacks come behind
its own. Figures of one cell ("34.27 / 46.52") are
rows of their own, so that a strategy can be seen to lift a whole line. The colours are matplotlib's cividis,
which reads the same to the colour-blind and in grey; the figure stands in every cell.

Knows nothing of how a figure came about.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.layouts import cell_of, number, printed, told_apart
from eval.paper_layout import OTHER_IMAGES, our_column, our_name, with_our_groups
from eval.papers import PaperGroup, PaperMetric, PaperTable
from eval.picture import DOTS, LETTERS, fonts_for
from eval.result import Result

CELL_WIDTH, CELL_HEIGHT, NAMES, HEADS = 0.8, 0.26, 3.6, 1.9  # inches
LIGHT = 55  # a figure above is written in black, below in white


@dataclass(frozen=True)
class _Line:
    """One row: a system by one metric, a figure for each group or None."""

    name: str
    figures: tuple[float | None, ...]


def draw_table(results: Sequence[Result], paper: PaperTable, path: str | Path) -> None:
    """Save the picture as PNG, or as what the ending of `path` says.

    ValueError where no result has a figure of the table, or for an unknown ending.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = with_our_groups(results, paper)
    ours = list(_our_lines(told_apart(results), paper, groups))
    if not ours:
        raise ValueError(f"no result has a figure of the table {paper.name}")
    lines = [*ours, *_published_lines(paper, groups)]
    size = (NAMES + CELL_WIDTH * len(groups), HEADS + CELL_HEIGHT * len(lines))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    fonts = fonts_for("".join(line.name for line in lines))
    shown = [[float("nan") if value is None else value for value in line.figures] for line in lines]
    image = axis.imshow(shown, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for row, line in enumerate(lines):
        for column, value in enumerate(line.figures):
            if value is not None:
                colour = "black" if value > LIGHT else "white"
                at = {"ha": "center", "va": "center", "fontsize": LETTERS - 2}
                axis.text(column, row, printed(value, 1), color=colour, **at)
    heads = [group.name.replace(" · ", "\n") for group in groups]
    axis.set_xticks(range(len(heads)), labels=heads, rotation=90, fontsize=LETTERS - 1)
    axis.set_yticks(
        range(len(lines)), labels=[line.name for line in lines], fontfamily=fonts, fontsize=LETTERS - 1
    )
    axis.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.spines[:].set_visible(False)
    axis.axhline(len(ours) - 0.5, color="black", linewidth=1.2)
    figure.colorbar(image, ax=axis, fraction=0.03, pad=0.01).ax.tick_params(labelsize=LETTERS - 2)
    figure.supxlabel(
        f"Per cent. Below the line: published, measured on {OTHER_IMAGES}.", fontsize=LETTERS - 1
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, format=Path(path).suffix[1:].lower() or "png", dpi=DOTS)


def _our_lines(results: Sequence[Result], paper: PaperTable, groups: Sequence[PaperGroup]) -> Iterator[_Line]:
    for result in results:
        for metric in paper.metrics:
            figures = tuple(_ours(result, group, metric) for group in groups)
            if any(value is not None for value in figures):
                yield _Line(f"{result.system} · {metric.name}", figures)


def _ours(result: Result, group: PaperGroup, metric: PaperMetric) -> float | None:
    name, column = our_name([result], metric.section, group), our_column([result], metric)
    if name is None or column is None:
        return None
    cell = cell_of(result, metric.section, name, column.name)
    return number(cell.value) if cell else None


def _published_lines(paper: PaperTable, groups: Sequence[PaperGroup]) -> Iterator[_Line]:
    for system in paper.systems:
        for metric in paper.metrics:
            figures = tuple(paper.figures.get((group.name, metric.name, system)) for group in groups)
            if any(value is not None for value in figures):
                yield _Line(f"{system}, {OTHER_IMAGES} · {metric.name}", figures)
