import numpy as np
import pytest

from models.embeddings.label_consistency import (
    chance_consistency,
    label_codes,
    label_consistency,
    label_shares,
    title_groups,
)
from models.embeddings.neighbours import Neighbours


def test_codes_number_texts_and_empty_ones_are_missing():
    assert label_codes(["red", "", "blue", "red"]).tolist() == [2, -1, 1, 2]


def test_items_without_a_title_are_groups_of_their_own():
    assert title_groups(np.array([2, -1, 2, 0, -1])).tolist() == [2, 4, 2, 0, 7]
    assert title_groups(np.array([-1, -1])).tolist() == [1, 2]


def test_exact_shares():
    labels = np.array([7, 7, 3, -1, 7])
    neighbours = np.array([[7, 7, 3, 1], [3, -1, -1, 7], [-1, -1, -1, -1], [7, 7, 7, 7], [7, 7, 7, -1]])
    expected = [0.5, 0.5, np.nan, np.nan, 1.0]
    np.testing.assert_array_equal(label_shares(labels, neighbours), expected)


def test_mean_error_and_counts():
    result = label_consistency(np.array([0.5, 0.5, np.nan, np.nan, 1.0, 0.0]))
    assert result.mean == 0.5
    assert (result.seeds, result.left_out) == (4, 2)
    assert result.standard_error == pytest.approx(np.std([0.5, 0.5, 1, 0], ddof=1) / 2)


def test_blocks_do_not_change_the_shares():
    rng = np.random.default_rng(0)
    labels, neighbours = rng.integers(-1, 3, 50), rng.integers(-1, 3, (50, 4))
    blocks = [label_shares(labels[i : i + 7], neighbours[i : i + 7]) for i in range(0, 50, 7)]
    np.testing.assert_array_equal(np.concatenate(blocks), label_shares(labels, neighbours))


def test_seeds_that_repeat_others_of_their_group_add_no_certainty():
    shares = np.random.default_rng(0).random(30)
    alone = label_consistency(shares)
    repeated = label_consistency(np.tile(shares, 4), np.tile(np.arange(30), 4))
    assert repeated.mean == pytest.approx(alone.mean)
    assert repeated.standard_error == pytest.approx(alone.standard_error)
    assert label_consistency(np.tile(shares, 4)).standard_error < 0.6 * alone.standard_error


def test_error_is_that_of_a_bootstrap_over_groups():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 300)
    shares = rng.random(60)[groups] / 2 + rng.random(300) / 2
    parts = [shares[groups == group] for group in np.unique(groups)]
    means = [np.concatenate([parts[i] for i in rng.integers(0, len(parts), len(parts))]).mean() for _ in range(3000)]
    assert label_consistency(shares, groups).standard_error == pytest.approx(np.std(means), rel=0.07)


def test_nothing_to_average():
    result = label_consistency(np.array([np.nan, np.nan]))
    assert np.isnan(result.mean)
    assert np.isnan(result.standard_error)
    assert (result.seeds, result.left_out) == (0, 2)
    assert np.isnan(label_consistency(np.array([0.25])).standard_error)


def test_chance_is_the_share_of_equal_pairs():
    labels = np.array([0, 0, 0, 2, 2, -1, 5])
    pairs = [(a, b) for i, a in enumerate(labels) for j, b in enumerate(labels) if i != j and a >= 0 and b >= 0]
    assert chance_consistency(labels) == pytest.approx(np.mean([a == b for a, b in pairs]))
    assert np.isnan(chance_consistency(np.array([-1, 4])))


def measured(embeddings, labels, k=10):
    blocks = Neighbours(embeddings, np.ones(len(labels), bool)).blocks(np.arange(len(labels)), k)
    return label_consistency(np.concatenate([label_shares(labels[b.seeds], labels[b.rows]) for b in blocks]))


def test_separate_clusters_are_perfect_and_shuffled_labels_are_chance():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 20, 2000)
    embeddings = (10 * rng.normal(size=(20, 8))[labels] + 0.1 * rng.normal(size=(2000, 8))).astype(np.float32)
    assert measured(embeddings, labels)[:2] == (1.0, 0.0)
    shuffled = rng.permutation(labels)
    result = measured(embeddings, shuffled)
    assert result.mean == pytest.approx(chance_consistency(shuffled), abs=4 * result.standard_error)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"Received: \(3,\) and \(4, 2\)"):
        label_shares(np.zeros(3), np.zeros((4, 2)))
