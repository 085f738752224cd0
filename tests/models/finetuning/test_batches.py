import numpy as np
import pytest
import tensorflow as tf

from models.finetuning.batches import PictureSteps, ProductSteps, training_batches


def test_each_picture_is_seen_once_in_an_epoch():
    steps = PictureSteps(np.arange(10, 27), batch_size=5, seed=3)
    assert steps.per_epoch == 3
    epochs = [steps.of_epoch(epoch) for epoch in range(4)]
    for rows in epochs:
        assert rows.shape == (3, 5)
        assert len(set(rows.ravel().tolist())) == 15
        assert set(rows.ravel().tolist()) <= set(range(10, 27))
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(PictureSteps(np.arange(10, 27), 5, 3).of_epoch(2), epochs[2])
    assert not np.array_equal(PictureSteps(np.arange(10, 27), 5, 4).of_epoch(0), epochs[0])


def test_each_product_is_seen_once_in_an_epoch_in_two_pictures():
    products = np.array([4, 4, 9, 1, 1, 1, 9, 4, 7, 7])
    steps = ProductSteps(np.arange(10), products, batch_size=4, seed=0)
    assert steps.per_epoch == 2
    pairs = set()
    for epoch in range(60):
        rows = steps.of_epoch(epoch)
        assert rows.shape == (2, 4)
        shown = products[rows].reshape(-1, 2)
        assert (shown[:, 0] == shown[:, 1]).all()
        assert sorted(shown[:, 0]) == [1, 4, 7, 9]
        assert (rows.reshape(-1, 2)[:, 0] != rows.reshape(-1, 2)[:, 1]).all()
        pairs |= {tuple(pair) for pair in rows.reshape(-1, 2).tolist()}
    assert len(pairs) == 3 * 2 + 2 + 3 * 2 + 2  # every pair in either order


@pytest.mark.parametrize("first", [0, 1, 3, 4, 8, 9])
def test_a_training_goes_on_with_the_step_that_comes_next(first):
    steps = PictureSteps(np.arange(12), batch_size=4, seed=1)
    pictures = tf.cast(tf.reshape(tf.range(12), (12, 1, 1, 1)), tf.uint8)

    def augment(shown, number):
        return shown + tf.cast(100 * (number % 2), tf.uint8)

    def batches(step):
        made = training_batches(steps, pictures, np.arange(12) * 3, augment, step, epochs=3)
        return [(x[:, 0, 0, 0].tolist(), y.tolist()) for x, y in made.as_numpy_iterator()]

    whole = batches(0)
    assert len(whole) == 9
    assert batches(first) == whole[first:] or (first == 9 and len(batches(9)) == 3)
    shown, targets = whole[1]
    assert [3 * (value - 100) for value in shown] == targets
