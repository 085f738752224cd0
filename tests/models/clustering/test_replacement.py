import numpy as np
import pytest

from models.clustering.replacement import match_clusters


def test_the_same_clusters_by_other_numbers():
    rng = np.random.default_rng(0)
    old, permutation = rng.integers(0, 7, 300), rng.permutation(7)
    np.testing.assert_array_equal(match_clusters(permutation[old], old, 7, 7)[permutation], np.arange(7))


def test_of_a_split_cluster_the_larger_part_takes_its_place():
    old = np.array([0] * 10 + [1] * 5)
    new = np.array([2] * 4 + [0] * 6 + [1] * 5)
    np.testing.assert_array_equal(match_clusters(new, old, 3, 2), [0, 1, -1])


def test_merged_clusters_take_the_place_of_the_largest():
    old = np.array([0] * 4 + [1] * 6 + [2] * 5)
    new = np.array([0] * 10 + [1] * 5)
    np.testing.assert_array_equal(match_clusters(new, old, 2, 3), [1, 2])


def test_one_to_one_the_largest_overlap_first():
    # New 0 shares 5 with old 0 and new 1 shares 4 with it, and 3 with old 1.
    old = np.array([0] * 5 + [0] * 4 + [1] * 3)
    new = np.array([0] * 5 + [1] * 7)
    np.testing.assert_array_equal(match_clusters(new, old, 2, 2), [0, 1])


def test_items_without_a_cluster_and_empty_clusters_match_nothing():
    old, new = np.array([-1, 0, 1, -1]), np.array([0, -1, 1, -1])
    np.testing.assert_array_equal(match_clusters(new, old, 3, 3), [-1, 1, -1])
    assert (match_clusters(np.full(3, -1), np.zeros(3, np.int64), 2, 2) == -1).all()


@pytest.mark.parametrize("seed", range(3))
def test_at_least_half_of_what_the_best_assignment_keeps(seed):
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(seed)
    old, new = rng.integers(0, 9, 200), rng.integers(0, 11, 200)
    shared = np.zeros((11, 9), np.int64)
    np.add.at(shared, (new, old), 1)
    matched = match_clusters(new, old, 11, 9)
    pairs = matched >= 0
    assert len(set(matched[pairs])) == pairs.sum() == 9
    kept = shared[np.flatnonzero(pairs), matched[pairs]].sum()
    best = shared[linear_sum_assignment(-shared)].sum()
    assert best / 2 <= kept <= best
