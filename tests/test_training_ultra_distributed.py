"""LLaVA-Ultra's second stage in two processes on the CPU (gloo), started by accelerate's own launcher: it
learns as one process with twice the batch, and one set of weights is written.

This file is also what the launcher starts.
"""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_training_ultra import material, shortened

from assistants.llava_ultra.published import open_published
from training.__main__ import main as command


def recipe(folder: Path, processes: int) -> Path:
    """The paper's second stage from the tiny LLaVA-Med, three steps of four cases."""
    own = folder / str(processes)
    own.mkdir()
    path = shortened(
        folder, own, "llava_ultra_instruct", base=str(folder / "med"), ultra={"sam": str(folder / "sam")}
    )
    raw = yaml.safe_load(path.read_text("utf-8"))
    raw["stages"][0]["lora"]["dropout"] = 0.0
    raw["stages"][0]["schedule"] |= {"batch_size": 4 // processes, "learning_rate": 1e-3}
    path.write_text(yaml.safe_dump(raw))
    return path


def test_two_processes_learn_as_one_with_twice_the_batch(tmp_path):
    material(tmp_path)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    # The launcher starts several processes for GPUs only; where there is none they meet on the CPU.
    words = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no".split()
    launch = [sys.executable, "-m", "accelerate.commands.launch", *words, "--main_process_port", str(port)]
    root = Path(__file__).parents[1]
    paths = {"PYTHONPATH": f"{root}:{root / 'tests'}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    two = [str(recipe(tmp_path, 2)), str(tmp_path / "two")]
    done = subprocess.run(
        [*launch, __file__, *two], env=os.environ | paths, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert command([str(recipe(tmp_path, 1)), "--output", str(tmp_path / "one")]) == 0
    first, second = (figures(tmp_path / name / "instruct/log.csv") for name in ("two", "one"))
    # Eq. 5 is a mean over a process's cases, weighted by its words: nearly, not exactly, the mean over all.
    assert first["words"] == pytest.approx(second["words"], rel=1e-2)
    assert first["distillation"] == pytest.approx(second["distillation"], rel=0.2)
    assert open_published(tmp_path / "two/weights").layout == "own"


def figures(log: Path) -> dict[str, float]:
    with log.open() as file:
        return {name: float(value) for name, value in list(csv.DictReader(file))[-1].items()}


if __name__ == "__main__":
    sys.exit(command([sys.argv[1], "--output", sys.argv[2]]))
