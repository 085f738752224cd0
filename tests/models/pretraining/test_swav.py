import keras
import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.swav import SwAV, balanced_codes, swapped_prediction
from tests.models.courier_batch import Table


def reference_codes(scores, epsilon, rounds):
    """As the published code computes them, in float64."""
    q = np.exp(scores.astype(float) / epsilon).T
    prototypes, rows = q.shape
    q /= q.sum()
    for _ in range(rounds):
        q /= q.sum(axis=1, keepdims=True) * prototypes
        q /= q.sum(axis=0, keepdims=True) * rows
    return (q * rows).T


def draw(rows, prototypes, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (rows, prototypes)).astype(np.float32)


def every(rows):
    return np.ones(rows, bool)


@pytest.mark.parametrize("rows", [1, 4, 50])
@pytest.mark.parametrize("prototypes", [1, 3, 20])
@pytest.mark.parametrize(("epsilon", "rounds"), [(0.05, 3), (0.5, 1), (0.1, 30)])
def test_codes_equal_the_published_ones(rows, prototypes, epsilon, rounds):
    scores = draw(rows, prototypes, rows)
    codes = balanced_codes(scores, every(rows), epsilon=epsilon, rounds=rounds).numpy()
    np.testing.assert_allclose(codes, reference_codes(scores, epsilon, rounds), rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=1e-5)


def test_prototypes_are_used_alike_and_equal_scores_give_equal_codes():
    codes = balanced_codes(draw(60, 5), every(60), epsilon=0.3, rounds=100).numpy()
    np.testing.assert_allclose(codes.sum(axis=0), 60 / 5, rtol=1e-3)
    equal = balanced_codes(np.full((7, 4), 0.3, np.float32), every(7), epsilon=0.05, rounds=3)
    np.testing.assert_allclose(equal, 1 / 4, rtol=1e-5)


def test_no_epsilon_overflows():
    codes = balanced_codes(draw(10, 4), every(10), epsilon=1e-4, rounds=3).numpy()
    assert np.isfinite(codes).all()
    np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=1e-5)


def test_padding_changes_no_code_and_waiting_rows_count_as_others_do():
    scores = draw(12, 4)
    counted = np.arange(12) < 9
    options = {"epsilon": 0.1, "rounds": 3}
    expected = balanced_codes(scores[:9], every(9), **options).numpy()
    np.testing.assert_allclose(balanced_codes(scores, counted, **options).numpy()[:9], expected, rtol=1e-4)
    garbage = np.where(counted[:, None], scores, 50).astype(np.float32)
    np.testing.assert_allclose(balanced_codes(garbage, counted, **options).numpy()[:9], expected, rtol=1e-4)
    waiting = {"shared": scores[5:], "shared_counted": np.arange(7) < 4}
    actual = balanced_codes(scores[:5], every(5), **options, **waiting).numpy()
    np.testing.assert_allclose(actual, expected[:5], rtol=1e-4)


@pytest.mark.parametrize("crops", [2, 3, 5])
@pytest.mark.parametrize("rows", [1, 6])
def test_the_loss_equals_the_equation(crops, rows):
    scores = [draw(rows, 4, seed) for seed in range(crops)]
    codes = [reference_codes(score, 0.1, 3).astype(np.float32) for score in scores[:2]]
    counted = np.arange(rows) % 3 < 2
    expected = 0.0
    for i in range(2):
        others = [j for j in range(crops) if j != i]
        for j in others:
            probability = np.exp(scores[j].astype(float) / 0.1)
            probability /= probability.sum(axis=1, keepdims=True)
            expected -= (codes[i] * np.log(probability)).sum(axis=1)[counted].sum() / len(others) / 2
    assert float(swapped_prediction(scores, codes, counted, 0.1)) == pytest.approx(expected, rel=1e-4)


def test_collapse_is_the_logarithm_of_the_prototypes_and_codes_have_no_gradient():
    scores = [tf.Variable(np.full((6, 8), 0.4, np.float32)) for _ in range(3)]
    codes = [tf.Variable(balanced_codes(score, every(6), epsilon=0.05, rounds=3)) for score in scores[:2]]
    with tf.GradientTape() as tape:
        loss = swapped_prediction(scores, codes, every(6), 0.1)
    assert float(loss) / 6 == pytest.approx(np.log(8), rel=1e-5)
    assert tape.gradient(loss, codes) == [None, None]


def test_views_and_pictures_may_change_places():
    scores = [draw(6, 4, seed) for seed in range(3)]
    codes = scores[:2]
    loss = float(swapped_prediction(scores, codes, every(6), 0.1))
    assert float(swapped_prediction([scores[i] for i in (1, 0, 2)], codes[::-1], every(6), 0.1)) == pytest.approx(loss)
    order = np.random.default_rng(0).permutation(6)
    scores, codes = ([part[order] for part in parts] for parts in (scores, codes))
    assert float(swapped_prediction(scores, codes, every(6), 0.1)) == pytest.approx(loss, rel=1e-5)


def batch(*picture_id):
    pictures = np.tile(np.array(picture_id)[:, None, None, None] % 250, (1, 6, 6, 3)).astype(np.uint8)
    return {"pictures": tf.constant(pictures), "picture_id": tf.constant(picture_id, tf.int32)}


def make(**options):
    keras.utils.set_random_seed(0)
    model = SwAV(Table(), prototypes=3, hidden_dim=6, projection_dim=5, **{"small_crops": 1, **options})
    # Momentum and weight decay move what has no gradient, too.
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9, weight_decay=0.1), run_eagerly=True)
    model.prepare_fit()
    return model


def test_prototypes_are_frozen_to_the_last_bit_and_then_learn_at_unit_length():
    model = make(freeze_steps=2)
    first = model.prototypes.numpy()
    for step in range(4):
        model.train_step(batch(1 + step, 7, 9))
        if step < 2:
            np.testing.assert_array_equal(model.prototypes.numpy(), first)
    assert np.abs(model.prototypes.numpy() - first).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(model.prototypes.numpy(), axis=1), 1, rtol=1e-5)
    frozen = make(freeze_steps=1)
    with tf.GradientTape() as tape:
        loss = frozen.compute_loss(x=batch(1, 2), y_pred=frozen(batch(1, 2), training=True))
    assert np.abs(tape.gradient(loss, frozen.prototypes.value)).max() == 0


def test_the_queue_fills_from_its_step_on_and_takes_part_once_it_is_full():
    model = make(queue_length=5, queue_from_step=1, augmentation_strength=0.0)

    def loss(waiting):
        step = batch(1, 2, 3)
        y_pred = model(step, training=False)
        views = [y_pred[f"view_{i}"].numpy() for i in (1, 2, 3)]
        prototypes = model.prototypes.numpy()
        scores = [view @ prototypes.T for view in views]
        codes = [
            reference_codes(np.concatenate([scores[i], waiting[i] @ prototypes.T]), 0.05, 3)[:3].astype(np.float32)
            for i in range(2)
        ]
        expected = float(swapped_prediction(scores, codes, every(3), 0.1)) / 3
        actual = float(model.compute_loss(x=step, y_pred=y_pred, training=False))
        assert actual == pytest.approx(expected, rel=1e-3)
        return views

    empty = np.zeros((2, 0, 5), np.float32)
    model.train_step(batch(1, 2, 3))
    assert np.abs(model.queue.numpy()).max() == 0
    loss(empty)
    model.train_step(batch(4, -1, 5))
    assert (np.abs(model.queue.numpy()).max(axis=2) > 0).tolist() == [[True] * 2 + [False] * 3] * 2
    loss(empty)
    before = model.queue.numpy()
    model.train_step(batch(6, 7, 8))
    queue = model.queue.numpy()
    np.testing.assert_array_equal(queue[:, 3:], before[:, :2])
    loss(queue)


def test_small_crops_have_their_own_size():
    model = make(small_crops=2, small_scale=0.5)
    assert model.small_views(tf.zeros((2, 6, 6, 3), tf.uint8), tf.range(2), [0, 0]).shape == (2, 3, 3, 3)
    y_pred = model(batch(1, 2), training=True)
    assert sorted(y_pred) == ["counted", "view_1", "view_2", "view_3", "view_4"]
