"""The loop: resume equals an unbroken run, every sample once an epoch, checkpoints whole, schedules as
stated."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from training import loop
from training.loop import Order, Schedule, learning_rate_share, train


class Line:
    """Fit y = 3x + noise: a stage small enough to check to the last bit."""

    name = "line"
    lengths = None

    def __init__(self, fail_at: int | None = None):
        torch.manual_seed(0)
        self.module = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        self.fail_at, self.seen = fail_at, 0

    def __len__(self):
        return 50

    def batch(self, indices, rng: np.random.Generator):
        x = torch.tensor(indices, dtype=torch.float32)[:, None] / 50
        return x, 3 * x + torch.from_numpy(rng.normal(0, 0.1, x.shape)).float()

    def loss(self, batch):
        self.seen += 1
        if self.seen == self.fail_at:
            raise KeyboardInterrupt
        x, y = batch
        loss = (self.module(x) - y).square().mean()
        return loss, {}


SCHEDULE = Schedule(steps=40, batch_size=7, learning_rate=1e-2, checkpoint_every=10, seed=3)


def losses(folder) -> list[str]:
    with (folder / "log.csv").open() as file:
        return [row["loss"] for row in csv.DictReader(file)]


def test_a_killed_and_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(loop._Log, "EVERY", 1)
    whole = Line()
    train(whole, SCHEDULE, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(Line(fail_at=27), SCHEDULE, tmp_path / "broken")
    resumed = Line()
    train(resumed, SCHEDULE, tmp_path / "broken", resume=True)
    assert resumed.seen == 20  # went on from step 20, not from the start
    for a, b in zip(whole.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert json.loads((tmp_path / "whole/done").read_text())["steps"] == 40


def test_resuming_a_finished_stage_changes_nothing(tmp_path):
    first, again = Line(), Line()
    train(first, SCHEDULE, tmp_path)
    train(again, SCHEDULE, tmp_path, resume=True)
    assert again.seen == 0
    for a, b in zip(first.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_it_learns(tmp_path):
    stage = Line()
    before = float(stage.loss(stage.batch(range(50), np.random.default_rng(0)))[0])
    train(stage, SCHEDULE, tmp_path)
    after = float(stage.loss(stage.batch(range(50), np.random.default_rng(0)))[0])
    assert after < before / 5


def test_a_half_written_checkpoint_is_never_taken_for_a_whole_one(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        train(Line(fail_at=15), SCHEDULE, tmp_path)

    def full(*_, **__):
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(loop, "save_file", full)
        with pytest.raises(OSError, match="no space"):
            train(Line(), SCHEDULE, tmp_path, resume=True)
    resumed = Line()
    train(resumed, SCHEDULE, tmp_path, resume=True)
    assert resumed.seen == 30  # the checkpoint of step 10 was still whole


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
    decayed, spared = loop._groups(learning, 0.1)
    assert decayed["weight_decay"] == 0.1 and decayed["params"][0].ndim == 2
    assert spared["weight_decay"] == 0.0 and spared["params"][0].ndim == 1
