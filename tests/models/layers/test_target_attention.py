import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from models.layers.target_attention import TargetAttention
from tests.models.courier_batch import mirrored

VARIANTS = [("softmax", "relu"), ("none", "relu"), ("softmax", "dice"), ("none", "dice")]


def make_inputs(batch, candidates, steps, dim, pair_features=0, seed=0, empty_rows=()):
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(batch, candidates, dim)).astype(np.float32)
    keys = rng.normal(size=(batch, steps, dim)).astype(np.float32)
    mask = np.arange(steps) < rng.integers(0, steps + 1, (batch, 1))
    mask[list(empty_rows)] = False
    pairs = [rng.normal(size=(batch, candidates, steps)).astype(np.float32) for _ in range(pair_features)]
    return query, keys, mask, pairs


def make_layer(units, normalization, activation, inputs, seed=1, **options):
    query, keys, _, pairs = inputs
    layer = TargetAttention(units, normalization, activation, len(pairs), **options)
    layer.build(query.shape, keys.shape)
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    if layer.dice is not None:
        layer.dice.moving_variance.assign(rng.uniform(0.5, 2.0, units))
    return layer


def attention_by_definition(layer, query, keys, mask, pairs, query_mask=None, training=False):
    """DIN page by page, candidate by candidate, step by step, on the concatenation that the layer never makes.

    Returns the output, mean and variance of the present hidden units, and the weights of the steps.
    """
    kernel, pair_kernel, bias, score_kernel = (
        np.float64(w) for w in (layer.kernel, layer.pair_kernel, layer.bias, layer.score_kernel)
    )
    score_bias = 0.0 if layer.score_bias is None else float(layer.score_bias)
    hidden = {}
    for b, c in np.ndindex(query.shape[:2]):
        for t in np.flatnonzero(mask[b]):
            q, k = np.float64(query[b, c]), np.float64(keys[b, t])
            pair = np.array([pair[b, c, t] for pair in pairs]).reshape(len(pairs))
            hidden[b, c, t] = np.concatenate([q, k, q - k, q * k]) @ kernel + bias + pair @ pair_kernel
    present = [x for (b, c, _), x in hidden.items() if query_mask is None or query_mask[b, c]]
    moments = (np.mean(present, axis=0), np.var(present, axis=0)) if present else None

    def activate(x):
        if layer.dice is None:
            return np.maximum(x, 0)
        mean, variance = (np.float64(w) for w in (layer.dice.moving_mean, layer.dice.moving_variance))
        if training:
            mean, variance = moments
        share = 1 / (1 + np.exp(-(x - mean) / np.sqrt(variance + 1e-9)))
        return share * x + (1 - share) * np.float64(layer.dice.alpha) * x

    output, by_step = np.zeros(query.shape), np.zeros((*query.shape[:2], keys.shape[1]))
    for b, c in np.ndindex(query.shape[:2]):
        steps = np.flatnonzero(mask[b])
        weights = np.array([activate(hidden[b, c, t]) @ score_kernel + score_bias for t in steps])
        if layer.normalization == "softmax" and len(steps):
            weights = np.exp(weights - weights.max())
            weights /= weights.sum()
        for t, weight in zip(steps, weights, strict=True):
            output[b, c] += weight * keys[b, t]
            by_step[b, c, t] = weight
    return output, moments, by_step


def averages(layer):
    """The moving averages of Dice."""
    return [] if layer.dice is None else [layer.dice.moving_mean.numpy(), layer.dice.moving_variance.numpy()]


def values_and_gradients(attend, layer, inputs, of_output=lambda output: output, **options):
    """Of training: the output, the gradients on query, keys, pairs and weights, and the moving averages after."""
    query, keys, mask, pairs = inputs
    query, keys, *pairs = (tf.constant(x) for x in (query, keys, *pairs))
    weights = [w.value for w in layer.trainable_weights if 0 not in w.shape]
    with tf.GradientTape() as tape:
        tape.watch([query, keys, *pairs])
        output = of_output(attend(query, keys, tf.constant(mask), pairs, training=True, **options))
        loss = tf.reduce_sum(tf.square(output + 1))
    return [x.numpy() for x in (output, *tape.gradient(loss, [query, keys, *pairs, *weights]))] + averages(layer)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("normalization", "activation"), VARIANTS)
@pytest.mark.parametrize(
    ("batch", "candidates", "steps", "dim", "units", "pair_features"),
    [
        (1, 1, 1, 1, 1, 0),
        (2, 3, 5, 4, 6, 0),
        (3, 1, 7, 2, 3, 1),
        (4, 5, 2, 8, 5, 3),
        (2, 3, 0, 4, 5, 0),
        (2, 3, 0, 4, 5, 1),
        (2, 0, 3, 4, 5, 2),
        (2, 0, 3, 4, 5, 0),
        (0, 2, 3, 4, 5, 1),
    ],
)
def test_equals_definition(batch, candidates, steps, dim, units, pair_features, normalization, activation, training):
    inputs = make_inputs(batch, candidates, steps, dim, pair_features)
    layer = make_layer(units, normalization, activation, inputs)
    expected, _, weights = attention_by_definition(layer, *inputs, training=training)
    if not training:
        np.testing.assert_allclose(layer.attention_weights(*inputs), weights, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(layer(*inputs, training=training), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("with_query_mask", [False, True])
def test_moving_averages_are_of_the_present_hidden_units(with_query_mask):
    inputs = make_inputs(5, 3, 6, 4, 2)
    query_mask = np.random.default_rng(4).random((5, 3)) < 0.6 if with_query_mask else None
    layer = make_layer(6, "none", "dice", inputs)
    before = averages(layer)
    expected, moments, _ = attention_by_definition(layer, *inputs, query_mask=query_mask, training=True)
    output = layer(*inputs, query_mask=query_mask, training=True)
    shown = np.ones((5, 3), bool) if query_mask is None else query_mask
    np.testing.assert_allclose(output.numpy()[shown], expected[shown], rtol=1e-3, atol=1e-4)
    for after, start, moment in zip(averages(layer), before, moments, strict=True):
        np.testing.assert_allclose(after, 0.99 * start + 0.01 * moment, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "dice"])
def test_softmax_of_equal_keys_is_the_key(activation):
    query, _, _, _ = make_inputs(2, 3, 4, 5)
    keys, mask = np.tile(np.arange(5, dtype=np.float32), (2, 4, 1)), np.ones((2, 4), bool)
    layer = make_layer(6, "softmax", activation, (query, keys, mask, []))
    np.testing.assert_allclose(layer(query, keys, mask), np.tile(keys[:, :1], (1, 3, 1)), rtol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "dice"])
def test_plain_sum_of_a_constant_score_counts_the_steps(activation):
    query, keys, _, _ = make_inputs(1, 1, 4, 3)
    layer = TargetAttention(2, "none", activation)
    layer.build(query.shape, keys.shape)
    layer.score_kernel.assign(tf.zeros(2))
    layer.score_bias.assign(0.5)
    np.testing.assert_allclose(layer(query, keys, np.ones((1, 4), bool))[0, 0], 0.5 * keys[0].sum(axis=0), rtol=1e-6)


def naive_attention(layer, query, keys, mask, pairs, training):
    """The usual order, on the concatenation and with every hidden unit at once; `Dice` as it is."""
    steps, candidates = keys.shape[1], query.shape[1]
    q, k = tf.repeat(query[:, :, None], steps, axis=2), tf.repeat(keys[:, None], candidates, axis=1)
    # As products of matrices: oneDNN of TensorFlow 2.17 crashes on some processors when four dimensions meet two.
    hidden = tf.tensordot(tf.concat([q, k, q - k, q * k], axis=-1), layer.kernel.value, 1) + layer.bias.value
    if pairs:
        hidden += tf.tensordot(tf.stack(pairs, axis=-1), layer.pair_kernel.value, 1)
    mask = tf.repeat(mask[:, None], candidates, axis=1)
    hidden = layer.dice(hidden, mask, training=training) if layer.dice is not None else tf.nn.relu(hidden)
    scores = tf.einsum("bctu,u->bct", hidden, layer.score_kernel.value)
    if layer.normalization == "none":
        return tf.where(mask, scores + layer.score_bias.value, 0.0) @ keys
    return tf.where(mask, tf.nn.softmax(tf.where(mask, scores, -1e9)), 0.0) @ keys


@pytest.mark.parametrize(("normalization", "activation"), VARIANTS)
@settings(max_examples=8, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 6), *[st.integers(1, n) for n in (4, 9, 5)], st.integers(0, 3)),
    units=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_outputs_gradients_and_averages_equal_the_naive_ones(normalization, activation, shape, units, seed):
    inputs = make_inputs(*shape, seed=seed, empty_rows=[0] if seed % 2 else [])
    inputs[2][-1] = True  # the variance of one value is epsilon, and rounding shows
    layer, copy = (make_layer(units, normalization, activation, inputs) for _ in range(2))
    ours = values_and_gradients(layer, layer, inputs)
    naive = values_and_gradients(lambda *x, **o: naive_attention(copy, *x, **o), copy, inputs)
    few = activation == "dice" and inputs[2].sum() * shape[1] < 3
    for a, b in zip(ours, naive, strict=True):
        scale = max(1.0, np.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=(1.0 if few else 2e-3) * scale)


@settings(max_examples=6, deadline=None)
@given(extra=st.integers(1, 6), content=st.sampled_from([7.0, -1e6, np.inf, np.nan]), seed=st.integers(0, 99))
@pytest.mark.parametrize(("normalization", "activation"), VARIANTS)
def test_padding_changes_neither_values_nor_gradients_nor_averages(normalization, activation, extra, content, seed):
    query, keys, mask, pairs = inputs = make_inputs(3, 2, 5, 4, 2, seed, empty_rows=[1])
    mask[0, :3] = True
    padded_mask = np.pad(mask, ((0, 0), (0, extra)))
    padded_keys = np.pad(keys, ((0, 0), (0, extra), (0, 0)))
    padded_keys[~padded_mask] = content
    padded_pairs = [np.pad(pair, ((0, 0), (0, 0), (0, extra))) for pair in pairs]
    padded_pairs = [np.where(padded_mask[:, None], pair, np.float32(content)) for pair in padded_pairs]
    layer, copy = (make_layer(6, normalization, activation, inputs) for _ in range(2))
    expected = values_and_gradients(layer, layer, inputs)
    actual = values_and_gradients(copy, copy, (query, padded_keys, padded_mask, padded_pairs))
    assert not actual[2][~padded_mask].any()
    assert not any(gradient.swapaxes(1, 2)[~padded_mask].any() for gradient in actual[3:5])
    actual[2] = actual[2][:, :5]
    actual[3:5] = [gradient[..., :5] for gradient in actual[3:5]]
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(b).max()))
    assert expected[2][mask].any()


@pytest.mark.parametrize("activation", ["relu", "dice"])
def test_padded_candidates_change_nothing(activation):
    query, keys, mask, pairs = inputs = make_inputs(3, 2, 5, 4, 2, seed=2)
    padded = np.pad(query, ((0, 0), (0, 3), (0, 0)), constant_values=np.nan), keys, mask
    padded = (*padded, [np.pad(pair, ((0, 0), (0, 3), (0, 0)), constant_values=9) for pair in pairs])
    layer, copy = (make_layer(6, "none", activation, inputs) for _ in range(2))
    expected = values_and_gradients(layer, layer, inputs)
    query_mask = np.arange(5) < np.full((3, 1), 2)
    actual = values_and_gradients(copy, copy, padded, lambda output: output[:, :2], query_mask=query_mask)
    assert not actual[1][:, 2:].any()
    actual[1] = actual[1][:, :2]
    actual[3:5] = [gradient[:, :2] for gradient in actual[3:5]]
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("normalization", "activation"), VARIANTS)
def test_pages_and_candidates_are_independent(normalization, activation):
    inputs = make_inputs(3, 4, 5, 4, 2, seed=3)
    layer = make_layer(6, normalization, activation, inputs)
    query, keys, mask, pairs = inputs
    alone = layer(query[1:2, 2:3], keys[1:2], mask[1:2], [pair[1:2, 2:3] for pair in pairs])
    np.testing.assert_allclose(layer(*inputs)[1:2, 2:3], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("normalization", "activation"), VARIANTS)
def test_a_page_is_as_good_as_a_page_per_candidate(normalization, activation):
    query, keys, mask, pairs = inputs = make_inputs(3, 4, 5, 4, 2, seed=3)
    layer, copy = (make_layer(6, normalization, activation, inputs) for _ in range(2))
    rows = query.reshape(12, 1, 4), np.repeat(keys, 4, axis=0), np.repeat(mask, 4, axis=0)
    output = copy(*rows, [pair.reshape(12, 1, 5) for pair in pairs], training=True)
    np.testing.assert_allclose(np.reshape(output, (3, 4, 4)), layer(*inputs, training=True), rtol=1e-3, atol=1e-4)
    for a, b in zip(averages(layer), averages(copy), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 4])
@pytest.mark.parametrize(("normalization", "activation"), VARIANTS)
def test_empty_history_gives_zeros_and_changes_nothing(normalization, activation, steps):
    inputs = make_inputs(2, 3, steps, 5, 2, empty_rows=[0, 1])
    layer = make_layer(6, normalization, activation, inputs)
    before = averages(layer)
    output, *gradients = values_and_gradients(layer, layer, inputs)
    np.testing.assert_array_equal(output, np.zeros((2, 3, 5)))
    for gradient in gradients[: len(gradients) - len(before)]:
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))
    np.testing.assert_array_equal(averages(layer), before)


def step(inputs, replicas):
    """Of training on replicas with parts of the pages: outputs, gradients and moving averages."""
    strategy = mirrored([f"CPU:{i}" for i in range(replicas)])
    query, keys, mask, pairs = inputs
    with strategy.scope():
        layer = make_layer(6, "none", "dice", inputs)
    weights = [w.value for w in layer.trainable_weights]

    def part(x):
        parts = np.array_split(x, replicas)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    def run(query, keys, mask, *pairs):
        with tf.GradientTape() as tape:
            tape.watch([query, keys])
            output = layer(query, keys, mask, pairs, training=True)
            loss = tf.reduce_sum(tf.square(output + 1))
        on_query, on_keys, *on_weights = tape.gradient(loss, [query, keys, *weights])
        return [output, on_query, on_keys], [tf.convert_to_tensor(gradient) for gradient in on_weights]

    arguments = tuple(part(x) for x in (query, keys, mask, *pairs))
    per_page, on_weights = tf.function(lambda *x: strategy.run(run, x))(*arguments)
    per_page = [np.concatenate(strategy.experimental_local_results(x)) for x in per_page]
    return [*per_page, *[strategy.reduce("SUM", x, axis=None).numpy() for x in on_weights], *averages(layer)]


def test_two_replicas_are_as_one():
    inputs = make_inputs(6, 2, 5, 4, 2, seed=6)
    inputs[1][:3] += 2  # the replicas' own moments differ
    for a, b in zip(*(step(inputs, replicas) for replicas in (1, 2)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(a).max()))


@pytest.mark.parametrize("activation", ["relu", "dice"])
def test_mixed_precision_rounds_no_scores(activation):
    inputs = make_inputs(2, 3, 9, 4, 1)
    query, keys, mask, pairs = inputs
    query, keys, *pairs = (x.astype(np.float16) for x in (query, keys, *pairs))
    half, full = (make_layer(6, "softmax", activation, inputs, dtype=dtype) for dtype in ("mixed_float16", "float32"))
    for layer in (half, full):
        layer.score_kernel.assign(100 * layer.score_kernel)
    output = half(query, keys, mask, pairs, training=True)
    assert output.dtype == tf.float16
    query, keys, *pairs = (x.astype(np.float32) for x in (query, keys, *pairs))
    np.testing.assert_allclose(output, full(query, keys, mask, pairs, training=True), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("activation", ["relu", "dice"])
def test_shapes_may_be_unknown_when_traced(activation):
    inputs = make_inputs(5, 3, 5, 4, 1)
    layer = make_layer(6, "none", activation, inputs)
    vector, plane = tf.TensorSpec((None, None, 4)), tf.TensorSpec((None, None, None))
    mask = tf.TensorSpec((None, None), tf.bool)
    traced = tf.function(
        lambda *x: values_in_graph(layer, *x), input_signature=(vector, vector, mask, [plane]), autograph=False
    )
    for a, b in zip(traced(*inputs), values_in_graph(layer, *inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def values_in_graph(layer, query, keys, mask, pairs):
    with tf.GradientTape() as tape:
        output = layer(query, keys, mask, pairs, training=True)
        loss = tf.reduce_sum(tf.square(output))
    return [output, tape.gradient(loss, layer.kernel.value)]


def test_first_call_builds_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = TargetAttention(6, "none", "dice", 1)
        layer(*make_inputs(2, 3, 4, 5, 1), training=True)
    names = [w.path.split("/", 1)[1] for w in layer.trainable_weights]
    assert sorted(names) == ["bias", "dice/alpha", "kernel", "pair_kernel", "score_bias", "score_kernel"]


def test_config_round_trip():
    layer = TargetAttention(6, "none", "dice", 2, name="click")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"`units` must be at least 1. Received: units=0"):
        TargetAttention(0)
    with pytest.raises(ValueError, match="`normalization` must be"):
        TargetAttention(4, "sigmoid")
    with pytest.raises(ValueError, match="`activation` must be"):
        TargetAttention(4, activation="prelu")
    with pytest.raises(ValueError, match=r"`pair_features` must be at least 0. Received: pair_features=-1"):
        TargetAttention(4, pair_features=-1)
    query, keys, mask, pairs = make_inputs(1, 1, 2, 3, 2)
    with pytest.raises(ValueError, match=r"`pairs` must hold pair_features=1 tensors. Received: 2"):
        TargetAttention(4, pair_features=1)(query, keys, mask, pairs)
    with pytest.raises(ValueError, match="`query` and `keys` must have the same last size"):
        TargetAttention(4)(query, keys[..., :2], mask)
