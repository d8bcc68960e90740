"""Intervals by bootstrap: against scipy, on cases whose answer is known, and the same every time."""

import numpy as np
import pytest

from evaluation.bootstrap import difference, estimate


def test_the_interval_of_a_mean_is_that_of_scipy():
    from scipy.stats import bootstrap

    scores = np.random.default_rng(3).normal(30, 2, 40)
    found = estimate([(score, 1) for score in scores])
    theirs = bootstrap((scores,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert found["value"] == pytest.approx(scores.mean())
    assert found["low"] == pytest.approx(theirs.low, abs=0.03) and found["high"] == pytest.approx(theirs.high, abs=0.03)


def test_a_corpus_rate_counts_words_not_clips():
    found = estimate([(1, 2), (0, 8)])
    assert found["value"] == pytest.approx(0.1)  # the mean of the clips' own rates is 0.25


def test_a_paired_difference_is_surer_than_the_two_rates():
    rng = np.random.default_rng(0)
    hard = rng.normal(30, 5, 40)  # clips differ much, methods little
    worse, better = [(x, 1) for x in hard], [(x + rng.normal(0.5, 0.1), 1) for x in hard]
    apart = difference(better, worse)
    assert apart["value"] == pytest.approx(0.5, abs=0.05)
    assert 0.4 < apart["low"] < apart["high"] < 0.6
    assert estimate(better)["low"] < estimate(worse)["high"]  # the rows' own intervals overlap


def test_intervals_are_the_same_every_time_and_missing_where_nothing_was_counted():
    pairs = [(x, 1) for x in np.random.default_rng(1).normal(size=9)]
    assert estimate(pairs) == estimate(pairs)
    nothing = {"value": None, "low": None, "high": None}
    assert estimate([(0, 0), (0, 0)]) == difference([(0, 0)], [(1, 1)]) == nothing
    assert estimate([(3.0, 1)]) == {"value": 3.0, "low": None, "high": None}


def test_clips_without_weight_may_be_resampled():
    pairs = [(1, 4), (0, 0), (2, 4)] * 20
    found = estimate(pairs)
    assert found["value"] == pytest.approx(3 / 8) and 0.25 <= found["low"] < found["high"] <= 0.5


def test_few_clips_have_the_interval_of_students_t():
    from scipy import stats

    scores = [1.0, 2.0, 4.0, 4.5, 7.0]
    found = estimate([(score, 1) for score in scores])
    half = stats.t.ppf(0.975, 4) * stats.sem(scores)
    assert (found["low"], found["high"]) == pytest.approx((3.7 - half, 3.7 + half))
    assert estimate([(1, 1), (2, 1)]) == {"value": 1.5, "low": None, "high": None}
    assert estimate([(1, 4), (0, 0), (2, 4)])["low"] is None  # a clip without weight is none


def test_people_are_resampled_and_not_their_clips():
    people = np.repeat(["ann", "bob", "cid", "dan"], 10)
    scores = np.repeat([1.0, 2.0, 3.0, 4.0], 10)  # clips of a person are all alike: 40 of them say no more than four
    pairs = [(score, 1) for score in scores]
    found, alone = estimate(pairs, people), estimate([(each, 1) for each in (1.0, 2.0, 3.0, 4.0)])
    assert found == pytest.approx(alone)
    assert found["high"] - found["low"] > 4 * (estimate(pairs)["high"] - estimate(pairs)["low"])
    assert estimate(pairs, ["ann"] * 40) == estimate(pairs)  # one person: over clips
    assert estimate(pairs[:20], people[:20])["low"] is None  # two
    many = [f"p{i}" for i in range(40)]
    assert estimate(pairs, many) == estimate(pairs)  # as many as clips: a bootstrap


def test_differences_of_people_are_paired():
    people = ["ann", "ann", "bob", "cid", "cid", "cid"]
    worse = [(x, 1) for x in (10, 12, 30, 50, 51, 52)]
    better = [(x + 1, 1) for x, _ in worse]
    apart = difference(better, worse, people)
    assert apart == pytest.approx({"value": 1, "low": 1, "high": 1})
