from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.clustering.cluster_sums import ClusterSums


def added(ids, vectors, clusters, points=None):
    largest = float(np.abs(vectors).max(initial=0.0))
    sums = ClusterSums(clusters, vectors.shape[1], points=points or len(vectors), largest=largest)
    sums.add(ids, vectors)
    return sums


def example(n=500, clusters=7, dim=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(clusters, size=n), rng.normal(size=(n, dim)).astype(np.float32)


def test_against_a_loop():
    ids, vectors = example()
    sums = added(ids, vectors, 8)  # the last cluster is empty
    for c in range(8):
        mine = vectors[ids == c].astype(np.float64)
        assert sums.counts[c] == len(mine)
        np.testing.assert_allclose(sums.means()[c], mean if len(mine) and (mean := mine.mean(0)) is not None else 0)
    centers = np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32)
    expected = np.square(vectors.astype(np.float64) - centers[ids]).sum(axis=1).mean()
    np.testing.assert_allclose(sums.mean_squared_distance(centers), expected, rtol=1e-9)


def test_sums_are_those_of_exact_arithmetic():
    ids, vectors = example(n=200, clusters=3, dim=2)
    sums = added(ids, vectors, 3)
    for c in range(3):
        for axis in range(2):
            exact = sum((Fraction(round(float(v) / sums.step)) for v in vectors[ids == c, axis]), Fraction(0))
            assert Fraction(sums.sums[c, axis]) == exact


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_neither_order_nor_workers_change_a_bit(seed, workers):
    ids, vectors = example(seed=seed)
    largest = float(np.abs(vectors).max())
    whole = added(ids, vectors, 7)
    order = np.random.default_rng(seed).permutation(len(ids))
    merged = ClusterSums(7, 5, points=len(ids), largest=largest)
    for part in np.array_split(order, workers):
        worker = ClusterSums(7, 5, points=len(ids), largest=largest)
        worker.add(ids[part], vectors[part])
        merged.merge(worker)
    np.testing.assert_array_equal(merged.sums, whole.sums)
    np.testing.assert_array_equal(merged.counts, whole.counts)
    np.testing.assert_allclose(merged.squares, whole.squares, rtol=1e-12)


def test_rounding_is_far_below_float32_and_leaves_room_for_every_point():
    vectors = np.full((4, 3), np.float32(0.1))
    sums = added(np.zeros(4, int), vectors, 1, points=60_000_000)
    assert 60_000_000 * 0.1 / sums.step <= 2**53
    np.testing.assert_allclose(sums.means()[0], 0.1, atol=2e-8)
    np.testing.assert_allclose(added(np.zeros(4, int), vectors, 1).means()[0], np.float64(np.float32(0.1)), rtol=1e-15)


def test_imbalance_is_one_when_equal_and_the_number_of_clusters_when_one_has_all():
    vectors = np.ones((12, 2), np.float32)
    assert added(np.arange(12) % 4, vectors, 4).imbalance() == pytest.approx(1)
    assert added(np.zeros(12, int), vectors, 4).imbalance() == pytest.approx(4)


def test_sums_of_other_units_do_not_merge():
    ids, vectors = example()
    with pytest.raises(ValueError, match="`other` must have step"):
        added(ids, vectors, 7).merge(added(ids, 100 * vectors, 7))


def test_points_that_are_all_zero():
    sums = added(np.zeros(3, int), np.zeros((3, 2), np.float32), 1)
    assert sums.mean_squared_distance(np.zeros((1, 2), np.float32)) == 0
