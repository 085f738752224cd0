import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from models.layers.dice import Dice
from tests.models.courier_batch import mirrored


def make_inputs(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(1.0, 2.0, shape).astype(np.float32), rng.random(shape[:-1]) < 0.7


def make_dice(units, seed=1):
    dice = Dice()
    dice.build((None, units))
    rng = np.random.default_rng(seed)
    dice.set_weights([rng.normal(size=units), rng.normal(size=units), rng.uniform(0.5, 2.0, units)])
    return dice


def dice_by_definition(dice, inputs, mask, training):
    """Unit by unit, value by value; the outputs and the new moving averages."""
    alpha, mean, variance = (np.array(w, np.float64) for w in dice.get_weights())
    output, present = np.zeros(inputs.shape), inputs[mask].astype(np.float64)
    averages = mean.copy(), variance.copy()
    for unit in range(inputs.shape[-1]):
        values = present[:, unit]
        if training and len(values):
            mean[unit] = values.sum() / len(values)
            variance[unit] = ((values - mean[unit]) ** 2).sum() / len(values)
            averages[0][unit] = 0.99 * averages[0][unit] + 0.01 * mean[unit]
            averages[1][unit] = 0.99 * averages[1][unit] + 0.01 * variance[unit]
        for at in zip(*np.nonzero(mask), strict=True):
            x = np.float64(inputs[(*at, unit)])
            share = 1 / (1 + np.exp(-(x - mean[unit]) / np.sqrt(variance[unit] + 1e-9)))
            output[(*at, unit)] = share * x + (1 - share) * alpha[unit] * x
    return output, averages


def values_and_gradients(dice, inputs, mask):
    """Of training: the output, the gradients on inputs and `alpha`, and the moving averages after."""
    inputs = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output = dice(inputs, mask, training=True)
        loss = tf.reduce_sum(tf.square(output + 1) * tf.range(1.0, 1.0 + inputs.shape[-1]))
    gradients = tape.gradient(loss, [inputs, dice.alpha.value])
    return [x.numpy() for x in (output, *gradients)] + dice.get_weights()[1:]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (6, 3), (4, 5, 2), (2, 3, 4, 5), (3, 0, 2), (0, 3)])
def test_equals_definition(shape, training):
    inputs, mask = make_inputs(shape)
    dice = make_dice(shape[-1])
    expected, averages = dice_by_definition(dice, inputs, mask, training)
    tolerance = 1e-2 if mask.sum() < 2 else 1e-4  # one value: epsilon is all its variance, and rounding shows
    np.testing.assert_allclose(dice(inputs, mask, training=training), expected, rtol=tolerance, atol=1e-5)
    for actual, average in zip(dice.get_weights()[1:], averages, strict=True):
        np.testing.assert_allclose(actual, average, rtol=1e-4)


def test_alpha_of_one_passes_everything():
    inputs, mask = make_inputs((5, 3))
    dice = make_dice(3)
    dice.alpha.assign(tf.ones(3))
    np.testing.assert_allclose(dice(inputs, mask, training=True), np.where(mask[:, None], inputs, 0), rtol=1e-6)


def test_values_at_the_mean_are_halved():
    dice = Dice()
    np.testing.assert_allclose(dice(np.full((4, 2), 3.0, np.float32), np.ones(4, bool), training=True), 1.5)


@settings(max_examples=15, deadline=None)
@given(extra=st.integers(1, 9), content=st.sampled_from([7.0, -1e6, np.inf, np.nan]), seed=st.integers(0, 99))
def test_padding_changes_neither_values_nor_gradients_nor_averages(extra, content, seed):
    inputs, mask = make_inputs((3, 6, 2), seed)
    padded_mask = np.pad(mask, ((0, 0), (0, extra)))
    padded = np.pad(inputs, ((0, 0), (0, extra), (0, 0)))
    padded[~padded_mask] = content
    expected = values_and_gradients(make_dice(2), inputs, mask)
    actual = values_and_gradients(make_dice(2), padded, padded_mask)
    assert not actual[1][~padded_mask].any()
    actual[:2] = [x[:, :6] for x in actual[:2]]
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_gradient_passes_through_the_moments_as_that_of_batch_normalization():
    inputs, _ = make_inputs((40, 3))
    dice = make_dice(3)
    normalization = keras.layers.BatchNormalization(center=False, scale=False, epsilon=1e-9)
    x = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(x)
        share = tf.sigmoid(normalization(x, training=True))
        output = share * x + (1 - share) * dice.alpha * x
        loss = tf.reduce_sum(tf.square(output + 1) * tf.range(1.0, 4.0))
    expected = tape.gradient(loss, [x, dice.alpha.value])
    for a, b in zip(values_and_gradients(dice, inputs, np.ones(40, bool))[1:3], expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_without_a_value_nothing_changes():
    dice = make_dice(2)
    before = dice.get_weights()
    output, *gradients, mean, variance = values_and_gradients(
        dice, np.full((3, 2), np.nan, np.float32), np.zeros(3, bool)
    )
    for zeros in (output, *gradients):
        assert not zeros.any()
    np.testing.assert_array_equal([mean, variance], before[1:])


def test_inference_updates_nothing():
    dice = make_dice(2)
    before = dice.get_weights()
    dice(*make_inputs((5, 2)))
    np.testing.assert_array_equal(dice.get_weights(), before)


def step(inputs, mask, replicas):
    """Of training on replicas with parts of the rows: summed gradients on `alpha`, each row's, and moving averages."""
    strategy = mirrored([f"CPU:{i}" for i in range(replicas)])
    with strategy.scope():
        dice = make_dice(inputs.shape[-1])
    parts = [np.array_split(x, replicas) for x in (inputs, mask)]
    parts = [
        strategy.experimental_distribute_values_from_function(
            lambda context, part=part: tf.constant(part[context.replica_id_in_sync_group])
        )
        for part in parts
    ]

    def run(x, present):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = dice(x, present, training=True)
            loss = tf.reduce_sum(tf.square(output + 1) * tf.range(1.0, 1.0 + x.shape[-1]))
        return output, *tape.gradient(loss, [x, dice.alpha.value])

    output, on_inputs, on_alpha = tf.function(lambda *x: strategy.run(run, x))(*parts)
    output, on_inputs = (np.concatenate(strategy.experimental_local_results(x)) for x in (output, on_inputs))
    return [output, on_inputs, strategy.reduce("SUM", on_alpha, axis=None).numpy(), *dice.get_weights()[1:]]


@pytest.mark.parametrize("empty_half", [False, True])
def test_two_replicas_are_as_one(empty_half):
    inputs, mask = make_inputs((12, 3))
    inputs[:6] += 5
    if empty_half:
        mask[:6] = False
    one, two = (step(inputs, mask, replicas) for replicas in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_half_precision_rounds_no_moments():
    inputs, mask = make_inputs((30, 2))
    inputs = (inputs + 100).astype(np.float16)
    dice = Dice(dtype="mixed_float16")
    output = dice(inputs, mask, training=True)
    assert output.dtype == tf.float16
    expected, _ = dice_by_definition(dice, inputs, mask, True)
    np.testing.assert_allclose(output, expected, rtol=2e-3)


def test_first_call_builds_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dice = Dice()
        dice(*make_inputs((4, 3)), training=True)
    assert [w.name for w in dice.trainable_weights] == ["alpha"]


def test_config_round_trip():
    dice = Dice(1e-3, name="click")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(dice))
    assert copy.get_config() == dice.get_config()


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"`epsilon` must be above 0. Received: epsilon=0"):
        Dice(0)
