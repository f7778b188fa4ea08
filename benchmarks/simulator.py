"""`python -m benchmarks.simulator`: images of 224 x 224 a second, organ by organ and task by task, and what a
second process brings. Nothing is kept.

Draws the same seeded examinations five times and prints the median rate of one core. The workers' ratio is
the wall time of one process over that of two for the same order, written to a folder that is deleted again;
one and two take turns, so that a busy machine disturbs both. The CPU time beside it is what the work costs
in all: where it stays the same, a wall ratio below two is other people's load, and so is a rate per second
far below the rate per CPU second.

`--pymust` puts the speckle beside SIMUS (Garcia, Comput. Methods Programs Biomed. 2022; the package pymust),
which adds up the waves of every scatterer at every element: the same probe, the same phantom, the size of the
speckle, its statistics and the contrast of three discs. `benchmarks/simulator.md` is that output.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core: the blurs are matrix products
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from simulator.cases import TASKS, Maker, Order, OrderError, maker, write_examinations
from simulator.draw import draw_view
from simulator.examination import ORGANS
from simulator.population import sample_examination
from simulator.probe import BEAMS, SAMPLES, Probe, scan_grid
from simulator.speckle import envelope

RUNS, EXAMINATIONS, ORDER = 5, 12, 120
TARGET = 40  # images a second on one core

# The phantom: speckle with three discs, as (across, down, decibels) in millimetres; L11-5v is PyMUST's name
# for a common linear probe, whose f-number is set by how the beams are formed below.
DISCS, DISC_MM, TOP_MM, BOTTOM_MM, WIDTH_MM = ((-6, -40.0), (0, -6.0), (6, 6.0)), 2.0, 13.5, 21.5, 18.0
L11_5V = Probe("L11-5v", 7.6, width_mm=38.4, focus=0.5, f_number=2.5)
DEPTH_MM, MIDDLE_MM, TILTS, SCATTERERS_PER_MM2, PHANTOMS = 35.0, 17.5, 7, 60, 2

READING = """
How to read it. The first figure should be near 1.91 and the contrast of the two solid discs near what is
stated. Where SIMUS stays below 1.91, a likely cause (not tested) is its few scatterers, about four to a grain
of speckle. Width: this simulator never blurs by less than 1.15 of its 128 beams (sigma 0.35 mm here), which
hides that the beam itself would be narrower; its speckle is coarser than a wave-based image of this probe.
Height: its pulse is two wavelengths, SIMUS's has a bandwidth of 77 %. The -40 dB disc: waves have side lobes
that fill a dark disc, most of all with few plane waves; this simulator has none, so its cysts are blacker
than such an image shows them. Seconds: a wall clock, on whatever else the machine did.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulator", description=__doc__)
    parser.add_argument("--pymust", action="store_true", help="only the comparison with PyMUST's SIMUS")
    if parser.parse_args(arguments).pymust:
        return compare_with_pymust()
    print(f"{platform.machine()} · {os.cpu_count()} cores, one used · median of {RUNS} runs")
    print(f"\n| what | images | images/s (target {TARGET}) | images per CPU second |\n|---|---|---|---|")
    organs()
    tasks()
    workers()
    return 0


def organs() -> None:
    """Stills of each organ: drawing alone."""
    everything = []
    for organ in ORGANS:
        rng = np.random.default_rng(0)
        exams = [sample_examination(rng, organ) for _ in range(EXAMINATIONS)]
        shots = [(exam, view) for exam in exams for view in exam.views]
        times = [_seconds(partial(_draw, shots)) for _ in range(RUNS + 1)]
        everything.append((organ, len(shots), times[1:]))  # the first run fills caches
        _row(organ, len(shots), times[1:])
    totals = [tuple(np.sum([times[run] for _, _, times in everything], axis=0)) for run in range(RUNS)]
    _row("all organs", sum(count for _, count, _ in everything), totals)


def _draw(shots: list) -> None:
    for exam, view in shots:
        draw_view(exam, view)


def tasks() -> None:
    """Each task with its texts, boxes and label maps, as it is made for the disk."""
    for task in TASKS:
        order = Order(0, (task,))
        try:
            make = maker(task)
        except OrderError as error:
            print(f"| task {task} | – | {error} | – |")
            continue
        work = partial(_make, make, order)
        count = work()  # the first run fills caches
        _row(f"task {task}", count, [_seconds(work) for _ in range(RUNS)])


def _make(make: Maker, order: Order) -> int:
    """Number of images made."""
    return sum(len(make(order, number).pictures) for number in range(EXAMINATIONS))


def workers() -> None:
    """Wall and CPU seconds of one order, PNG and JSONL included, with one process and with two."""
    runs = {1: [], 2: []}
    for _ in range(RUNS):
        for count, times in runs.items():
            times.append(_ordered(count))
    ratios = [one[0] / two[0] for one, two in zip(*runs.values(), strict=True)]
    print(f"\n| `--workers`, {ORDER} examinations | wall s | CPU s |\n|---|---|---|")
    for count, times in runs.items():
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"| {count} | {wall:.2f} | {cpu:.2f} |")
    print(f"\ntwo processes: {statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})")


def _row(what: str, images: int, times: list[tuple[float, float]]) -> None:
    wall, cpu = (images / statistics.median(column) for column in zip(*times, strict=True))
    print(f"| {what} | {images} | {wall:.0f} | {cpu:.0f} |", flush=True)


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    cpu, started = time.process_time(), time.perf_counter()
    work()
    return time.perf_counter() - started, time.process_time() - cpu


def _ordered(workers: int) -> tuple[float, float]:
    """Wall and CPU seconds of an order."""
    with tempfile.TemporaryDirectory() as folder:
        cpu, started = _cpu(), time.perf_counter()
        for _ in write_examinations(Order(0), ORDER, Path(folder), workers):
            pass
        return time.perf_counter() - started, _cpu() - cpu


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(times.ru_utime + times.ru_stime for times in used)


def compare_with_pymust() -> int:
    try:
        import pymust
    except ImportError:
        print("PyMUST is not installed: pip install pymust", file=sys.stderr)
        return 2
    print("# The simulator's speckle beside PyMUST's SIMUS\n")
    print("Written by `python -m benchmarks.simulator --pymust` (needs `pip install pymust`).\n")
    print(
        f"Probe {L11_5V.name}, {L11_5V.frequency_mhz} MHz. Phantom: scatterers in {WIDTH_MM:.0f} x "
        f"{BOTTOM_MM - TOP_MM:.0f} mm around {MIDDLE_MM} mm depth, discs of {2 * DISC_MM:.0f} mm, no "
        f"attenuation. SIMUS: {TILTS} plane waves, compounded, both f-numbers {L11_5V.f_number}, "
        f"{SCATTERERS_PER_MM2} scatterers/mm². Mean of {PHANTOMS} phantoms.\n"
    )
    ours, theirs = [], []
    for seed in range(PHANTOMS):
        for measured, draw in ((ours, _ours), (theirs, lambda seed: _simus(pymust, seed))):
            started = time.perf_counter()
            image, dx, dz, x, z = draw(seed)
            seconds = time.perf_counter() - started
            measured.append({**_measured(image, dx, dz, x, z), "seconds an image": seconds})
    print("| | this simulator | SIMUS |\n|---|---|---|")
    for name in ours[0]:
        mine, other = (np.mean([m[name] for m in measured]) for measured in (ours, theirs))
        print(f"| {name} | {mine:.3g} | {other:.3g} |")
    print(READING)
    return 0


def _ours(seed: int) -> tuple[np.ndarray, float, float, np.ndarray, np.ndarray]:
    """Envelope on the scan grid, millimetres per column and row, and where the samples are."""
    grid = scan_grid(L11_5V, DEPTH_MM)
    amplitude = _reflectivity(grid.x, grid.z).astype(np.float32)
    image = envelope(amplitude, grid, np.random.default_rng(seed))
    return image, L11_5V.width_mm / (BEAMS - 1), DEPTH_MM / (SAMPLES - 1), grid.x, grid.z


def _simus(pymust, seed: int) -> tuple[np.ndarray, float, float, np.ndarray, np.ndarray]:
    """The same from waves: scatterers, plane waves, delay and sum with a fixed f-number."""
    rng = np.random.default_rng(seed)
    count = int(SCATTERERS_PER_MM2 * WIDTH_MM * (BOTTOM_MM - TOP_MM))
    x = rng.uniform(-WIDTH_MM / 2, WIDTH_MM / 2, count)
    z = rng.uniform(TOP_MM, BOTTOM_MM, count)
    strength = rng.standard_normal(count) * _reflectivity(x, z)
    param = pymust.getparam("L11-5v")
    param.fs, param.c, param.fnumber = 4 * param.fc, 1540.0, L11_5V.f_number
    columns = np.arange(-WIDTH_MM / 2, WIDTH_MM / 2, 0.1)
    rows = np.arange(TOP_MM, BOTTOM_MM, 0.05)
    at_x, at_z = np.meshgrid(columns, rows)
    total = np.zeros(at_x.shape, complex)
    # Plane waves tilted up to this angle focus as an aperture of the receive f-number does.
    for tilt in np.linspace(-1, 1, TILTS) * np.arctan(1 / (2 * L11_5V.f_number)):
        delays = pymust.txdelayPlane(param, float(tilt))
        signals, _ = pymust.simus(x / 1000, z / 1000, strength, delays, param)
        baseband = pymust.rf2iq(signals, param)
        matrix = pymust.dasmtx(baseband, at_x / 1000, at_z / 1000, delays, param)
        total += (matrix @ baseband.flatten(order="F")).reshape(at_x.shape, order="F")
    return np.abs(total), 0.1, 0.05, at_x, at_z


def _reflectivity(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Amplitude of the backscatter at points in millimetres."""
    amplitude = np.ones(x.shape)
    for across, decibels in DISCS:
        amplitude[np.hypot(x - across, z - MIDDLE_MM) < DISC_MM] = 10 ** (decibels / 20)
    return amplitude


def _measured(image: np.ndarray, dx: float, dz: float, x: np.ndarray, z: np.ndarray) -> dict[str, float]:
    """Statistics and size of the speckle around the discs, and the discs' contrast."""
    apart = np.min([np.hypot(x - across, z - MIDDLE_MM) for across, _ in DISCS], axis=0)
    inner = (np.abs(z - MIDDLE_MM) < 3.4) & (np.abs(x) < WIDTH_MM / 2 - 1)  # away from the phantom's edges
    background = image[inner & (apart > DISC_MM + 0.5)]
    found = {"mean / standard deviation (Rayleigh: 1.91)": background.mean() / background.std()}
    below = inner & (z > MIDDLE_MM + DISC_MM + 0.4)  # a strip under the discs: many grains wide
    between = inner & (np.abs(x - DISCS[-1][0] / 2) < 0.8)  # a strip between two discs: many grains high
    found["speckle width, mm"] = _width(_patch(image, below), 1) * dx
    found["speckle height, mm"] = _width(_patch(image, between), 0) * dz
    power = np.mean(background**2)
    for across, decibels in DISCS:
        inside = np.hypot(x - across, z - MIDDLE_MM) < 0.7 * DISC_MM
        contrast = 10 * np.log10(np.mean(image[inside] ** 2) / power)
        found[f"disc of {decibels:+.0f} dB, measured dB"] = contrast
    return found


def _patch(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The rectangle of `image` in which `where` is True."""
    rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _width(patch: np.ndarray, axis: int) -> float:
    """Full width at half height of the autocovariance along an axis, in samples (linear between them)."""
    centred = patch - patch.mean()
    power = np.abs(np.fft.fft2(centred, [2 * n for n in patch.shape])) ** 2
    covariance = np.fft.ifft2(power).real
    line = covariance[0] if axis == 1 else covariance[:, 0]
    line = line / line[0] / (1 - np.arange(len(line)) / patch.shape[axis]).clip(1e-9)  # overlap shrinks
    below = int(np.argmax(line < 0.5))
    return 2 * (below - 1 + (line[below - 1] - 0.5) / (line[below - 1] - line[below]))


if __name__ == "__main__":
    sys.exit(main())
