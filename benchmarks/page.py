"""How fast the page is, as a visitor feels it: `python -m benchmarks.page`.

Starts `app.py` as its own process, several times, and asks the running page through its endpoint
`/report` with two simulated images. Medians, with the slowest run beside them. The operating system's
file cache is as warm as it is; the first of several cold starts is usually the slowest for that reason.

Does not measure what a browser adds (about a second to draw the page the first time).
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gradio_client import Client, handle_file
from transformers import AutoTokenizer

from models.checkpoint import resolve

ROOT = Path(__file__).parents[1]
DEMO = "weights/demo/echovlm"
IMAGES = ("thyroid-1.png", "thyroid-2.png")
TARGETS = {"to the first HTTP 200": 8.0, "to the first word, two images": 1.5}  # seconds, issue A.6


@dataclass
class Figures:
    """Measurements by name, in the order they were first taken."""

    taken: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.taken.setdefault(name, []).append(value)

    def __str__(self) -> str:
        rows = [("", "median", "slowest", "target", "")]
        for name, values in self.taken.items():
            middle, target = statistics.median(values), TARGETS.get(name)
            slowest = min(values) if name == "tokens a second" else max(values)
            verdict = "" if target is None else "met" if middle <= target else "missed"
            rows.append((name, f"{middle:.2f}", f"{slowest:.2f}", f"{target or ''}", verdict))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        return "\n".join(line.rstrip() for line in lines)


def hardware() -> str:
    """One line: processor, cores, memory, operating system."""
    names = [line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    processor = names[0].partition(":")[2].strip() if names else platform.processor()
    memory = _read("/proc/meminfo").split()
    gigabytes = f", {int(memory[1]) / 2**20:.0f} GB" if memory else ""
    system = f"{platform.system()}, Python {platform.python_version()}"
    return f"{processor}, {os.cpu_count()} cores{gigabytes}, {system}"


@contextmanager
def running_page(figures: Figures, weights: str) -> Iterator[str]:
    """The address of a fresh `app.py`, once it answers; notes how long that took and, later, its memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "app.py", "--port", str(port), "--weights", f"echovlm={weights}"]
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        while not _answers(address):
            if process.poll() is not None:
                raise SystemExit(f"app.py ended with status {process.returncode} before it answered")
            time.sleep(0.02)
        figures.add("to the first HTTP 200", time.monotonic() - started)
        yield address
        for name, key in (("memory now (MB)", "VmRSS"), ("memory at its highest (MB)", "VmHWM")):
            figures.add(name, _memory(process.pid, key))
    finally:
        process.terminate()
        process.wait()


def ask(address: str, figures: Figures, count_tokens, times: int) -> None:
    """Ask for a report on two images, the first time with the weights still loading."""
    files = [handle_file(ROOT / "apps" / "examples" / name) for name in IMAGES]
    client = Client(address, verbose=False)
    for turn in range(times + 1):
        started = time.monotonic()
        arrived = [(time.monotonic(), text) for text in client.submit(files, "", api_name="/report") if text]
        first, last = arrived[0][0], arrived[-1][0]
        if turn == 0:
            figures.add("to the first word, just started", first - started)
            continue
        figures.add("to the first word, two images", first - started)
        figures.add("tokens a second", (count_tokens(arrived[-1][1]) - 1) / (last - first))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="how often to start the page (default: 3)")
    parser.add_argument("--questions", type=int, default=5, help="how often to ask it each time (default: 5)")
    parser.add_argument(
        "--weights", default=DEMO, help="a folder or Hugging Face id (default: the demo weights)"
    )
    options = parser.parse_args(arguments)
    tokenizer = AutoTokenizer.from_pretrained(resolve(options.weights))
    figures = Figures()
    for run in range(options.runs):
        print(f"run {run + 1} of {options.runs} …", file=sys.stderr, flush=True)
        with running_page(figures, options.weights) as address:
            ask(address, figures, lambda text: len(tokenizer(text)["input_ids"]), options.questions)
    print(f"{hardware()}\nweights {options.weights}; seconds unless named otherwise\n\n{figures}")


def _answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _memory(process: int, key: str) -> float:
    """A field of /proc/PID/status in MB; nan where the system has none."""
    for line in _read(f"/proc/{process}/status").splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return float("nan")


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


if __name__ == "__main__":
    main()
