import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from models.layers.history_encoder import HistoryEncoder


def make_inputs(batch, steps, dim, seed=0, empty_rows=()):
    rng = np.random.default_rng(seed)
    history = rng.normal(size=(batch, steps, dim)).astype(np.float32)
    mask = np.arange(steps) < rng.integers(0, steps + 1, (batch, 1))
    mask[list(empty_rows)] = False
    return history, mask


def make_encoder(units, heads, head_dim, history, seed=1, **options):
    encoder = HistoryEncoder(units, heads, head_dim, **options)
    encoder.build(history.shape)
    rng = np.random.default_rng(seed)
    encoder.set_weights([rng.normal(size=w.shape) for w in encoder.get_weights()])
    return encoder


def encode_by_definition(encoder, history, mask):
    """Page by page and step by step."""
    weights = [np.float64(w) for w in encoder.get_weights()]
    query, query_bias, key, key_bias, value, value_bias, out, out_bias, scale, shift, projection = weights
    output = np.zeros((len(history), encoder.units))
    for b in range(len(history)):
        x = np.float64(history[b][mask[b]])
        normed = []
        for t in range(len(x)):
            attended = out_bias.copy()
            for h in range(encoder.heads):
                logits = (x @ key[:, h] + key_bias[h]) @ (x[t] @ query[:, h] + query_bias[h])
                logits /= np.sqrt(encoder.head_dim)
                shares = np.exp(logits - logits.max())
                attended += shares / shares.sum() @ (x @ value[:, h] + value_bias[h]) @ out[h]
            y = x[t] + attended
            normed.append((y - y.mean()) / np.sqrt(y.var() + 1e-3) * scale + shift)
        if normed:
            output[b] = np.mean(normed, axis=0) @ projection
    return output


def values_and_gradients(encoder, history, mask):
    history = tf.constant(history)
    with tf.GradientTape() as tape:
        tape.watch(history)
        output = encoder(history, mask)
        loss = tf.reduce_sum(tf.square(output + 1))
    return [x.numpy() for x in (output, *tape.gradient(loss, [history, *(w.value for w in encoder.weights)]))]


@pytest.mark.parametrize(
    ("batch", "steps", "dim", "units", "heads", "head_dim"),
    [(1, 1, 2, 1, 1, 1), (3, 5, 4, 6, 2, 3), (4, 7, 3, 2, 3, 2), (2, 0, 4, 3, 2, 2), (0, 3, 4, 3, 2, 2)],
)
def test_equals_definition(batch, steps, dim, units, heads, head_dim):
    history, mask = make_inputs(batch, steps, dim)
    encoder = make_encoder(units, heads, head_dim, history)
    np.testing.assert_allclose(encoder(history, mask), encode_by_definition(encoder, history, mask), atol=1e-4)


def test_equal_steps_count_once():
    history, _ = make_inputs(2, 1, 4)
    encoder = make_encoder(3, 2, 2, history)
    repeated = encoder(np.repeat(history, 6, axis=1), np.ones((2, 6), bool))
    np.testing.assert_allclose(repeated, encoder(history, np.ones((2, 1), bool)), rtol=1e-4, atol=1e-5)


def test_order_of_steps_does_not_matter():
    history, mask = make_inputs(3, 6, 4)
    encoder = make_encoder(3, 2, 2, history)
    order = np.random.default_rng(0).permutation(6)
    np.testing.assert_allclose(encoder(history[:, order], mask[:, order]), encoder(history, mask), rtol=1e-4, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(extra=st.integers(1, 6), content=st.sampled_from([7.0, -1e6, np.inf, np.nan]), seed=st.integers(0, 99))
def test_padding_changes_neither_values_nor_gradients(extra, content, seed):
    history, mask = make_inputs(3, 5, 4, seed, empty_rows=[1])
    encoder = make_encoder(3, 2, 2, history)
    padded_mask = np.pad(mask, ((0, 0), (0, extra)))
    padded = np.pad(history, ((0, 0), (0, extra), (0, 0)))
    padded[~padded_mask] = content
    expected = values_and_gradients(encoder, history, mask)
    actual = values_and_gradients(encoder, padded, padded_mask)
    assert not actual[1][~padded_mask].any()
    actual[1] = actual[1][:, :5]
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    assert expected[1][mask].any() or not mask.any()


@pytest.mark.parametrize("steps", [0, 4])
def test_empty_history_gives_zeros_and_zero_gradients(steps):
    history, mask = make_inputs(2, steps, 4, empty_rows=[0, 1])
    output, *gradients = values_and_gradients(make_encoder(3, 2, 2, history), history, mask)
    np.testing.assert_array_equal(output, np.zeros((2, 3)))
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def test_half_precision():
    history, mask = make_inputs(3, 6, 4, empty_rows=[1])
    half = make_encoder(3, 2, 2, history, dtype="mixed_float16")
    full = make_encoder(3, 2, 2, history)
    output = half(history, mask)
    assert output.dtype == tf.float16
    np.testing.assert_allclose(output, full(history, mask), rtol=0.02, atol=0.02)


def test_first_call_builds_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = HistoryEncoder(3, 2, 2)
        assert encoder(*make_inputs(2, 4, 5)).shape == (2, 3)


def test_config_round_trip():
    encoder = HistoryEncoder(3, 2, 4, name="clicks")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(encoder))
    assert copy.get_config() == encoder.get_config()


@pytest.mark.parametrize("name", ["units", "heads", "head_dim"])
def test_errors_name_the_argument(name):
    arguments = {"units": 3, "heads": 2, "head_dim": 2, name: 0}
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1. Received: {name}=0"):
        HistoryEncoder(**arguments)
