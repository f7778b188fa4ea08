"""Results as a picture: grouped bars with their 95 % intervals.

One system: a panel for all percentages, its bars the metrics, and one for each other column. Several systems:
a panel for each metric, its bars the systems. Groups run down, so that names stay level and the picture grows
with its content; it is 8 inches wide with letters of 9 points, which is legible at 800 pixels. A column
without any figure is left out.

The colours are those of Okabe and Ito (2008), which the colour-blind can tell apart. matplotlib is loaded on
the first drawing; neither a window nor its global state is used.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eval.layouts import cell_of, columns_of, digits, group_names, number, printed, section_names, told_apart
from eval.result import Column, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
HATCHES = ("", "///", "...", "xxx")  # each tells another round of the colours apart
CHINESE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei", "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Noto Sans CJK JP",
    "Arial Unicode MS",
)  # fmt: skip
WIDTH, BAR, MARGIN, TITLE = 8.0, 0.17, 0.55, 0.3  # inches
DOTS = 200  # an inch: 1600 pixels across
LETTERS = 9  # points
LETTERS_A_LINE = 24  # of a name, before it is broken
LETTERS_A_TITLE = 70
ROOM = 1.08  # of the longest bar, for the figure behind it
MOST_BARS = 600


@dataclass(frozen=True)
class _Panel:
    """Bars of one axis: `series` are (label, result, column), each with a bar in every group."""

    title: str
    series: tuple[tuple[str, Result, Column], ...]

    @property
    def percent(self) -> bool:
        return self.series[0][2].percent

    def height(self, groups: int) -> float:
        return groups * (len(self.series) + 1) * BAR + MARGIN + TITLE


def draw(
    results: Sequence[Result],
    path: str | Path,
    section: str | None = None,
    columns: Sequence[str] | None = None,
) -> None:
    """Save the picture of one section (the first unless named) as PNG, or as what the ending of `path` says.

    ValueError for no results, an unknown section, column or ending, and for more than MOST_BARS bars.
    """
    figure = bars(results, section, columns)
    with warnings.catch_warnings():
        # What cannot be written is said once, in `fonts_for`, and not for every character.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, format=Path(path).suffix[1:].lower() or "png", dpi=DOTS)


def bars(
    results: Sequence[Result], section: str | None = None, columns: Sequence[str] | None = None
) -> Figure:
    """The picture as a matplotlib figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    results = told_apart(results)
    name = _section(results, section)
    groups = group_names(results, name)
    panels = _panels(results, name, _chosen(results, name, columns))
    count = sum(len(panel.series) for panel in panels) * len(groups)
    if count > MOST_BARS:
        raise ValueError(f"{count} bars are too many for one picture; choose fewer columns or coarser groups")
    heights = [panel.height(len(groups)) for panel in panels]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0]
    labels = [*groups, *(panel.title for panel in panels), *(s[0] for panel in panels for s in panel.series)]
    fonts = fonts_for("".join(labels))
    figure.supxlabel("Lines across the ends of bars are 95 % intervals.", fontsize=LETTERS - 1)
    for panel, axis in zip(panels, axes, strict=True):
        _draw_panel(axis, panel, name, groups, fonts)
    return figure


def _section(results: Sequence[Result], wanted: str | None) -> str:
    there = section_names(results)
    if not there or (wanted and wanted not in there):
        raise ValueError(f"no section is called {wanted!r}; there are {', '.join(there) or 'none'}")
    return wanted or there[0]


def _chosen(results: Sequence[Result], section: str, wanted: Sequence[str] | None) -> list[Column]:
    there = {column.name: column for column in columns_of(results, section)}
    if unknown := [name for name in wanted or () if name not in there]:
        raise ValueError(f"no column is called {unknown[0]!r}; there are {', '.join(there)}")
    chosen = [there[name] for name in wanted or there]
    drawn = [column for column in chosen if any(_has_figure(result, section, column) for result in results)]
    if not drawn:
        raise ValueError(f"section {section} has no figures to draw")
    return drawn


def _has_figure(result: Result, section: str, column: Column) -> bool:
    cells = (cell_of(result, section, group, column.name) for group in group_names([result], section))
    return any(cell is not None and number(cell.value) is not None for cell in cells)


def _panels(results: Sequence[Result], section: str, columns: Sequence[Column]) -> list[_Panel]:
    if len(results) > 1:
        return [
            _Panel(column.name, tuple((result.system, result, column) for result in results))
            for column in columns
        ]
    (result,) = results
    title = next(part.title for part in result.sections if part.name == section)
    percentages = tuple((column.name, result, column) for column in columns if column.percent)
    others = [
        _Panel(column.name, ((column.name, result, column),)) for column in columns if not column.percent
    ]
    return [_Panel(f"{title}: {result.system}", percentages), *others] if percentages else others


def _draw_panel(axis: Axes, panel: _Panel, section: str, groups: Sequence[str], fonts: list[str]) -> None:
    """Groups from the top down, in each a bar for every series in the order of the legend."""
    step = len(panel.series) + 1
    for index, (label, result, column) in enumerate(panel.series):
        at = [group * step + index for group in range(len(groups))]
        _draw_series(axis, at, result, section, groups, column, label=label, index=index)
    middles = [group * step + (step - 2) / 2 for group in range(len(groups))]
    axis.set_yticks(middles, labels=[_plain(name) for name in groups], fontfamily=fonts, fontsize=LETTERS)
    axis.set_ylim(len(groups) * step - 0.5, -1)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=LETTERS)
    axis.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    left, right = axis.get_xlim()
    axis.set_xlim(min(0.0, left * ROOM), max(100.0 if panel.percent else 0.0, right) * ROOM)
    axis.set_title(
        textwrap.fill(panel.title.replace("$", r"\$"), LETTERS_A_TITLE),
        fontfamily=fonts,
        fontsize=LETTERS + 1,
        loc="left",
    )
    if len(panel.series) > 1:
        axis.legend(
            prop={"family": fonts, "size": LETTERS}, loc="upper left", bbox_to_anchor=(1, 1), frameon=False
        )


def _draw_series(
    axis: Axes,
    at: Sequence[float],
    result: Result,
    section: str,
    groups: Sequence[str],
    column: Column,
    *,
    label: str,
    index: int,
) -> None:
    """The bars of one series with whiskers and figures; a group without a figure has a gap."""
    cells = [cell_of(result, section, group, column.name) for group in groups]
    values = [number(cell.value) if cell else None for cell in cells]
    axis.barh(
        at,
        [value or 0.0 for value in values],
        height=0.9,
        color=COLOURS[index % len(COLOURS)],
        hatch=HATCHES[index // len(COLOURS) % len(HATCHES)],
        edgecolor="white",
        linewidth=0,
        label=_plain(label),
    )
    for y, cell, value in zip(at, cells, values, strict=True):
        if value is None:
            continue
        low, high = number(cell.low), number(cell.high)
        if low is not None and high is not None:
            for colour, width in (("white", 2.7), ("black", 0.9)):
                axis.plot([low, high], [y, y], color=colour, linewidth=width, solid_capstyle="butt")
        right = max(value, high or value, 0.0)
        text = printed(value, digits(column, 1))
        axis.annotate(text, (right, y), (3, 0), textcoords="offset points", va="center", fontsize=LETTERS - 2)


def _plain(text: str) -> str:
    """In short lines, with no sign that matplotlib would take for mathematics or to leave a label out."""
    letters = LETTERS_A_LINE // 2 if _is_chinese(text) else LETTERS_A_LINE
    return textwrap.fill(text.replace("$", r"\$").lstrip("_"), letters) or "–"


def _is_chinese(text: str) -> bool:
    """Whether it has characters from U+2E80 on, where the East Asian ones begin."""
    return any(character >= "\u2e80" for character in text)


def fonts_for(text: str) -> list[str]:
    """Families in order of preference: matplotlib's own, then one that has Chinese, if `text` needs it."""
    from matplotlib import font_manager

    own = "DejaVu Sans"
    if not _is_chinese(text):
        return [own]
    installed = {font.name for font in font_manager.fontManager.ttflist}
    if family := next((name for name in CHINESE_FONTS if name in installed), None):
        return [own, family]
    warnings.warn(
        "No font with Chinese characters was found; they are drawn as boxes. Install Noto Sans CJK.",
        stacklevel=3,
    )
    return [own]
