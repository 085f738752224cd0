import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ctr.target_attention import TargetAttention


def make_inputs(batch, candidates, steps, dim, pair_features=0, seed=0, empty_rows=()):
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(batch, candidates, dim)).astype(np.float32)
    keys = rng.normal(size=(batch, steps, dim)).astype(np.float32)
    mask = np.arange(steps) < rng.integers(0, steps + 1, (batch, 1))
    mask[list(empty_rows)] = False
    pairs = rng.normal(size=(batch, candidates, steps, pair_features)).astype(np.float32) if pair_features else None
    return query, keys, mask, pairs


def make_layer(units, normalization, inputs, seed=1):
    layer = TargetAttention(units, normalization)
    layer(*inputs)
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(size=w.shape).astype(np.float32) for w in layer.get_weights()])
    return layer


def attention_by_definition(layer, query, keys, mask, pairs):
    """DIN page by page, candidate by candidate, step by step, on the concatenation that the layer never makes."""
    kernel, pair_kernel, bias, score_kernel, *score_bias = (np.float64(w) for w in layer.get_weights())
    output = np.zeros(query.shape)
    for b, c in np.ndindex(query.shape[:2]):
        scores = []
        steps = np.flatnonzero(mask[b])
        for t in steps:
            q, k = np.float64(query[b, c]), np.float64(keys[b, t])
            hidden = np.concatenate([q, k, q - k, q * k]) @ kernel + bias
            if pairs is not None:
                hidden = hidden + pairs[b, c, t] @ pair_kernel
            scores.append(np.maximum(hidden, 0) @ score_kernel + sum(score_bias))
        weights = np.array(scores)
        if layer.normalization == "softmax" and len(steps):
            weights = np.exp(weights - weights.max())
            weights /= weights.sum()
        for t, weight in zip(steps, weights, strict=True):
            output[b, c] += weight * keys[b, t]
    return output


@pytest.mark.parametrize("normalization", ["softmax", "none"])
@pytest.mark.parametrize(
    ("batch", "candidates", "steps", "dim", "units", "pair_features"),
    [
        (1, 1, 1, 1, 1, 0),
        (2, 3, 5, 4, 6, 0),
        (3, 1, 7, 2, 3, 1),
        (4, 5, 2, 8, 5, 3),
        (2, 3, 0, 4, 5, 0),
        (2, 0, 3, 4, 5, 2),
    ],
)
def test_equals_definition(batch, candidates, steps, dim, units, pair_features, normalization):
    inputs = make_inputs(batch, candidates, steps, dim, pair_features)
    layer = make_layer(units, normalization, inputs)
    expected = attention_by_definition(layer, *inputs)
    np.testing.assert_allclose(layer(*inputs), expected, rtol=1e-4, atol=1e-4)


def test_softmax_of_equal_keys_is_the_key():
    query, _, _, _ = make_inputs(2, 3, 4, 5)
    keys = np.tile(np.arange(5, dtype=np.float32), (2, 4, 1))
    layer = make_layer(6, "softmax", (query, keys, np.ones((2, 4), bool)))
    np.testing.assert_allclose(layer(query, keys, np.ones((2, 4), bool)), np.tile(keys[:, :1], (1, 3, 1)), rtol=1e-6)


def test_plain_sum_of_a_constant_score_counts_the_steps():
    query, keys, _, _ = make_inputs(1, 1, 4, 3)
    layer = TargetAttention(2, "none")
    layer(query, keys, np.ones((1, 4), bool))
    layer.set_weights([*(np.zeros(w.shape) for w in layer.get_weights()[:-1]), np.float32(0.5)])
    np.testing.assert_allclose(layer(query, keys, np.ones((1, 4), bool))[0, 0], 0.5 * keys[0].sum(axis=0), rtol=1e-6)


@settings(max_examples=15, deadline=None)
@given(extra=st.integers(1, 6), content=st.sampled_from([7.0, -1e6, np.inf, np.nan]), seed=st.integers(0, 99))
@pytest.mark.parametrize("normalization", ["softmax", "none"])
def test_padding_changes_nothing(normalization, extra, content, seed):
    query, keys, mask, pairs = make_inputs(3, 2, 5, 4, 2, seed, empty_rows=[1])
    layer = make_layer(6, normalization, (query, keys, mask, pairs))
    padded = (
        np.concatenate([np.where(mask[..., None], keys, content), np.full((3, extra, 4), content)], axis=1),
        np.pad(mask, ((0, 0), (0, extra))),
        np.concatenate([pairs, np.full((3, 2, extra, 2), content)], axis=2),
    )
    padded = (padded[0].astype(np.float32), padded[1], padded[2].astype(np.float32))
    np.testing.assert_allclose(layer(query, *padded), layer(query, keys, mask, pairs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalization", ["softmax", "none"])
def test_pages_and_candidates_are_independent(normalization):
    inputs = make_inputs(3, 4, 5, 4, 2, seed=3)
    layer = make_layer(6, normalization, inputs)
    query, keys, mask, pairs = inputs
    alone = layer(query[1:2, 2:3], keys[1:2], mask[1:2], pairs[1:2, 2:3])
    np.testing.assert_allclose(layer(*inputs)[1:2, 2:3], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalization", ["softmax", "none"])
def test_empty_history_gives_zeros_and_finite_gradients(normalization):
    query, keys, mask, pairs = make_inputs(2, 3, 4, 5, 2, empty_rows=[0, 1])
    layer = make_layer(6, normalization, (query, keys, mask, pairs))
    query, keys = tf.constant(query), tf.constant(keys)
    with tf.GradientTape() as tape:
        tape.watch([query, keys])
        output = layer(query, keys, mask, pairs)
        loss = tf.reduce_sum(tf.square(output + 1.0))
    np.testing.assert_array_equal(output, np.zeros((2, 3, 5)))
    for gradient in tape.gradient(loss, [query, keys, *layer.trainable_variables]):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


@pytest.mark.parametrize("normalization", ["softmax", "none"])
def test_gradient_of_padded_steps_is_exactly_zero(normalization):
    query, keys, mask, pairs = make_inputs(3, 2, 6, 4, 2, seed=5, empty_rows=[1])
    layer = make_layer(6, normalization, (query, keys, mask, pairs))
    keys, pairs = tf.constant(keys), tf.constant(pairs)
    with tf.GradientTape() as tape:
        tape.watch([keys, pairs])
        loss = tf.reduce_sum(tf.square(layer(query, keys, mask, pairs)))
    on_keys, on_pairs = tape.gradient(loss, [keys, pairs])
    assert not on_keys.numpy()[~mask].any()
    assert not on_pairs.numpy().swapaxes(1, 2)[~mask].any()
    assert on_keys.numpy()[mask].any()


def test_gradients_equal_those_of_the_concatenation():
    query, keys, mask, _ = make_inputs(2, 3, 5, 4, seed=7)
    layer = make_layer(6, "softmax", (query, keys, mask, None))
    kernel, _, bias, score_kernel = layer.weights
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(layer(query, keys, mask)))
    ours = tape.gradient(loss, [kernel.value, bias.value, score_kernel.value])
    with tf.GradientTape() as tape:
        q = tf.repeat(query[:, :, None], 5, axis=2)
        k = tf.repeat(keys[:, None], 3, axis=1)
        hidden = tf.nn.relu(tf.concat([q, k, q - k, q * k], axis=-1) @ kernel.value + bias.value)
        scores = tf.where(mask[:, None], tf.einsum("bctu,u->bct", hidden, score_kernel.value), -1e9)
        weights = tf.nn.softmax(scores) * tf.cast(mask[:, None], tf.float32)
        loss = tf.reduce_sum(tf.square(weights @ keys))
    naive = tape.gradient(loss, [kernel.value, bias.value, score_kernel.value])
    for a, b in zip(ours, naive, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_config_round_trip():
    layer = TargetAttention(6, "none", name="click")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"`units` must be at least 1. Received: units=0"):
        TargetAttention(0)
    with pytest.raises(ValueError, match="`normalization` must be"):
        TargetAttention(4, "sigmoid")
    with pytest.raises(ValueError, match="`query` and `keys` must have the same last size"):
        TargetAttention(4)(np.zeros((1, 1, 3), np.float32), np.zeros((1, 1, 2), np.float32), np.ones((1, 1), bool))
