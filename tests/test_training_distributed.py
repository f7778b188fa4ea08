"""Two processes on the CPU (gloo), started by accelerate's own launcher: the same learning as one process
with twice the batch, each sample once an epoch, one writer, one stop, one resume.

All of it in a single launch, which costs more than what it runs; this file is also what the launcher starts.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from imaging.case import Case, write_cases
from training import loop
from training.__main__ import main as command
from training.loop import Schedule, Stopped, processes, train

RECIPE = Path(__file__).parents[1] / "training/recipes/abvlm_q_lora.yaml"
SCHEDULE = Schedule(steps=12, batch_size=3, learning_rate=1e-2, checkpoint_every=4, seed=3)
LENGTHS = [1, 4, 2] * 8  # 24 samples: four steps of both processes are an epoch


class Sums:
    """Fit sums of some numbers; a sample of length n stands for n things. Keeps what it was asked for."""

    name = "sums"
    lengths = LENGTHS

    def __init__(self, signal_at: int | None = None):
        torch.manual_seed(0)
        self.module = torch.nn.ModuleDict(
            {"short": torch.nn.Linear(3, 1), "long": torch.nn.Linear(3, 1), "both": torch.nn.Linear(1, 1)}
        )
        self.asked: list[int] = []
        self.signal_at, self.seen = signal_at, 0

    def __len__(self) -> int:
        return len(LENGTHS)

    def batch(self, indices, rng):
        self.asked += [int(i) for i in indices]
        numbers = np.random.default_rng(7).normal(size=(len(LENGTHS), 3)).astype(np.float32)
        return torch.from_numpy(numbers[indices]), torch.tensor([LENGTHS[i] for i in indices]).float()[
            :, None
        ]

    def weight(self, batch) -> float:
        return float(batch[1].sum())

    def loss(self, batch):
        self.seen += 1
        if self.seen == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        numbers, things = batch
        errors = torch.zeros(())
        for kind, chosen in (("short", things[:, 0] < 3), ("long", things[:, 0] > 3)):
            if chosen.any():  # not every process uses every part in every step
                guess = self.module["both"](self.module[kind](numbers[chosen]))
                error = (guess - numbers[chosen].sum(1, keepdim=True)).square()
                errors = errors + (error * things[chosen]).sum()
        loss = errors / things.sum()
        return loss, {"half": float(loss.detach()) / 2}


def work(folder: Path) -> None:
    """What each of the two processes does."""
    rank = processes().process_index
    loop._Log.EVERY = 1
    own = folder / f"process{rank}"  # whoever writes, writes into its own folder
    stage = Sums()
    train(stage, SCHEDULE, own / "whole")
    save_file(stage.module.state_dict(), folder / f"state{rank}.safetensors")
    (folder / f"asked{rank}.json").write_text(json.dumps(stage.asked))

    stopped = ""
    try:
        train(Sums(signal_at=6 if rank == 1 else None), SCHEDULE, folder / "stopped")
    except Stopped as error:
        stopped = str(error)
    (folder / f"stopped{rank}.txt").write_text(stopped)
    resumed = Sums()
    train(resumed, SCHEDULE, folder / "stopped", resume=True)
    save_file(resumed.module.state_dict(), folder / f"resumed{rank}.safetensors")

    assert command([str(folder / "recipe2.yaml"), "--output", str(folder / "run2")]) == 0


def material(folder: Path) -> None:
    """Tiny published weights, cases, and one recipe for two processes and one for a single one."""
    tiny.save(folder / "base", "qwen2_vl")
    cases = []
    for i in range(8):
        Image.fromarray(tiny.frame(84, 84, seed=i).pixels).save(folder / f"{i}.png")
        values = {"task": "vqa", "question": "Findings?", "language": "en", "answer": "A nodule. " * (1 + i)}
        cases.append(Case(f"case-{i}", (folder / f"{i}.png",), **values))
    write_cases(folder / "cases.jsonl", cases)
    raw = yaml.safe_load(RECIPE.read_text("utf-8")) | {"precision": "no", "base": str(folder / "base")}
    raw["cases"] = str(folder / "cases.jsonl")
    del raw["abvlm_q"]  # they are no planes
    raw["stages"][0]["lora"] |= {"dropout": 0.0}
    for count in (1, 2):
        raw["stages"][0]["schedule"] |= {"steps": 4, "batch_size": 4 // count, "learning_rate": 1e-3}
        (folder / f"recipe{count}.yaml").write_text(yaml.safe_dump(raw))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the two processes left."""
    folder = tmp_path_factory.mktemp("two")
    material(folder)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    # The launcher starts several processes for GPUs only; where there is none they meet on the CPU.
    words = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no".split()
    launch = [sys.executable, "-m", "accelerate.commands.launch", *words, "--main_process_port", str(port)]
    root = Path(__file__).parents[1]
    paths = {"PYTHONPATH": f"{root}:{root / 'tests'}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launch, __file__, str(folder)], env=os.environ | paths, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def alone(folder) -> Path:
    """What one process with twice the batch leaves."""
    stage = Sums()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Log, "EVERY", 1)
        train(stage, replace(SCHEDULE, batch_size=6), folder / "alone")
        assert command([str(folder / "recipe1.yaml"), "--output", str(folder / "run1")]) == 0
    save_file(stage.module.state_dict(), folder / "alone.safetensors")
    return folder


def column(log: Path, name: str) -> list[float]:
    with log.open() as file:
        return [float(row[name]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", ["loss", "half", "learning_rate"])
def test_the_losses_are_those_of_one_process_with_twice_the_batch(folder, alone, name):
    two, one = column(folder / "process0/whole/log.csv", name), column(alone / "alone/log.csv", name)
    assert len(two) == 12 and two == pytest.approx(one, rel=1e-4)


def test_the_weights_are_those_of_one_process_with_twice_the_batch(folder, alone):
    one = load_file(alone / "alone.safetensors")
    for rank in (0, 1):
        two = load_file(folder / f"state{rank}.safetensors")
        assert all(torch.allclose(two[name], tensor, atol=1e-5) for name, tensor in one.items())


def test_each_sample_is_seen_once_an_epoch(folder):
    asked = [json.loads((folder / f"asked{rank}.json").read_text()) for rank in (0, 1)]
    for epoch in range(3):
        both = [i for mine in asked for i in mine[12 * epoch : 12 * (epoch + 1)]]
        assert sorted(both) == list(range(24))


def test_only_the_main_process_writes(folder):
    written = {path.name for path in (folder / "process0/whole").iterdir()}
    assert {"log.csv", "curve.png", "done", "checkpoint"} <= written
    assert not (folder / "process1").exists()


def test_a_signal_to_one_stops_both_and_both_go_on(folder):
    said = [(folder / f"stopped{rank}.txt").read_text() for rank in (0, 1)]
    assert said == ["sums: stopped after step 6; go on with --resume"] * 2
    for rank in (0, 1):
        resumed, whole = (load_file(folder / f"{name}{rank}.safetensors") for name in ("resumed", "state"))
        assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert column(folder / "stopped/log.csv", "loss") == column(folder / "process0/whole/log.csv", "loss")


def test_a_recipe_runs_by_the_same_words_and_gives_the_same_weights(folder, alone):
    """Answers of different lengths: every learned word counts the same, whichever process it is in."""
    assert column(folder / "run2/lora/log.csv", "loss") == pytest.approx(
        column(alone / "run1/lora/log.csv", "loss"), rel=1e-4
    )
    two, one = (load_file(folder / f"{run}/weights/model.safetensors") for run in ("run2", "run1"))
    assert two.keys() == one.keys()
    assert all(torch.allclose(two[name], one[name], atol=1e-4) for name in one)
    assert (folder / "run2/adapter/adapter_model.safetensors").exists()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
