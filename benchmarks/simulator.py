"""`python -m benchmarks.simulator`: images of 224 x 224 a second on one core, organ by organ.

Draws the same seeded examinations five times and prints the median rate. No peer stands beside it yet: a
wave-based simulator takes seconds to minutes an image and answers another question (issue C compares their
speckle).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core: the blurs are matrix products
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import platform
import statistics
import time

import numpy as np

from simulator.draw import draw_view
from simulator.examination import ORGANS
from simulator.population import sample_examination

RUNS, EXAMINATIONS = 5, 12


def main() -> None:
    print(f"{platform.machine()} · {os.cpu_count()} cores, one used · median of {RUNS} runs")
    print("| organ | images | images/s |\n|---|---|---|")
    everything = []
    for organ in ORGANS:
        rng = np.random.default_rng(0)
        exams = [sample_examination(rng, organ) for _ in range(EXAMINATIONS)]
        shots = [(exam, view) for exam in exams for view in exam.views]
        everything.append(
            (organ, shots, [seconds(shots) for _ in range(RUNS + 1)][1:])
        )  # the first fills caches
    for organ, shots, times in everything:
        print(f"| {organ} | {len(shots)} | {len(shots) / statistics.median(times):.0f} |")
    count = sum(len(shots) for _, shots, _ in everything)
    totals = [sum(times[run] for _, _, times in everything) for run in range(RUNS)]
    print(f"| all | {count} | {count / statistics.median(totals):.0f} |")


def seconds(shots: list) -> float:
    started = time.perf_counter()
    for exam, view in shots:
        draw_view(exam, view)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
