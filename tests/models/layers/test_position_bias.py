import keras
import numpy as np
import pytest
import tensorflow as tf

from models.layers.position_bias import PositionBias


def filled(positions, seed=0):
    layer = PositionBias(positions)
    layer.build()
    layer.bias.assign(np.random.default_rng(seed).normal(size=positions))
    return layer


def by_hand(bias, position):
    result = np.zeros(position.shape)
    for index in np.ndindex(position.shape):
        if position[index] > 0:
            result[index] = bias[min(position[index], len(bias)) - 1]
    return result


@pytest.mark.parametrize("positions", [1, 2, 7])
@pytest.mark.parametrize("shape", [(0,), (5,), (1, 3), (4, 0), (3, 12)])
def test_it_is_a_table_whose_first_position_is_zero(positions, shape):
    layer = filled(positions)
    position = np.random.default_rng(1).integers(-1, 10, shape)
    np.testing.assert_allclose(layer(position), by_hand(layer.bias.numpy(), position), rtol=1e-6)


def test_the_first_position_and_unknown_ones_teach_it_nothing():
    layer = filled(4)
    position = np.array([[0, 2, -1], [7, 2, 0]])
    weight = np.arange(1.0, 7.0).reshape(2, 3)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(position) * weight)
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.bias.value))
    np.testing.assert_array_equal(gradient, [0, weight[0, 1] + weight[1, 1], 0, weight[1, 0]])


def test_log_loss_is_least_where_it_is_the_difference_of_the_log_odds_of_the_rates():
    rates = np.array([0.4, 0.25, 0.1])
    logit = np.log(rates / (1 - rates))
    layer = PositionBias(2)
    layer.build()
    layer.bias.assign(logit[1:] - logit[0])
    position = np.repeat(np.arange(3), 20)
    clicked = np.concatenate([np.arange(20) < round(20 * rate) for rate in rates]).astype(np.float32)
    with tf.GradientTape() as tape:
        log_odds = logit[0].astype(np.float32) + layer(position)
        loss = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(clicked, log_odds))
    np.testing.assert_allclose(tf.convert_to_tensor(tape.gradient(loss, layer.bias.value)), 0, atol=1e-5)


def test_config_and_arguments():
    layer = PositionBias(3, name="bias")
    assert PositionBias.from_config(layer.get_config()).get_config() == layer.get_config()
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer)).positions == 3
    with pytest.raises(ValueError, match="`positions` must be at least 1"):
        PositionBias(0)
