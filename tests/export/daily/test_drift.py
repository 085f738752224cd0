import math

import numpy as np
import pyarrow as pa
import pytest

from export.daily.drift import SCORE_EDGES, Histogram, day_scores, drift_of, stability_index


def test_stability_index_of_two_bins():
    # With half a count added, 24.5 and 74.5 of 99 change places: each bin adds 50 / 99 of the logarithm.
    assert stability_index([24, 74], [74, 24]) == pytest.approx(2 * 50 / 99 * math.log(74.5 / 24.5), rel=1e-12)


def test_stability_index_is_zero_for_the_same_and_finite_for_an_empty_bin():
    assert stability_index([5, 10, 15], [5, 10, 15]) == 0
    index = stability_index([100, 0], [0, 100])
    assert math.isfinite(index)
    assert index == pytest.approx(stability_index([0, 100], [100, 0]))  # symmetric


def test_numbers_go_into_the_bins_of_an_earlier_day():
    before = Histogram.of_numbers(np.arange(100.0))
    assert before.counts == [10] * 10 + [0]
    later = Histogram.of_numbers(np.array([-5.0, 500.0, 50.0, np.nan, np.inf]), before.edges)
    assert later.counts == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 2]
    assert later.is_like(before)


def test_a_number_that_never_varies_and_one_without_values():
    assert Histogram.of_numbers(np.full(7, 3.0)).counts == [0, 7, 0]
    assert Histogram.of_numbers(np.full(4, np.nan)).counts == [0, 4]


def test_texts_that_are_new_are_others():
    before = Histogram.of_texts(pa.chunked_array([["b", "a", "b", None, ""]]))
    assert (before.names, before.counts) == (["a", "b"], [1, 2, 0, 2])
    later = Histogram.of_texts(pa.chunked_array([["c", "a", "d"]]), before.names)
    assert later.counts == [1, 0, 2, 0]


def test_drift_is_against_the_sum_of_the_days_before():
    days = [{"x": Histogram(names=["a"], counts=[n, 10 - n, 0])} for n in (2, 4)]
    found = {"x": Histogram(names=["a"], counts=[6, 14, 0]), "y": Histogram(names=["a"], counts=[1, 1, 0])}
    assert drift_of(found, days) == {"x": pytest.approx(0, abs=1e-12)}
    other_bins = {"x": Histogram(names=["b"], counts=[1, 1, 0])}
    assert drift_of(other_bins, days) == {}


def test_scores_of_a_constant_ranker():
    scores = day_scores(np.full(8, 0.5, np.float32))
    assert scores["mean"] == 0.5
    assert scores["quantiles"] == [0.5] * 5
    counts = scores["histogram"]["counts"]
    assert counts[SCORE_EDGES.index(0.0) + 1] == sum(counts) == 8
