"""A stage's log as a picture: loss and the other figures over the steps, and the learning rate.

Reads the CSV that `training.loop` writes (a row of means every few steps) and knows nothing else of training.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

SMOOTHED_OVER = 9  # rows of the running mean; chosen


def draw_curve(log: Path, picture: Path) -> None:
    """Draw `log` (columns step, loss, learning_rate, others) into a PNG, whole or not at all.

    Raises ValueError for a log without rows or without step and loss, OSError where it cannot be written.
    """
    columns = _read(log)
    steps = columns.pop("step")
    rate = columns.pop("learning_rate", None)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, values in columns.items():
        (line,) = axes.plot(steps, values, linewidth=0.6, alpha=0.4)
        axes.plot(steps, _smooth(values), color=line.get_color(), linewidth=1.6, label=name)
    axes.set(xlabel="step", ylabel="mean since the row before", title=log.parent.name)
    if all(np.nanmin(values) > 0 for values in columns.values()):
        axes.set_yscale("log")  # losses fall by powers of ten
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 1.5)))
    axes.grid(alpha=0.3)
    if rate is not None:
        beside = axes.twinx()
        beside.plot(steps, rate, color="0.6", linestyle=":", label="learning rate")
        beside.set_ylabel("learning rate")
        beside.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    fresh = picture.with_suffix(".writing")
    figure.savefig(fresh, format="png", dpi=100)
    fresh.rename(picture)


def _read(log: Path) -> dict[str, np.ndarray]:
    """Column name to numbers; an empty cell is NaN."""
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"step", "loss"} <= rows[0].keys():
        raise ValueError(f"{log} has no rows with step and loss: it is no log of a training stage")
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean of up to SMOOTHED_OVER rows, as many before each as after it. NaN counts for nothing."""
    places = np.arange(len(values))
    half = np.minimum(SMOOTHED_OVER // 2, np.minimum(places, places[::-1]))
    known = ~np.isnan(values)
    sums = np.concatenate([[0], np.cumsum(np.where(known, values, 0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    first, last = places - half, places + half + 1
    spread = counts[last] - counts[first]
    return np.where(spread > 0, (sums[last] - sums[first]) / np.maximum(spread, 1), np.nan)
