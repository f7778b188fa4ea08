"""Wilson intervals against published values; the bootstrap against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from eval import intervals
from eval.intervals import bootstrap, by_cluster, percentile, wilson
from eval.measure import ratio


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)],
)
def test_table_of_newcombe_1998(hits, n, low, high):
    assert wilson(hits, n) == pytest.approx((low, high), abs=1e-4)


def test_nothing_counted_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("hits", "n"), [(3, 2), (-1, 5)])
def test_impossible_counts_are_refused(hits, n):
    with pytest.raises(ValueError, match="between 0 and n"):
        wilson(hits, n)


def rows(n: int, width: int = 3) -> np.ndarray:
    return np.random.default_rng(n).random((n, width))


def test_every_resample_is_a_sum_of_as_many_rows_as_there_are():
    identity = np.eye(7)
    drawn = bootstrap(identity, 50)  # how often each row was drawn
    assert np.all(drawn == drawn.round()) and np.all(drawn.sum(axis=1) == 7)
    np.testing.assert_allclose(bootstrap(rows(7), 50), drawn @ rows(7))


def test_the_same_seed_draws_the_same_and_another_seed_does_not():
    assert np.array_equal(bootstrap(rows(20), 30, seed=5), bootstrap(rows(20), 30, seed=5))
    assert not np.array_equal(bootstrap(rows(20), 30, seed=5), bootstrap(rows(20), 30, seed=6))


def test_the_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    whole = bootstrap(np.eye(9), 40)
    monkeypatch.setattr(intervals, "BLOCK", 30)
    assert np.array_equal(bootstrap(np.eye(9), 40), whole)


def test_measures_of_the_same_cases_are_resampled_alike():
    together = bootstrap(rows(15, 4), 25)
    np.testing.assert_allclose(bootstrap(rows(15, 4)[:, 2:], 25), together[:, 2:], rtol=1e-14)


def test_a_cluster_is_drawn_whole():
    clusters = ["b", "a", "b", "c", "a"]
    sums = bootstrap(np.eye(5), 200, clusters=clusters)
    assert np.array_equal(sums[:, 0], sums[:, 2]) and np.array_equal(sums[:, 1], sums[:, 4])
    assert len({float(total) for total in sums.sum(axis=1)}) > 1  # clusters differ in size, so resamples do
    assert np.array_equal(by_cluster(np.arange(5.0)[:, None], clusters), [[5], [2], [3]])


def test_clusters_of_one_case_change_nothing_but_their_order():
    names = [f"p{i:02}" for i in range(12)]
    assert np.array_equal(bootstrap(rows(12), 20, clusters=names), bootstrap(rows(12), 20))


def test_patients_that_always_agree_are_as_good_as_one_case_each():
    """Ten copies of every case narrow the interval, unless the copies are drawn together."""
    hits = np.stack([np.arange(40) % 2, np.ones(40)], axis=1)
    copies, patients = np.repeat(hits, 10, axis=0), [f"p{i // 10}" for i in range(400)]

    def width(sums: np.ndarray) -> float:
        low, high = percentile(ratio(sums))
        return high - low

    alone = width(bootstrap(hits))
    assert width(bootstrap(copies, clusters=patients)) == pytest.approx(alone, rel=0.15)
    assert width(bootstrap(copies)) < 0.5 * alone


def test_no_case_gives_sums_of_zero():
    assert np.array_equal(bootstrap(np.zeros((0, 3)), 4), np.zeros((4, 3)))


@pytest.mark.parametrize(
    ("counts", "clusters", "message"),
    [
        (np.zeros(3), None, r"must be \[cases, c\]"),
        (np.zeros((3, 1)), ["a"], "1 clusters are named for 3 cases"),
    ],
)
def test_what_cannot_be_resampled_is_refused(counts, clusters, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(counts, 5, clusters=clusters)


def test_percentiles_leave_nan_out():
    values = np.append(np.arange(1001.0), [np.nan] * 500)
    assert percentile(values) == pytest.approx((25, 975))
    assert percentile(values, level=0.5) == pytest.approx((250, 750))
    assert np.isnan(percentile(np.full(5, np.nan))).all() and np.isnan(percentile(np.array([]))).all()


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    values = np.random.default_rng(1).normal(size=400)
    counts = np.stack([values, np.ones(400)], axis=1)
    low, high = percentile(ratio(bootstrap(counts, 4000)))
    error = values.std(ddof=1) / 20
    assert (low, high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.15 * error
    )
