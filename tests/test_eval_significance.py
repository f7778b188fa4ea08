"""Paired tests against sacrebleu's own numbers, at their edges, and on systems that are truly equal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval import significance
from eval.intervals import bootstrap
from eval.measure import Measure, mean, ratio, share
from eval.significance import approximate_randomisation, holm, paired_bootstrap

FIXTURE = Path(__file__).parent / "fixtures" / "eval_extra.json"


def corpus_bleu(sums: np.ndarray) -> np.ndarray:
    """Sums of (system length, reference length, correct 1-4, total 1-4) -> sacrebleu's BLEU, smooth "exp"."""
    right, total = sums[..., 2:6], sums[..., 6:10]
    empty = right == 0
    right = np.where(empty, 0.5 ** np.cumsum(empty, axis=-1), right)
    brevity = np.minimum(1.0, np.exp(1 - sums[..., 1] / sums[..., 0]))
    return 100 * brevity * np.exp(np.log(right / total).mean(axis=-1))


@pytest.fixture(scope="module")
def block() -> dict:
    return json.loads(FIXTURE.read_text(encoding="utf-8"))["significance"]


@pytest.fixture(scope="module")
def systems(block) -> tuple[Measure, Measure]:
    return tuple(
        Measure("BLEU", np.array(block[system], dtype=float), corpus_bleu, "", scale=1.0) for system in "ab"
    )


def made(name: str, seed: int, n: int = 40, shift: float = 0.0) -> Measure:
    return mean(name, np.random.default_rng(seed).normal(shift, 1, n), "")


def test_the_fixture_is_scored_as_sacrebleu_does(systems, block):
    for system, score in zip(systems, ("score_a", "score_b"), strict=True):
        assert system.of(system.counts.sum(axis=0)) == pytest.approx(block["expected"][score], abs=1e-9)


def test_the_resamples_are_those_of_sacrebleu(systems, block):
    """Its mean and half width, which takes the 25th figure from either end of 1,000."""
    figures = np.sort(corpus_bleu(bootstrap(systems[0].counts, 1000, seed=12345)))
    expected = block["expected"]
    assert figures.mean() == pytest.approx(expected["bootstrap_mean_a"], abs=1e-4)  # float32 there
    half = (figures[-26] - figures[25]) / 2
    assert half == pytest.approx(expected["bootstrap_half_width_a"], abs=1e-4)


def test_randomisation_gives_sacrebleus_p(systems, block):
    p = approximate_randomisation(*systems, trials=block["expected"]["ar_trials"], seed=12345)
    assert p == pytest.approx(block["expected"]["ar_p"], abs=1e-9)
    other = approximate_randomisation(*systems, seed=6)
    assert other != p and other == pytest.approx(p, abs=0.02)  # four standard errors of 10,000 trials


def test_the_bootstrap_gives_sacrebleus_p_beside_its_own(systems, block):
    found = paired_bootstrap(*systems)
    assert found.p_sacrebleu == pytest.approx(block["expected"]["bs_p"], abs=2.1e-3)  # float32 there
    assert found.value == pytest.approx(block["expected"]["score_b"] - block["expected"]["score_a"])
    assert found.low < found.value < found.high
    assert found.p > 0.5  # the one-sided value reads twice as sure


def test_equal_systems_are_not_different():
    same = made("F1", 1)
    assert approximate_randomisation(same, same, trials=200) == 1.0
    found = paired_bootstrap(same, same, 200)
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_the_order_of_the_systems_turns_the_sign_and_keeps_p():
    a, b = made("F1", 1), made("F1", 2, shift=0.3)
    assert approximate_randomisation(a, b) == approximate_randomisation(b, a)
    forth, back = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert forth.p == back.p and forth.value == pytest.approx(-back.value)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))


def test_a_system_that_is_better_everywhere_is_found():
    a = made("F1", 1)
    b = mean("F1", a.counts[:, 0] + 0.5 + 0.1 * np.arange(40) / 40, "")
    assert approximate_randomisation(a, b, trials=999) == 1 / 1000
    found = paired_bootstrap(a, b, 999)
    assert found.p == 1 / 1000 and found.low > 50  # in the table's unit
    assert found.value == pytest.approx(54.875)


def test_randomisation_is_close_to_counting_every_swap():
    """Six cases have 64 swaps, which can be tried one by one."""
    a, b = share("EM", [0, 0, 1, 0, 0, 1], ""), share("EM", [1, 1, 1, 1, 0, 0], "")
    difference = (b.counts - a.counts)[:, 0]
    found = abs(difference.sum())
    exact = np.mean([abs((difference * (1 - 2 * (k >> np.arange(6) & 1))).sum()) >= found for k in range(64)])
    assert approximate_randomisation(a, b, trials=20_000) == pytest.approx(exact, abs=0.015)


def test_many_measures_at_once_give_what_each_gives_alone(systems):
    a, b = made("F1", 1, 38), made("F1", 2, 38)
    both = approximate_randomisation([systems[0], a], [systems[1], b], trials=500)
    assert both == [
        approximate_randomisation(*systems, trials=500),
        approximate_randomisation(a, b, trials=500),
    ]
    together = paired_bootstrap([systems[0], a], [systems[1], b], 300)
    for found, alone in zip(
        together, (paired_bootstrap(*systems, 300), paired_bootstrap(a, b, 300)), strict=True
    ):
        assert found.p == alone.p and found.low == pytest.approx(alone.low)


def test_swaps_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    a, b = made("F1", 1), made("F1", 2)
    whole = approximate_randomisation(a, b, trials=1000)
    monkeypatch.setattr(significance, "BLOCK", 64)
    assert approximate_randomisation(a, b, trials=1000) == whole


def test_a_patients_cases_are_swapped_together():
    """Ten copies of a case are no new evidence: with clusters p is that of the cases, without it shrinks."""
    a, b = made("F1", 1), made("F1", 2, shift=0.25)
    copied = [replace(system, counts=np.repeat(system.counts, 10, axis=0)) for system in (a, b)]
    patients = [f"p{i // 10:02}" for i in range(400)]
    alone = approximate_randomisation(a, b)
    assert alone > 0.05
    assert approximate_randomisation(*copied, clusters=patients) == alone
    assert approximate_randomisation(*copied) < 0.001
    assert paired_bootstrap(*copied, clusters=patients).p == paired_bootstrap(a, b).p


def test_zeros_outside_a_group_do_not_change_its_randomisation():
    a, b = made("F1", 1), made("F1", 2, shift=0.3)
    inside = np.arange(40) % 2 == 0
    masked = [replace(system, counts=np.where(inside[:, None], system.counts, 0)) for system in (a, b)]
    small = [replace(system, counts=system.counts[inside]) for system in (a, b)]
    assert approximate_randomisation(*masked) == pytest.approx(approximate_randomisation(*small), abs=0.02)


def test_a_system_without_a_figure_has_no_p():
    nothing = Measure("F1", np.zeros((40, 2)), ratio, "")
    assert np.isnan(approximate_randomisation(nothing, made("F1", 1), trials=50))
    assert np.isnan(paired_bootstrap(made("F1", 1), nothing, 50).p)


def test_trials_without_a_figure_are_left_out():
    """Each system states something in one case only: half of the swaps leave one of them without a figure."""
    a = Measure("P", np.array([[1.0, 1], [0, 0]]), ratio, "")
    b = Measure("P", np.array([[0.0, 0], [0, 1]]), ratio, "")
    assert approximate_randomisation(a, b, trials=400) == 1.0
    found = paired_bootstrap(a, b, 400)
    assert (found.value, found.low, found.high) == (-100, -100, -100)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (made("F1", 1), made("BLEU", 1), "count different things"),
        (made("F1", 1), made("F1", 1, 30), "has 40 and 30 cases"),
        ([made("F1", 1)], [], "1 measures of one system"),
        ([], [], "0 measures"),
    ],
)
def test_measures_that_do_not_belong_together_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        approximate_randomisation(a, b)


def test_equal_systems_are_called_different_in_five_of_a_hundred():
    """1,000 pairs of systems without a true difference; two standard errors of 5 % of them are 1.4 %."""
    draws = np.random.default_rng(3).normal(size=(2, 1000, 60))
    a, b = ([mean(f"m{i}", values, "") for i, values in enumerate(system)] for system in draws)
    by_swaps = np.array(approximate_randomisation(a, b, trials=999))
    by_draws = paired_bootstrap(a, b, 999)
    assert 0.036 <= np.mean(by_swaps < 0.05) <= 0.064
    assert 0.036 <= np.mean([found.p < 0.05 for found in by_draws]) <= 0.070
    assert np.mean([found.p_sacrebleu < 0.05 for found in by_draws]) > 0.085
    covered = np.mean([found.low <= 0 <= found.high for found in by_draws])
    assert 0.92 <= covered <= 0.965


@pytest.mark.parametrize(
    ("ps", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
        ([0.01, float("nan"), 0.02], [0.02, float("nan"), 0.02]),
        ([0.04, 0.04, 0.04], [0.12, 0.12, 0.12]),
        ([0.4, 0.001], [0.4, 0.002]),
    ],
)
def test_holm_by_hand(ps, adjusted):
    assert holm(ps) == pytest.approx(adjusted, nan_ok=True)
