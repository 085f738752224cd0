import keras
import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.losses import draw_mismatched, hinge


def reference(embeddings, reconstructions, mismatched, positive, margin):
    """Equations 11 and 12, one row at a time."""

    def similarity(j0, j1):
        e, r = embeddings[j0], reconstructions[j1]
        return e @ r / np.linalg.norm(e) / np.linalg.norm(r)

    rows = [j for j in np.flatnonzero(positive) if mismatched[j] != j]
    return sum(max(0.0, similarity(j, mismatched[j]) - similarity(j, j) + margin) for j in rows)


def draw(rows, dim, seed=0):
    rng = np.random.default_rng(seed)
    embeddings, reconstructions = rng.normal(size=(2, rows, dim)).astype(np.float32)
    return embeddings, reconstructions, rng.integers(0, rows, rows).astype(np.int32), rng.random(rows) < 0.6


@pytest.mark.parametrize("rows", [1, 2, 5, 40])
@pytest.mark.parametrize("dim", [1, 3, 16])
@pytest.mark.parametrize("margin", [0.05, 0.2, 1.0])
def test_equals_the_equations(rows, dim, margin):
    inputs = draw(rows, dim, seed=rows)
    assert float(hinge(*inputs, margin=margin)) == pytest.approx(reference(*inputs, margin), rel=1e-5, abs=1e-6)


def test_collapse_is_the_margin():
    same, positive = np.ones((6, 3), np.float32), np.array([1, 1, 0, 1, 0, 0], bool)
    mismatched = np.array([1, 0, 1, 1, 1, 3], np.int32)
    assert float(hinge(same, same, mismatched, positive, margin=0.3)) == pytest.approx(3 * 0.3, rel=1e-6)


def test_no_loss_and_no_gradient_once_the_margin_holds():
    # Row 0: Sim(0, 0) = 1, Sim(0, 1) = 0. Row 1: Sim(1, 1) = 0.6, Sim(1, 0) = 0.8.
    embeddings = tf.Variable([[1.0, 0.0], [0.8, 0.6], [0.5, 0.5]])
    reconstructions = tf.Variable([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    mismatched = np.array([1, 0, 0], np.int32)

    def gradients(positive, margin):
        with tf.GradientTape() as tape:
            loss = hinge(embeddings, reconstructions, mismatched, np.array(positive), margin=margin)
        return float(loss), [
            np.abs(tf.convert_to_tensor(g)) for g in tape.gradient(loss, [embeddings, reconstructions])
        ]

    loss, (by_row, by_column) = gradients([True, False, False], 0.9)
    assert loss == 0.0
    assert by_row.max() == by_column.max() == 0.0
    loss, (by_row, by_column) = gradients([True, True, False], 0.9)
    assert loss == pytest.approx(0.8 - 0.6 + 0.9, rel=1e-6)
    assert by_row.max(axis=1)[1] > 0
    assert (by_column.max(axis=1)[:2] > 0).all()
    assert by_row.max(axis=1)[[0, 2]].max() == by_column[2].max() == 0.0


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_draws_are_other_valid_rows_each_as_often(count):
    rows = 9
    valid = np.zeros(rows, bool)
    valid[np.random.default_rng(count).permutation(rows)[:count]] = True
    seed = keras.random.SeedGenerator(5)
    draws = np.stack([draw_mismatched(valid, seed) for _ in range(400)])
    for row in range(rows):
        others = np.flatnonzero(valid & (np.arange(rows) != row))
        drawn, times = np.unique(draws[:, row], return_counts=True)
        if len(others) == 0:
            assert drawn.tolist() == [row]
            continue
        assert drawn.tolist() == others.tolist()
        assert np.abs(times / 400 - 1 / len(others)).max() < 0.1


def test_draws_repeat_with_the_seed_and_move_on():
    valid = np.ones(50, bool)
    one, other = (keras.random.SeedGenerator(3) for _ in range(2))
    first, second = draw_mismatched(valid, one), draw_mismatched(valid, one)
    np.testing.assert_array_equal(draw_mismatched(valid, other), first)
    assert (np.array(first) != np.array(second)).any()
