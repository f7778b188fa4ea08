"""The loop: resume equals an unbroken run, every sample once an epoch, checkpoints whole whatever happens,
accumulation counts as a larger batch, schedules as stated."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from training import loop
from training.curve import draw_curve
from training.loop import FullDisk, Order, OtherRecipe, Schedule, Stopped, learning_rate_share, train


class Line:
    """Fit y = 3x + noise: a stage small enough to check to the last bit."""

    name = "line"
    lengths = None

    def __init__(self, fail_at: int | None = None, signal_at: int | None = None, width: int = 8):
        torch.manual_seed(0)
        self.module = torch.nn.Sequential(
            torch.nn.Linear(1, width), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(width, 1)
        )
        self.fail_at, self.signal_at, self.seen = fail_at, signal_at, 0

    def __len__(self):
        return 50

    def batch(self, indices, rng: np.random.Generator):
        x = torch.tensor(indices, dtype=torch.float32)[:, None] / 50
        return x, 3 * x + torch.from_numpy(rng.normal(0, 0.1, x.shape)).float()

    def loss(self, batch):
        self.seen += 1
        if self.seen == self.fail_at:
            raise KeyboardInterrupt
        if self.seen == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        x, y = batch
        loss = (self.module(x) - y).square().mean()
        return loss, {}


SCHEDULE = Schedule(steps=40, batch_size=7, learning_rate=1e-2, checkpoint_every=10, seed=3)


def losses(folder) -> list[str]:
    with (folder / "log.csv").open() as file:
        return [row["loss"] for row in csv.DictReader(file)]


def same(a: Line, b: Line) -> bool:
    return all(map(torch.equal, a.module.parameters(), b.module.parameters()))


@pytest.mark.parametrize("every", [1, 3, 25])  # steps to a row of the log; 3 and 25 are cut by the checkpoint
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_killed_and_resumed_run_equals_an_unbroken_one_bit_for_bit(
    tmp_path, monkeypatch, every, accumulation
):
    monkeypatch.setattr(loop._Log, "EVERY", every)
    monkeypatch.setattr(loop._Log, "ROWS", 1)
    schedule = replace(SCHEDULE, accumulation=accumulation)
    whole = Line()
    train(whole, schedule, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(Line(fail_at=27 * accumulation), schedule, tmp_path / "broken")
    torch.rand(3)  # what happened in between must not matter, for dropout either
    resumed = Line()
    train(resumed, schedule, tmp_path / "broken", resume=True)
    assert resumed.seen == 20 * accumulation  # went on from step 20, not from the start
    assert same(whole, resumed)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole") != []
    assert json.loads((tmp_path / "whole/done").read_text())["steps"] == 40


def test_sigterm_saves_and_loses_nothing(tmp_path):
    whole, stopped, resumed = Line(), Line(signal_at=27), Line()
    train(whole, SCHEDULE, tmp_path / "whole")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="line: stopped after step 27; go on with --resume"):
        train(stopped, SCHEDULE, tmp_path / "stopped")
    assert stopped.seen == 27 and signal.getsignal(signal.SIGTERM) is before
    train(resumed, SCHEDULE, tmp_path / "stopped", resume=True)
    assert resumed.seen == 13 and same(whole, resumed)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


def test_resuming_a_finished_stage_changes_nothing(tmp_path):
    first, again = Line(), Line()
    train(first, SCHEDULE, tmp_path)
    train(again, SCHEDULE, tmp_path, resume=True)
    assert again.seen == 0
    assert same(first, again)


def test_it_learns(tmp_path):
    stage = Line()
    batch = stage.batch(range(50), np.random.default_rng(0))
    before = float(stage.loss(batch)[0].detach())
    train(stage, SCHEDULE, tmp_path)
    stage.module.eval()
    assert float(stage.loss(batch)[0].detach()) < before / 4


def test_a_stage_may_have_parts_that_learn_faster(tmp_path):
    moved = {}
    for times in (1, 5):
        stage = Line()
        stage.rates = {"weight": times}
        before = [parameter.detach().clone() for parameter in stage.module.parameters()]
        train(stage, replace(SCHEDULE, steps=2), tmp_path / str(times))
        pairs = zip(stage.module.named_parameters(), before, strict=True)
        moved[times] = {name: float((now - was).abs().max().detach()) for (name, now), was in pairs}
    assert set(moved[1]) == {name for name, _ in Line().module.named_parameters()}
    for name, far in moved[1].items():  # Adam's first steps are as long as its rate
        assert moved[5][name] == pytest.approx((5 if "weight" in name else 1) * far, rel=0.1)


WIDE = 60_000  # a checkpoint of 2 MB


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path):
    schedule = replace(SCHEDULE, steps=6, checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(Line(fail_at=4, width=WIDE), schedule, tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").iterdir()}
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))  # a write beyond fails, as on a full disk
    try:
        with pytest.raises(FullDisk, match="checkpoint of step 4 could not be written .* make room"):
            train(Line(width=WIDE), schedule, tmp_path, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").iterdir()} == before
    assert not (tmp_path / "checkpoint.writing").exists()  # half a checkpoint only takes room
    resumed, whole = Line(width=WIDE), Line(width=WIDE)
    train(resumed, schedule, tmp_path, resume=True)
    train(whole, schedule, tmp_path / "whole")
    assert resumed.seen == 4 and same(resumed, whole)


@pytest.mark.parametrize("renames", [0, 1])
def test_a_crash_between_two_renames_leaves_a_whole_checkpoint(tmp_path, monkeypatch, renames):
    done = []

    def rename(self: Path, target: Path):
        if self.name.startswith("checkpoint"):
            done.append(self.name)
            if len(done) == 2 + renames:  # the first checkpoint needs one rename, the second two
                raise KeyboardInterrupt
        os.rename(self, target)

    with monkeypatch.context() as crashing:
        crashing.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            train(Line(), SCHEDULE, tmp_path)
    assert (tmp_path / "checkpoint").exists() != (renames == 1)
    resumed, whole = Line(), Line()
    train(resumed, SCHEDULE, tmp_path, resume=True)
    train(whole, SCHEDULE, tmp_path / "whole")
    assert resumed.seen == 30 and same(resumed, whole)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    stage = Line()
    stage.loss = lambda batch: (stage.module(batch[0]).sum() * float("nan"), {})
    with pytest.raises(FloatingPointError, match="line: the loss of step 0 is nan"):
        train(stage, SCHEDULE, tmp_path)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(Line(), replace(SCHEDULE, steps=2), tmp_path)
    with pytest.raises(OtherRecipe, match="took 7 samples a step, this run takes 14"):
        train(Line(), replace(SCHEDULE, batch_size=14), tmp_path, resume=True)
    other = Line()
    other.module = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="is of another recipe"):
        train(other, SCHEDULE, tmp_path, resume=True)


# --- batches, passes and epochs ----------------------------------------------------------------------------


class Weighted(Line):
    """Sample i stands for i % 5 + 1 things; the loss is their mean. No noise, no dropout."""

    def __init__(self):
        super().__init__()
        self.module.eval()
        self.module.train = lambda mode=True: self.module

    def batch(self, indices, rng):
        x = torch.tensor(indices, dtype=torch.float32)[:, None] / 50
        return x, torch.tensor([i % 5 + 1 for i in indices], dtype=torch.float32)[:, None]

    def weight(self, batch) -> float:
        return float(batch[1].sum())

    def loss(self, batch):
        x, things = batch
        errors = (self.module(x) - 3 * x).square() * things
        loss = errors.sum() / things.sum()
        return loss, {"twice": 2 * float(loss.detach())}


@pytest.mark.parametrize("accumulation", [2, 5])
def test_passes_of_unequal_weight_add_up_to_the_large_batch(tmp_path, monkeypatch, accumulation):
    monkeypatch.setattr(loop._Log, "EVERY", 1)
    monkeypatch.setattr(loop._Log, "ROWS", 1)
    once, often = Weighted(), Weighted()
    train(once, replace(SCHEDULE, batch_size=10), tmp_path / "once")
    divided = replace(SCHEDULE, batch_size=10 // accumulation, accumulation=accumulation)
    train(often, divided, tmp_path / "often")
    for a, b in zip(once.module.parameters(), often.module.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-5)
    for a, b in zip(losses(tmp_path / "once"), losses(tmp_path / "often"), strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(("epochs", "processes", "steps"), [(1, 1, 8), (2, 1, 15), (1, 2, 4), (0.5, 1, 4)])
def test_epochs_are_counted_in_samples_of_all_processes(epochs, processes, steps):
    schedule = Schedule(batch_size=7, learning_rate=1.0, epochs=epochs)
    assert schedule.total_steps(50, processes) == steps


@pytest.mark.parametrize("lengths", [None, [1, 9, 4, 5] * 6])
@pytest.mark.parametrize(("processes", "accumulation"), [(1, 4), (2, 2), (4, 1), (4, 2)])
def test_processes_and_passes_share_out_what_one_large_batch_takes(lengths, processes, accumulation):
    schedule = replace(SCHEDULE, batch_size=8 // processes // accumulation, accumulation=accumulation)
    whole = Order(24, replace(SCHEDULE, batch_size=8), lengths)
    shared = Order(24, schedule, lengths, processes)
    for step in range(6):
        passes = [shared.passes(step, rank) for rank in range(processes)]
        assert {len(one) for one in passes} == {accumulation}
        assert sorted(np.concatenate([p for one in passes for p in one])) == sorted(whole.indices(step))


@pytest.mark.parametrize("lengths", [None, [1, 9, 4] * 7])
def test_every_sample_comes_once_an_epoch(lengths):
    order = Order(21, SCHEDULE, lengths)
    for epoch in range(2):
        picked = [order.indices(3 * epoch + step) for step in range(3)]
        assert sorted(np.concatenate(picked)) == list(range(21))
    assert (Order(21, SCHEDULE, lengths).indices(5) == order.indices(5)).all()  # asked for out of turn


def test_samples_of_like_length_share_a_batch():
    order = Order(21, SCHEDULE, [1, 9, 4] * 7)
    for step in range(3):
        assert len({(1, 9, 4)[i % 3] for i in order.indices(step)}) == 1


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.001), (0.03, 1.0), (0.515, 0.5), (1.0, 0.0)])
def test_warm_up_then_cosine(progress, share):
    assert learning_rate_share(progress, 0.03) == pytest.approx(share, abs=1e-3)


def test_decay_spares_norms_and_biases():
    learning = {"w": torch.nn.Parameter(torch.ones(2, 2)), "b": torch.nn.Parameter(torch.ones(2))}
    decayed, spared = loop._groups(learning, 0.1, {})
    assert decayed["weight_decay"] == 0.1 and decayed["params"][0].ndim == 2
    assert spared["weight_decay"] == 0.0 and spared["params"][0].ndim == 1


# --- what it leaves to look at -----------------------------------------------------------------------------


def test_a_short_run_has_a_row_for_every_step(tmp_path):
    train(Line(), replace(SCHEDULE, steps=30), tmp_path)
    assert len(losses(tmp_path)) == 30


def test_the_curve_is_a_picture_and_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(loop._Log, "EVERY", 4)
    monkeypatch.setattr(loop._Log, "ROWS", 1)
    train(Weighted(), SCHEDULE, tmp_path)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(3, 40, 4))
    assert all(float(row["twice"]) == pytest.approx(2 * float(row["loss"]), rel=1e-4) for row in rows)
    assert float(rows[0]["learning_rate"]) > float(rows[-1]["learning_rate"]) > 0
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.format == "PNG" and picture.width > 400
        inks = picture.convert("RGB").getcolors(1 << 20)
        assert len(inks) > 10  # more than an empty frame


@pytest.mark.parametrize("text", ["step,loss\n", "a,b\n1,2\n"])
def test_a_log_without_losses_has_no_curve(tmp_path, text):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ValueError, match="has no rows with step and loss"):
        draw_curve(tmp_path / "log.csv", tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()


def test_the_bar_counts_samples(tmp_path, capsys):
    train(Line(), SCHEDULE, tmp_path)
    line = capsys.readouterr().err.strip().split("\r")[-1]
    assert line.startswith("line: 100%") and "280/280" in line
    assert "sample/s" in line and "<" in line and "loss=" in line  # elapsed<remaining


def test_a_very_short_stage_has_a_curve(tmp_path):
    train(Line(), replace(SCHEDULE, steps=3), tmp_path)
    assert len(losses(tmp_path)) == 3 and (tmp_path / "curve.png").exists()


def test_tensorboard_gets_the_rows_where_it_is_installed(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def close(self):
            written.append("closed")

    monkeypatch.setattr(loop._Log, "EVERY", 20)
    monkeypatch.setattr(loop._Log, "ROWS", 1)
    monkeypatch.setattr(loop.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    train(Line(), SCHEDULE, tmp_path)
    assert written[0] == (str(tmp_path / "tensorboard"), 0) and written[-1] == "closed"
    assert written[1:-1] == [(name, step) for step in (19, 39) for name in ("loss", "learning_rate")]


def test_minutes_end_a_stage_and_its_schedule(tmp_path, monkeypatch):
    monkeypatch.setattr(loop._Log, "EVERY", 1)
    monkeypatch.setattr(loop._Log, "ROWS", 1)
    now = iter(np.arange(0, 1e6, 1.0))  # every look at the clock is a second later
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(now)))
    stage = Line()
    train(stage, replace(SCHEDULE, minutes=0.5), tmp_path)
    with (tmp_path / "log.csv").open() as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert 5 < stage.seen < 20 and rates[-1] < 0.05 * SCHEDULE.learning_rate
