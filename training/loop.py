"""One training loop for every stage: batches in a fixed order, AdamW, cosine schedule, whole checkpoints,
exact resume.

Built on accelerate, so that the same command serves a CPU or a GPU; one process only so far. The
order of the samples is a function of (seed, epoch) and the randomness inside a step a function of (seed,
step): a run that was killed and resumed sees exactly what an unbroken run sees. A checkpoint is written to
a temporary folder and renamed, so it exists whole or not at all; tensors are safetensors, never pickle.

Knows nothing of images, texts or models: a `Stage` says how to make a batch and a loss.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from tqdm import tqdm


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns. `minutes` ends the stage early (its schedule follows the clock
    then)."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    checkpoint_every: int = 250
    minutes: float | None = None
    seed: int = 0


class Stage(Protocol):
    """`module` holds what learns (its parameters with requires_grad); `batch` takes numbers of samples;
    `lengths`, where samples differ much in size, lets like ones share a batch."""

    name: str
    module: torch.nn.Module
    lengths: Sequence[int] | None

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int], rng: np.random.Generator) -> Any: ...

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, float]]: ...


def train(
    stage: Stage, schedule: Schedule, output: Path, *, precision: str = "no", resume: bool = False
) -> None:
    """Run one stage. Writes `output/log.csv`, `output/checkpoint/` and, at the end, `output/done`.

    `precision` is accelerate's mixed precision: "no", "bf16" or "fp16". With `resume`, goes on from the last
    checkpoint where there is one.
    """
    output.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
    if accelerator.num_processes > 1:
        raise RuntimeError("training runs in one process; start it without `accelerate launch`")
    module = stage.module
    learning = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        _groups(learning, schedule.weight_decay), lr=schedule.learning_rate, betas=(0.9, 0.98)
    )
    prepared, optimizer = accelerator.prepare(module, optimizer)
    start, elapsed = 0, 0.0
    kept = [folder for folder in (output / "checkpoint", output / "checkpoint.old") if folder.is_dir()]
    if resume and kept:
        start, elapsed = _restore(kept[0], learning, optimizer)
    log = _Log(output / "log.csv", start)
    begun = time.monotonic() - elapsed
    bar = tqdm(total=schedule.steps, initial=start, desc=stage.name, unit="step", mininterval=10)
    batches = _Ahead(stage, schedule)
    prepared.train()
    steps_done = start
    for step in range(start, schedule.steps):
        progress = _progress(schedule, step, time.monotonic() - begun)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * learning_rate_share(progress, schedule.warmup_ratio)
        batch = batches.get(step)
        with accelerator.autocast():
            loss, figures = stage.loss(batch)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(learning.values(), schedule.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps_done = step + 1
        log.add(step, {"loss": float(loss.detach()), **figures})
        bar.update()
        bar.set_postfix(loss=f"{float(loss.detach()):.3f}", refresh=False)
        if steps_done % schedule.checkpoint_every == 0:
            _save(output / "checkpoint", learning, optimizer, steps_done, time.monotonic() - begun)
            log.flush()
    batches.close()
    bar.close()
    log.flush()
    seconds = time.monotonic() - begun
    # The caller deletes this one, once it has kept the weights.
    _save(output / "checkpoint", learning, optimizer, steps_done, seconds)
    (output / "done").write_text(json.dumps({"steps": steps_done, "seconds": round(seconds)}))


class _Ahead:
    """Makes the next step's batch in a thread while the current one is learned."""

    def __init__(self, stage: Stage, schedule: Schedule):
        self.stage, self.schedule = stage, schedule
        self.order = Order(len(stage), schedule, stage.lengths)
        self.pool = ThreadPoolExecutor(1)
        self.coming: dict[int, Future] = {}

    def get(self, step: int) -> Any:
        batch = self.coming.pop(step).result() if step in self.coming else self._make(step)
        if step + 1 < self.schedule.steps:
            self.coming[step + 1] = self.pool.submit(self._make, step + 1)
        return batch

    def close(self) -> None:
        """Drop the batch that nobody will ask for: the clock may end a stage before its steps do."""
        self.pool.shutdown(wait=True, cancel_futures=True)

    def _make(self, step: int) -> Any:
        indices = self.order.indices(step)
        return self.stage.batch(indices, np.random.default_rng([self.schedule.seed, step, 0]))


class Order:
    """Which samples each step takes: every epoch a fresh shuffle of all, a function of (seed, epoch) alone.

    With `lengths`, samples of like length share a batch (less padding): the shuffle is cut into windows of
    `WINDOW` batches, each sorted by length, and the batches of a window come in random order.
    """

    WINDOW = 24

    def __init__(self, count: int, schedule: Schedule, lengths: Sequence[int] | None = None):
        self.count, self.seed, self.batch_size = count, schedule.seed, schedule.batch_size
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.epochs: dict[int, np.ndarray] = {}

    def indices(self, step: int) -> np.ndarray:
        """Sample numbers of a step's batch."""
        at = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(at, self.count)
        picked = [self._epoch(int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)]
        return np.array(picked)

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self.epochs:
            rng = np.random.default_rng([self.seed, epoch])
            shuffled = rng.permutation(self.count)
            order = shuffled if self.lengths is None else self._by_length(shuffled, rng)
            self.epochs = {key: value for key, value in self.epochs.items() if key == epoch - 1} | {
                epoch: order
            }
        return self.epochs[epoch]

    def _by_length(self, shuffled: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        batches = []
        window = self.WINDOW * self.batch_size
        for first in range(0, self.count, window):
            part = shuffled[first : first + window]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            cut = [part[i : i + self.batch_size] for i in range(0, len(part), self.batch_size)]
            batches += [cut[i] for i in rng.permutation(len(cut))]
        return np.concatenate(batches)


def learning_rate_share(progress: float, warmup_ratio: float) -> float:
    """Linear warm-up, then half a cosine down to zero; `progress` runs from 0 to 1."""
    if progress < warmup_ratio:
        return progress / warmup_ratio + 1e-3
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup_ratio) / (1 - warmup_ratio)))


def _progress(schedule: Schedule, step: int, seconds: float) -> float:
    by_steps = step / schedule.steps
    return by_steps if schedule.minutes is None else max(by_steps, seconds / 60 / schedule.minutes)


def _groups(learning: dict[str, torch.nn.Parameter], weight_decay: float) -> list[dict]:
    """Weight decay for matrices only: norms, biases and scalars are left alone."""
    return [
        {"params": [p for p in learning.values() if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in learning.values() if p.ndim < 2], "weight_decay": 0.0},
    ]


def _save(
    folder: Path, learning: dict[str, torch.nn.Parameter], optimizer, step: int, seconds: float
) -> None:
    """Parameters, AdamW's moments and the step, whole or not at all."""
    fresh = folder.with_name(folder.name + ".writing")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    tensors = {}
    for name, parameter in learning.items():
        tensors[name] = parameter.detach().cpu().contiguous()
        for key, value in optimizer.state[parameter].items():
            tensors[f"{name}::{key}"] = value.detach().cpu().contiguous()
    save_file(tensors, fresh / "state.safetensors")
    (fresh / "progress.json").write_text(json.dumps({"step": step, "seconds": seconds}))
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _restore(folder: Path, learning: dict[str, torch.nn.Parameter], optimizer) -> tuple[int, float]:
    tensors = load_file(folder / "state.safetensors")
    for name, parameter in learning.items():
        parameter.data.copy_(tensors[name])
        state = {key.split("::")[1]: value for key, value in tensors.items() if key.startswith(f"{name}::")}
        optimizer.state[parameter] = {
            key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
        }
    progress = json.loads((folder / "progress.json").read_text())
    return progress["step"], progress["seconds"]


class _Log:
    """Means over 25 steps, appended to a CSV; rows after a resumed step are dropped first."""

    EVERY = 25

    def __init__(self, path: Path, start: int):
        self.path, self.rows, self.pending = path, [], {}
        if start and path.exists():
            with path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) < start]

    def add(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self.pending.setdefault(name, []).append(value)
        if (step + 1) % self.EVERY == 0:
            self.rows.append({"step": step, **{k: f"{np.mean(v):.4f}" for k, v in self.pending.items()}})
            self.pending = {}
            if (step + 1) % (4 * self.EVERY) == 0:
                self.flush()

    def flush(self) -> None:
        if not self.rows:
            return
        fields = list(dict.fromkeys(key for row in self.rows for key in row))
        fresh = self.path.with_suffix(".writing")
        with fresh.open("w", newline="") as file:
            writer = csv.DictWriter(file, fields, restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        fresh.rename(self.path)
