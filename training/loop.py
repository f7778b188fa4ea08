"""One training loop for every stage: batches in a fixed order, AdamW, cosine schedule, whole checkpoints,
exact resume.

Built on accelerate: one process, several GPUs or several machines with the same command (`accelerate launch
-m training RECIPE.yaml`), gradient accumulation, mixed precision, FSDP and DeepSpeed as accelerate's own
configuration says. Accelerate wraps the `Learner`, whose forward is the stage's loss, so that gradients
meet whichever modules a loss goes through.

The order of the samples is a function of (seed, epoch) and of the samples a step takes over all processes;
the randomness inside a step (batches, dropout) is a function of (seed, step). A run that was killed and
resumed sees exactly what an unbroken run sees, and two processes see what one with twice the batch does. A
checkpoint is written to a temporary folder and renamed, so it exists whole or not at all; its tensors are
safetensors, never pickle (under FSDP and DeepSpeed, whose tensors lie in pieces, the libraries' own format).

Knows nothing of images, texts or models: a `Stage` says how to make a batch and a loss.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, PartialState
from accelerate.state import AcceleratorState
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from training.curve import draw_curve

# While one process simulates or looks at images, the others wait; the libraries' 10 to 30 minutes are short.
PATIENCE = timedelta(hours=6)
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)  # where no process holds all tensors


class Stopped(Exception):
    """The run was asked to stop (SIGTERM or Ctrl-C); all that it did is in the checkpoint."""


class OtherRecipe(ValueError):
    """What stands in the output folder was made by another recipe, or in another way."""


class FullDisk(OSError):
    """Tensors could not be written; what was there before is whole."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns.

    `steps`, or `epochs` over all samples, say how long; `minutes` ends the stage early (its schedule follows
    the clock then). `batch_size` counts samples of one process and one pass; a step takes `accumulation`
    passes in every process. AdamW with `betas` and `weight_decay`; without decay that is Adam.
    """

    batch_size: int
    learning_rate: float
    steps: int | None = None
    epochs: float | None = None
    accumulation: int = 1
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    gradient_clip: float = 1.0
    checkpoint_every: int = 250
    minutes: float | None = None
    seed: int = 0

    def __post_init__(self):
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("steps, epochs: give one of the two")
        object.__setattr__(self, "betas", tuple(self.betas))  # YAML has lists

    def samples_a_step(self, processes: int = 1) -> int:
        """Samples that all processes together take in one step."""
        return self.batch_size * self.accumulation * processes

    def total_steps(self, samples: int, processes: int = 1) -> int:
        """Steps of the whole stage for a set of `samples`."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(self.epochs * samples / self.samples_a_step(processes)))


class Stage(Protocol):
    """`module` holds what learns (its parameters with requires_grad); `batch` takes numbers of samples;
    `lengths`, where samples differ much in size, lets like ones share a batch. `loss` is a mean over the
    batch, with figures for the log, the same ones every time.

    A stage may also have `weight(batch) -> float`: over how many things (words, say) the mean goes. Batches
    of one step count by it; without it, by their number of samples. And `rates`, by a part of a parameter's
    name: how many times the learning rate it has; all others have it once.
    """

    name: str
    module: nn.Module
    lengths: Sequence[int] | None

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int], rng: np.random.Generator) -> Any: ...

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, float]]: ...


class Learner(nn.Module):
    """A stage's loss as a module's forward: what accelerate wraps, whatever modules the loss goes through."""

    def __init__(self, stage: Stage):
        super().__init__()
        self.module = stage.module
        self.stage = stage
        self._no_split_modules = getattr(stage.module, "_no_split_modules", None)  # where FSDP may cut

    def forward(self, batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
        return self.stage.loss(batch)


@dataclass
class Progress:
    """Where a run is: steps done, seconds spent, samples a step takes, and the figures not yet in the log."""

    step: int = 0
    seconds: float = 0.0
    samples_a_step: int = 0
    pending: dict[str, list[float]] = field(default_factory=dict)


def processes() -> PartialState:
    """The processes that this one was started with, by `accelerate launch`, or itself alone."""
    if PartialState._shared_state:
        return PartialState()
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def train(
    stage: Stage, schedule: Schedule, output: Path, *, precision: str = "no", resume: bool = False
) -> None:
    """Run one stage. Writes `output/log.csv`, `output/curve.png`, `output/checkpoint/` and, at the end,
    `output/done`; only the main process writes.

    `precision` is accelerate's mixed precision: "no", "bf16" or "fp16". With `resume`, goes on from the last
    checkpoint where there is one. Under FSDP and DeepSpeed the learned tensors, whole, go to
    `output/learned.safetensors`, because no process holds them all.

    Raises Stopped after SIGTERM or Ctrl-C, once a checkpoint is written; FullDisk where it cannot be written;
    FloatingPointError when the loss is no longer a number; ValueError for a checkpoint of another run.
    """
    _Loop(stage, schedule, output, precision).run(resume)


class _Loop:
    """One call of `train`."""

    def __init__(self, stage: Stage, schedule: Schedule, output: Path, precision: str):
        if not len(stage):
            raise ValueError(f"stage {stage.name}: there are no samples to learn from")
        self.stage, self.schedule, self.output = stage, schedule, output
        processes()
        AcceleratorState._reset_state()  # the stage before may have had another precision
        self.accelerator = Accelerator(
            mixed_precision=precision,
            cpu=not torch.cuda.is_available(),
            gradient_accumulation_steps=schedule.accumulation,
            # Which heads and experts a batch reaches depends on the batch.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.world = self.accelerator.num_processes
        self.samples = schedule.samples_a_step(self.world)
        self.steps = schedule.total_steps(len(stage), self.world)
        self._tell_deepspeed()
        learning = {name: p for name, p in stage.module.named_parameters() if p.requires_grad}
        groups = _groups(learning, schedule.weight_decay, getattr(stage, "rates", {}))
        optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=schedule.betas)
        self.model, self.optimizer = self.accelerator.prepare(Learner(stage), optimizer)
        self.parameters = list(self.model.parameters())  # FSDP makes its own, and wants them all
        self.checkpoints = _Checkpoints(
            output / "checkpoint", self.accelerator, self.model, learning, self.optimizer
        )

    def _tell_deepspeed(self) -> None:
        """What DeepSpeed would otherwise want to read from a DataLoader or its own file."""
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            words = self.accelerator.state.deepspeed_plugin.deepspeed_config
            words["train_micro_batch_size_per_gpu"] = self.schedule.batch_size
            words["gradient_clipping"] = self.schedule.gradient_clip

    def run(self, resume: bool) -> None:
        at = self.checkpoints.restore() if resume else None
        at = at or Progress(samples_a_step=self.samples)
        if at.samples_a_step != self.samples:
            raise OtherRecipe(
                f"{self.checkpoints.folder} took {at.samples_a_step} samples a step, this run takes "
                f"{self.samples}: go on with as many processes as before, or change the recipe's batch_size "
                "or accumulation so that their product stays"
            )
        writes = self.accelerator.is_main_process
        if writes:
            self.output.mkdir(parents=True, exist_ok=True)
        log = _Log(self.output, at, self.steps) if writes else None
        batches = _Ahead(self.stage, self.schedule, self.steps, self.accelerator)
        with _Signals() as signals, batches:
            stopped = self._steps(at, log, signals, batches)
        self.checkpoints.save(at)  # of a finished stage the caller deletes it, once it has kept the weights
        if log:
            log.close(finished=not stopped)
        if stopped:
            raise Stopped(f"{self.stage.name}: stopped after step {at.step}; go on with --resume")
        if self.accelerator.distributed_type in SHARDED:
            self._write_learned()
        if writes:
            done = {"steps": at.step, "seconds": round(at.seconds)}
            (self.output / "done").write_text(json.dumps(done))
        self.accelerator.wait_for_everyone()
        self.accelerator.free_memory()

    def _steps(self, at: Progress, log: _Log | None, signals: _Signals, batches: _Ahead) -> bool:
        """Learn until the steps or the minutes are over (False), or a signal says so (True)."""
        begun = time.monotonic() - at.seconds
        self.model.train()
        with _Bar(self, at) as bar:
            for step in range(at.step, self.steps):
                passes = batches.get(step)
                weight, stop, at.seconds = self._agree(
                    sum(weight for _, weight in passes), signals.asked, time.monotonic() - begun
                )
                share = _progress(self.schedule, self.steps, step, at.seconds)
                if share >= 1:
                    break
                if stop:
                    return True
                rate = self.schedule.learning_rate * learning_rate_share(share, self.schedule.warmup_ratio)
                figures = self._step(step, passes, weight, rate)
                at.step, at.seconds = step + 1, time.monotonic() - begun
                if log:
                    log.add(step, figures, rate)
                bar.show(figures["loss"], at)
                if at.step % self.schedule.checkpoint_every == 0:
                    self.checkpoints.save(at)
                    if log:
                        log.flush()
        return False

    def _step(
        self, step: int, passes: list[tuple[Any, float]], total: float, rate: float
    ) -> dict[str, float]:
        """One step of the optimizer; returns loss and figures, means over all processes and passes."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["times"] * rate
        means: dict[str, float] = {}
        for i, (batch, weight) in enumerate(passes):
            self._seed(step, i * self.world + self.accelerator.process_index)
            with self.accelerator.accumulate(self.model):
                loss, figures = self.model(batch)
                share = weight / total
                # Undoes the means that accelerate takes over passes and processes: weights differ.
                factor = share * self.world * self.schedule.accumulation
                self.accelerator.backward(loss if factor == 1 else loss * factor)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.parameters, self.schedule.gradient_clip)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
            for name, value in {"loss": float(loss.detach()), **figures}.items():
                means[name] = means.get(name, 0.0) + value * share
        if self.world > 1:
            summed = self._sum(list(means.values()))
            means = dict(zip(means, summed, strict=True))
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(
                f"{self.stage.name}: the loss of step {step} is {means['loss']}; the last checkpoint is "
                "before it. Lower learning_rate, or take precision bf16 instead of fp16."
            )
        return means

    def _agree(self, weight: float, stop: bool, seconds: float) -> tuple[float, bool, float]:
        """What all must see alike: the step's weight, whether any was asked to stop, the main clock."""
        if self.world == 1:
            return weight, stop, seconds
        weight, stops, seconds = self._sum([weight, float(stop), seconds * self.accelerator.is_main_process])
        return weight, stops > 0, seconds

    def _sum(self, values: list[float]) -> list[float]:
        mine = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        return self.accelerator.reduce(mine, "sum").tolist()

    def _seed(self, step: int, part: int) -> None:
        """For dropout: another number for every step, pass and process, the same after a resume.

        Not torch.manual_seed, which formats the call stack every time where there is no GPU.
        """
        sequence = np.random.SeedSequence([self.schedule.seed, step, part])
        number = int(sequence.generate_state(1, np.uint64)[0] >> 1)
        torch.default_generator.manual_seed(number)
        if self.accelerator.device.type == "cuda":
            torch.cuda.manual_seed(number)

    def _write_learned(self) -> None:
        """The learned tensors in one file, gathered from the processes that hold their pieces."""
        state = self.accelerator.get_state_dict(self.model)
        if self.accelerator.is_main_process:
            whole = {name.removeprefix("module."): tensor for name, tensor in state.items()}
            kept = {name: whole[name].contiguous() for name in self.checkpoints.learning}
            write_tensors(self.output / "learned.safetensors", kept)


class _Ahead:
    """Makes the next step's batches of this process in a thread while the current ones are learned."""

    def __init__(self, stage: Stage, schedule: Schedule, steps: int, accelerator: Accelerator):
        self.stage, self.schedule, self.steps = stage, schedule, steps
        self.world, self.rank = accelerator.num_processes, accelerator.process_index
        self.order = Order(len(stage), schedule, stage.lengths, self.world)
        self.weigh = getattr(stage, "weight", None)
        self.pool = ThreadPoolExecutor(1)
        self.coming: dict[int, Future] = {}

    def __enter__(self) -> _Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        """Drop the batches that nobody will ask for: clock or signal may end a stage before its steps do."""
        self.pool.shutdown(wait=True, cancel_futures=True)

    def get(self, step: int) -> list[tuple[Any, float]]:
        """The batches of a step's passes, each with its weight."""
        passes = self.coming.pop(step).result() if step in self.coming else self._make(step)
        if step + 1 < self.steps:
            self.coming[step + 1] = self.pool.submit(self._make, step + 1)
        return passes

    def _make(self, step: int) -> list[tuple[Any, float]]:
        passes = []
        for i, indices in enumerate(self.order.passes(step, self.rank)):
            rng = np.random.default_rng([self.schedule.seed, step, i * self.world + self.rank])
            batch = self.stage.batch(indices, rng)
            passes.append((batch, float(self.weigh(batch) if self.weigh else len(indices))))
        return passes


class Order:
    """Which samples each step takes: every epoch a fresh shuffle of all, a function of (seed, epoch) and of
    the samples a step takes over all processes.

    With `lengths`, samples of like length share a step (less padding): the shuffle is cut into windows of
    `WINDOW` steps, each sorted by length, and the steps of a window come in random order.
    """

    WINDOW = 24

    def __init__(
        self, count: int, schedule: Schedule, lengths: Sequence[int] | None = None, processes: int = 1
    ):
        self.count, self.seed, self.processes = count, schedule.seed, processes
        self.accumulation, self.taken = schedule.accumulation, schedule.samples_a_step(processes)
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.epochs: dict[int, np.ndarray] = {}

    def indices(self, step: int) -> np.ndarray:
        """Sample numbers of a step, over all processes."""
        at = np.arange(step * self.taken, (step + 1) * self.taken)
        epochs, places = np.divmod(at, self.count)
        picked = [self._epoch(int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)]
        return np.array(picked)

    def passes(self, step: int, rank: int) -> list[np.ndarray]:
        """Sample numbers of one process, pass by pass: every `processes`-th, so that all get like lengths."""
        return np.split(self.indices(step)[rank :: self.processes], self.accumulation)

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
        window = self.WINDOW * self.taken
        for first in range(0, self.count, window):
            part = shuffled[first : first + window]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            cut = [part[i : i + self.taken] for i in range(0, len(part), self.taken)]
            batches += [cut[i] for i in rng.permutation(len(cut))]
        return np.concatenate(batches)


def learning_rate_share(progress: float, warmup_ratio: float) -> float:
    """Linear warm-up, then half a cosine down to zero; `progress` runs from 0 to 1."""
    if progress < warmup_ratio:
        return progress / warmup_ratio + 1e-3
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup_ratio) / (1 - warmup_ratio)))


def _progress(schedule: Schedule, steps: int, step: int, seconds: float) -> float:
    by_steps = step / steps
    return by_steps if schedule.minutes is None else max(by_steps, seconds / 60 / schedule.minutes)


def _groups(learning: dict[str, nn.Parameter], weight_decay: float, rates: Mapping[str, float]) -> list[dict]:
    """Weight decay for matrices only: norms, biases and scalars are left alone. `times` the learning rate."""
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in learning.items():
        times = next((times for part, times in rates.items() if part in name), 1.0)
        groups.setdefault((parameter.ndim >= 2, times), []).append(parameter)
    return [
        {"params": own, "weight_decay": weight_decay if matrices else 0.0, "times": times}
        for (matrices, times), own in groups.items()
    ]


class _Signals:
    """Notes the first SIGTERM or Ctrl-C, to be obeyed between two steps; a second one acts at once."""

    def __init__(self):
        self.asked = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self.before = {
                number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)
            }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.asked = True
        signal.signal(number, self.before[number])


class _Bar:
    """The progress bar of the main process: samples a second, remaining time, loss."""

    def __init__(self, loop: _Loop, at: Progress):
        self.samples, self.minutes = loop.samples, loop.schedule.minutes
        self.bar = tqdm(
            total=loop.steps * loop.samples,
            initial=at.step * loop.samples,
            desc=loop.stage.name,
            unit="sample",
            mininterval=10,
            disable=not loop.accelerator.is_main_process,
        )

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def show(self, loss: float, at: Progress) -> None:
        self.bar.update(self.samples)
        words = {"loss": f"{loss:.3f}"}
        if self.minutes is not None:
            words["minutes_left"] = f"{max(0.0, self.minutes - at.seconds / 60):.1f} at most"
        self.bar.set_postfix(words, refresh=False)


class _Checkpoints:
    """Parameters, AdamW's moments and the progress in one folder, replaced whole or not at all."""

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        model: nn.Module,
        learning: dict[str, nn.Parameter],
        optimizer: Any,
    ):
        self.folder, self.accelerator, self.model = folder, accelerator, model
        self.learning, self.optimizer = learning, optimizer
        self.sharded = accelerator.distributed_type in SHARDED

    def save(self, at: Progress) -> None:
        """Write the checkpoint beside the one that is there, then take its place; the main process only, or,
        where tensors lie in pieces, all. Every process goes on when it stands."""
        fresh = self.folder.with_name(self.folder.name + ".writing")
        if self.accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
        try:
            if self.sharded:
                self.accelerator.wait_for_everyone()
                self.accelerator.save_state(str(fresh))
                self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                self._write(fresh, at)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise FullDisk(
                f"{self.folder}: the checkpoint of step {at.step} could not be written ({error}). The one "
                "before it, if any, is whole: make room and go on with --resume."
            ) from error
        self.accelerator.wait_for_everyone()

    def _write(self, fresh: Path, at: Progress) -> None:
        if not self.sharded:
            save_file(self._tensors(), fresh / "state.safetensors")
        words = asdict(at) | {"scaler": self.accelerator.scaler and self.accelerator.scaler.state_dict()}
        (fresh / "progress.json").write_text(json.dumps(words))
        for file in [*fresh.rglob("*"), fresh]:  # on the disk before the name is: power may fail, too
            _sync(file)
        old = self.folder.with_name(self.folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(old)
        fresh.rename(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {}
        for name, parameter in self.learning.items():
            tensors[name] = parameter.detach().cpu().contiguous()
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{name}::{key}"] = value.detach().cpu().contiguous()
        return tensors

    def restore(self) -> Progress | None:
        """Bring back the last whole checkpoint; None where there is none."""
        places = (self.folder, self.folder.with_name(self.folder.name + ".old"))
        kept = next((place for place in places if (place / "progress.json").is_file()), None)
        if kept is None:
            return None
        if self.sharded:
            self.accelerator.load_state(str(kept))
        else:
            self._take(kept, load_file(kept / "state.safetensors"))
        words = json.loads((kept / "progress.json").read_text())
        if scaler := words.pop("scaler", None):
            self.accelerator.scaler.load_state_dict(scaler)
        return Progress(**words)

    def _take(self, kept: Path, tensors: dict[str, torch.Tensor]) -> None:
        held = {name.split("::")[0] for name in tensors}
        if strangers := sorted(held ^ set(self.learning)):
            raise ValueError(
                f"{kept} is of another recipe: {', '.join(strangers[:5])} is not in both; choose another "
                "--output"
            )
        for name, parameter in self.learning.items():
            parameter.data.copy_(tensors[name])
            state = {
                key.split("::")[1]: value for key, value in tensors.items() if key.startswith(f"{name}::")
            }
            self.optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
            }


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """One safetensors file, whole or not at all. FullDisk where it cannot be written."""
    writing = path.with_suffix(".writing")
    try:
        save_file(tensors, writing)
        _sync(writing)
        writing.rename(path)
    except (OSError, SafetensorError) as error:
        raise FullDisk(f"{path} could not be written ({error}): make room and go on with --resume") from error
    finally:
        writing.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _Log:
    """Means over up to `EVERY` steps, fewer where a stage would come to less than `ROWS` rows: in a CSV, as a
    curve, and for TensorBoard where that is installed. Rows after a resumed step are dropped first; what is
    not yet a row lives in the checkpoint (`Progress.pending`)."""

    EVERY, ROWS = 25, 40

    def __init__(self, output: Path, at: Progress, steps: int):
        self.every = max(1, min(self.EVERY, steps // self.ROWS))
        self.path, self.picture, self.pending = output / "log.csv", output / "curve.png", at.pending
        self.rows: list[dict[str, Any]] = []
        self.last: tuple[int, float] | None = None  # step and learning rate
        if at.step and self.path.exists():
            with self.path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) < at.step]
        self.board = _tensorboard(output / "tensorboard", at.step)

    def add(self, step: int, figures: dict[str, float], rate: float) -> None:
        for name, value in figures.items():
            self.pending.setdefault(name, []).append(value)
        self.last = (step, rate)
        if (step + 1) % self.every == 0:
            self._row()
            if (step + 1) % (4 * self.every) == 0:
                self.flush()

    def _row(self) -> None:
        step, rate = self.last
        means = {name: float(np.mean(values)) for name, values in self.pending.items()}
        self.pending.clear()
        means["learning_rate"] = rate
        self.rows.append({"step": step, **{name: f"{value:.6g}" for name, value in means.items()}})
        for name, value in means.items() if self.board else ():
            self.board.add_scalar(name, value, step)

    def flush(self) -> None:
        if not self.rows:
            return
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        fresh = self.path.with_suffix(".writing")
        with fresh.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        fresh.rename(self.path)

    def close(self, finished: bool) -> None:
        """Write what there is; of a finished stage the last few steps, too."""
        if finished and self.last and self.pending:
            self._row()
        self.flush()
        if self.rows:
            draw_curve(self.path, self.picture)
        if self.board:
            self.board.close()


def _tensorboard(folder: Path, step: int) -> Any | None:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step)
