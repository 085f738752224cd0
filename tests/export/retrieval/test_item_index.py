import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import InputError
from export.retrieval.item_index import BruteForce, Scann, ScannSettings

ITEMS = np.random.default_rng(0).normal(size=(90, 8)).astype(np.float32)
USERS = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
EXCLUDED = np.array([[0, 5], [2, 7], [2, 8], [0, 5], *([1, item] for item in range(85))], np.int64)
THOROUGH = ScannSettings(leaves=4, leaves_to_search=4, reordered=90)


def by_numpy(k, excluded):
    scores = USERS @ ITEMS.T
    scores[tuple(excluded.T)] = -np.inf
    order = np.argsort(-scores, axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


@pytest.mark.parametrize("excluded", [EXCLUDED, EXCLUDED[:0]], ids=["some left out", "all"])
@pytest.mark.parametrize("make", [BruteForce, lambda items, k: Scann(items, k, THOROUGH)], ids=["brute force", "scann"])
def test_the_best_items_are_found_but_for_those_left_out(make, excluded):
    scores, rows = (each.numpy() for each in make(ITEMS, 10)(tf.constant(USERS), tf.constant(excluded)))
    expected_scores, expected = by_numpy(10, excluded)
    there = np.isfinite(expected_scores)
    assert (there.sum(axis=1) == [10, 10 if not len(excluded) else 5, 10]).all()
    np.testing.assert_array_equal(np.isfinite(scores), there)
    np.testing.assert_array_equal(rows[there], expected[there])
    np.testing.assert_allclose(scores[there], expected_scores[there], rtol=1e-5)


def test_no_more_than_there_are():
    assert BruteForce(ITEMS, 200)(tf.constant(USERS), tf.constant(EXCLUDED))[0].shape == (3, 90)
    assert BruteForce(ITEMS, 5)(tf.constant(USERS[:0]), tf.constant(EXCLUDED[:0]))[0].shape == (0, 5)


def test_scann_searches_a_part_and_finds_most():
    settings = ScannSettings.of(90, 10)
    assert settings == (9, 4, 40)
    assert ScannSettings.of(10_000, 200) == (100, 20, 800)
    _, rows = Scann(ITEMS, 10, settings)(tf.constant(USERS), tf.constant(EXCLUDED[:0]))
    _, expected = by_numpy(10, EXCLUDED[:0])
    shares = [np.isin(one, other).mean() for one, other in zip(expected, rows.numpy(), strict=True)]
    assert 0.2 < np.mean(shares) <= 1


def test_scann_finds_what_the_leaves_hold_where_that_is_less_than_asked_for():
    scores, rows = Scann(ITEMS, 60, ScannSettings(6, 1, 90))(tf.constant(USERS), tf.constant(EXCLUDED[:4]))
    assert scores.shape == rows.shape == (3, 60)
    there = np.isfinite(scores)
    assert (there.sum(axis=1) < 60).all()
    assert there[:, 0].all()
    products = np.take_along_axis(USERS @ ITEMS.T, rows.numpy(), axis=1)
    np.testing.assert_allclose(scores.numpy()[there], products[there], rtol=1e-5, atol=1e-5)
    assert not {5} & set(rows.numpy()[0][there[0]])


def test_scann_refuses_what_it_cannot_learn_from():
    with pytest.raises(InputError, match="`index` scann needs at least 16 items"):
        Scann(ITEMS[:15], 5, THOROUGH)
