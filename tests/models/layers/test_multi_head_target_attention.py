import warnings
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from models.layers.multi_head_target_attention import MultiHeadTargetAttention


def make_inputs(batch, candidates, steps, query_dim, key_dim, pair_features=0, seed=0, empty_rows=()):
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(batch, candidates, query_dim)).astype(np.float32)
    keys = rng.normal(size=(batch, steps, key_dim)).astype(np.float32)
    mask = np.arange(steps) < rng.integers(0, steps + 1, (batch, 1))
    mask[list(empty_rows)] = False
    pairs = [rng.normal(size=(batch, candidates, steps)).astype(np.float32) for _ in range(pair_features)]
    return query, keys, mask, pairs


def make_layer(heads, head_dim, inputs, seed=1, **options):
    query, keys, _, pairs = inputs
    layer = MultiHeadTargetAttention(heads, head_dim, len(pairs), **options)
    layer.build(query.shape, [keys.shape])
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    return layer


def attend(layer, query, keys, mask, pairs=(), **options):
    """The layer on pages of one history."""
    return layer(query, [keys], [mask], [pairs], **options)


def weights_by_definition(layer, query, keys, mask, pairs):
    """Page by page, head by head, candidate by candidate; 0 at padding."""
    query_kernel, query_bias, key_kernel, _, pair_kernel = (np.float64(w) for w in layer.get_weights())
    weights = np.zeros((query.shape[0], layer.heads, query.shape[1], keys.shape[1]))
    for b, h, c in np.ndindex(weights.shape[:3]):
        columns = slice(h * layer.head_dim, (h + 1) * layer.head_dim)
        steps = np.flatnonzero(mask[b])
        if not len(steps):
            continue
        projected_query = query[b, c] @ query_kernel[:, columns] + query_bias[columns]
        logits = np.array([projected_query @ (keys[b, t] @ key_kernel[:, columns]) for t in steps])
        logits /= np.sqrt(layer.head_dim)
        for f, pair in enumerate(pairs):
            logits += pair_kernel[f, h] * pair[b, c, steps]
        shares = np.exp(logits - logits.max())
        weights[b, h, c, steps] = shares / shares.sum()
    return weights


def attention_by_definition(layer, query, keys, mask, pairs):
    """With every step projected."""
    weights = weights_by_definition(layer, query, keys, mask, pairs)
    values = keys.astype(np.float64) @ layer.get_weights()[3]
    values = values.reshape(*keys.shape[:2], layer.heads, layer.head_dim)
    output = np.einsum("bhct,bthd->bchd", weights, values)
    return output.reshape(*query.shape[:2], layer.heads * layer.head_dim)


def values_and_gradients(function, layer, inputs):
    """The output, and the gradients on query, keys, pairs and weights."""
    query, keys, mask, pairs = inputs
    query, keys, *pairs = (tf.constant(x) for x in (query, keys, *pairs))
    weights = [w.value for w in layer.weights if tf.size(w)]
    with tf.GradientTape() as tape:
        tape.watch([query, keys, *pairs])
        output = function(query, keys, tf.constant(mask), pairs)
        loss = tf.reduce_sum(tf.square(output + 1))
    return [x.numpy() for x in (output, *tape.gradient(loss, [query, keys, *pairs, *weights]))]


@pytest.mark.parametrize(
    ("batch", "candidates", "steps", "query_dim", "key_dim", "heads", "head_dim", "pair_features"),
    [
        (1, 1, 1, 1, 1, 1, 1, 0),
        (2, 3, 5, 4, 4, 2, 3, 0),
        (3, 1, 7, 2, 5, 3, 1, 1),
        (4, 5, 2, 8, 3, 2, 4, 3),
        (2, 40, 6, 5, 8, 2, 2, 2),
        (2, 40, 0, 5, 8, 2, 2, 2),
        (1, 40, 6, 5, 8, 3, 8, 0),
        (2, 3, 0, 4, 4, 2, 2, 0),
        (2, 3, 0, 4, 4, 2, 2, 2),
        (2, 0, 3, 4, 4, 2, 2, 2),
        (0, 2, 3, 4, 4, 2, 2, 1),
    ],
)
def test_equals_definition(batch, candidates, steps, query_dim, key_dim, heads, head_dim, pair_features):
    inputs = make_inputs(batch, candidates, steps, query_dim, key_dim, pair_features)
    layer = make_layer(heads, head_dim, inputs)
    expected = attention_by_definition(layer, *inputs)
    for training in (False, True):  # training takes its candidates for few
        np.testing.assert_allclose(attend(layer, *inputs, training=training), expected, rtol=1e-4, atol=1e-5)
    query, keys, mask, pairs = inputs
    (weights,) = layer.attention_weights(query, [keys], [mask], [pairs])
    np.testing.assert_allclose(weights, weights_by_definition(layer, *inputs), rtol=1e-4, atol=1e-5)


def test_equal_logits_give_the_mean_of_the_values():
    query, keys, mask, _ = make_inputs(2, 3, 6, 4, 5)
    mask[:] = np.arange(6) < 4
    layer = make_layer(2, 3, (query, keys, mask, []))
    layer.key_kernel.assign(tf.zeros_like(layer.key_kernel))
    mean = keys[:, :4].mean(axis=1, keepdims=True) @ layer.value_kernel.numpy()
    np.testing.assert_allclose(attend(layer, query, keys, mask), np.tile(mean, (1, 3, 1)), rtol=1e-5, atol=1e-6)


def test_a_large_pair_weight_selects_its_step():
    query, keys, _, _ = make_inputs(1, 1, 5, 4, 4)
    pairs = [np.float32([[[0, 0, 1, 0, 0]]])]
    layer = make_layer(2, 3, (query, keys, None, pairs))
    layer.pair_kernel.assign([[1e4, 1e4]])
    expected = keys[:, 2:3] @ layer.value_kernel.numpy()
    np.testing.assert_allclose(attend(layer, query, keys, np.ones((1, 5), bool), pairs), expected, rtol=1e-5, atol=1e-6)


def naive_attention(layer, query, keys, mask, pairs):
    """The standard order: project queries, keys and values, then attend."""
    query_kernel, query_bias, key_kernel, value_kernel, pair_kernel = (w.value for w in layer.weights)

    def heads(x):
        return tf.transpose(tf.reshape(x, (*x.shape[:2], layer.heads, layer.head_dim)), (0, 2, 1, 3))

    logits = heads(query @ query_kernel + query_bias) @ tf.transpose(heads(keys @ key_kernel), (0, 1, 3, 2))
    logits /= layer.head_dim**0.5
    for f, pair in enumerate(pairs):
        logits += pair_kernel[f][:, None, None] * pair[:, None]
    weights = tf.nn.softmax(tf.where(mask[:, None, None], logits, -1e9))
    weights = tf.where(mask[:, None, None], weights, 0.0)
    return tf.reshape(tf.transpose(weights @ heads(keys @ value_kernel), (0, 2, 1, 3)), (*query.shape[:2], -1))


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, n) for n in (3, 4, 9, 5, 5)], st.integers(0, 3)),
    heads=st.integers(1, 3),
    head_dim=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_outputs_and_gradients_equal_those_of_the_standard_order(shape, heads, head_dim, seed):
    inputs = make_inputs(*shape, seed=seed, empty_rows=[0] if seed % 2 else [])
    layer = make_layer(heads, head_dim, inputs)
    ours = values_and_gradients(partial(attend, layer), layer, inputs)
    naive = values_and_gradients(lambda *x: naive_attention(layer, *x), layer, inputs)
    for a, b in zip(ours, naive, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * max(1.0, np.abs(b).max()))


@settings(max_examples=15, deadline=None)
@given(extra=st.integers(1, 6), content=st.sampled_from([7.0, -1e6, np.inf, np.nan]), seed=st.integers(0, 99))
def test_padding_changes_neither_values_nor_gradients(extra, content, seed):
    query, keys, mask, pairs = make_inputs(3, 2, 5, 4, 4, 2, seed, empty_rows=[1])
    layer = make_layer(2, 3, (query, keys, mask, pairs))
    padded_keys = np.where(np.pad(mask, ((0, 0), (0, extra)))[..., None], np.pad(keys, ((0, 0), (0, extra), (0, 0))), 0)
    padded_mask = np.pad(mask, ((0, 0), (0, extra)))
    padded_keys[~padded_mask] = content
    padded_pairs = [np.pad(pair, ((0, 0), (0, 0), (0, extra))) for pair in pairs]
    finite = np.nan_to_num(np.float32(content), posinf=1e6)
    padded_pairs = [np.where(padded_mask[:, None], pair, finite) for pair in padded_pairs]
    expected = values_and_gradients(partial(attend, layer), layer, (query, keys, mask, pairs))
    actual = values_and_gradients(partial(attend, layer), layer, (query, padded_keys, padded_mask, padded_pairs))
    assert not actual[2][~padded_mask].any()
    assert not any(gradient.swapaxes(1, 2)[~padded_mask].any() for gradient in actual[3:5])
    actual[2] = actual[2][:, :5]
    actual[3:5] = [gradient[..., :5] for gradient in actual[3:5]]
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert expected[2][mask].any() or not mask.any()


@pytest.mark.parametrize("candidates", [3, 40])
@pytest.mark.parametrize("training", [False, True])
def test_each_of_several_histories_is_attended_to_as_it_would_be_alone(candidates, training):
    histories = [make_inputs(3, candidates, steps, 4, 6, 2, seed=steps, empty_rows=[1]) for steps in (5, 0, 9)]
    query = histories[0][0]
    layer = make_layer(2, 3, histories[0])
    keys, masks, pairs = ([each[n] for each in histories] for n in (1, 2, 3))
    watched = [tf.constant(x) for x in tf.nest.flatten((keys, pairs))] + [w.value for w in layer.weights]

    def outputs(*tensors):
        keys, pairs = tensors[:3], [tensors[3 + 2 * n : 5 + 2 * n] for n in range(3)]
        alone = [attend(layer, query, *each, training=training) for each in zip(keys, masks, pairs, strict=True)]
        return layer(query, keys, masks, pairs, training=training), tf.concat(alone, axis=-1)

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(watched)
        together, alone = outputs(*watched[:9])
        losses = [tf.reduce_sum(tf.square(output + 1)) for output in (together, alone)]
    assert together.shape == (3, candidates, 18)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    for actual, expected in zip(*(tape.gradient(loss, watched) for loss in losses), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


def test_order_of_steps_does_not_matter():
    query, keys, mask, pairs = inputs = make_inputs(3, 2, 6, 4, 4, 2)
    layer = make_layer(2, 3, inputs)
    order = np.random.default_rng(0).permutation(6)
    permuted = attend(layer, query, keys[:, order], mask[:, order], [pair[:, :, order] for pair in pairs])
    np.testing.assert_allclose(attend(layer, *inputs), permuted, rtol=1e-4, atol=1e-6)


def test_a_page_is_as_good_as_a_page_per_candidate():
    query, keys, mask, pairs = inputs = make_inputs(3, 4, 5, 4, 4, 2, seed=3)
    layer = make_layer(2, 3, inputs)
    rows = (
        query.reshape(12, 1, 4),
        np.repeat(keys, 4, axis=0),
        np.repeat(mask, 4, axis=0),
        [p.reshape(12, 1, 5) for p in pairs],
    )
    np.testing.assert_allclose(
        np.reshape(attend(layer, *rows), (3, 4, 6)), attend(layer, *inputs), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("steps", [0, 4])
def test_empty_history_gives_zeros_and_zero_gradients(steps):
    inputs = make_inputs(2, 3, steps, 5, 5, 2, empty_rows=[0, 1])
    layer = make_layer(2, 3, inputs)
    output, *gradients = values_and_gradients(partial(attend, layer), layer, inputs)
    np.testing.assert_array_equal(output, np.zeros((2, 3, 6)))
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def test_mixed_precision_rounds_no_logits():
    """Logits of about a thousand are apart by less than half precision can tell."""
    inputs = make_inputs(2, 3, 50, 8, 8, 1)
    query, keys, mask, pairs = (tf.cast(x, tf.float16) if np.ndim(x) != 2 else x for x in inputs)
    half = make_layer(2, 4, inputs, dtype="mixed_float16")
    half.pair_kernel.assign([[1000.0, 1000.0]])
    full = MultiHeadTargetAttention(2, 4, 1)
    full.build(query.shape, [keys.shape])
    full.set_weights(half.get_weights())
    output = attend(half, query, keys, mask, list(pairs))
    assert output.dtype == tf.float16
    expected = attend(full, *(tf.cast(x, tf.float32) for x in (query, keys)), mask, [tf.cast(pairs[0], tf.float32)])
    np.testing.assert_allclose(output, expected, rtol=2e-3, atol=2e-3)


def test_first_call_builds_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = MultiHeadTargetAttention(2, 3, 1)
        attend(layer, *make_inputs(2, 3, 4, 5, 6, 1))
    assert [tuple(w.shape) for w in layer.trainable_weights] == [(5, 6), (6,), (6, 6), (6, 6), (1, 2)]


def test_shapes_may_be_unknown_when_traced():
    inputs = make_inputs(2, 3, 5, 4, 4, 1)
    layer = make_layer(2, 3, inputs)
    vector, plane = tf.TensorSpec((None, None, 4)), tf.TensorSpec((None, None, None))
    signature = (vector, vector, tf.TensorSpec((None, None), tf.bool), [plane])
    traced = tf.function(lambda *arguments: attend(layer, *arguments), input_signature=signature)
    np.testing.assert_allclose(traced(*inputs), attend(layer, *inputs), rtol=1e-5, atol=1e-6)


def test_config_round_trip():
    layer = MultiHeadTargetAttention(2, 3, 4, name="clicks")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()


OPTIONS = [(True, 0), (False, 4), (True, 5)]


def make_similar(shape, aware, buckets, seed=0, empty_rows=()):
    """Inputs with the similarity of each pair as the last of the pairs, and a layer that reads it apart from them."""
    query, keys, mask, pairs = inputs = make_inputs(*shape, 2, seed, empty_rows)
    similarity = 2 * np.random.default_rng(9).normal(size=pairs[0].shape).astype(np.float32)
    layer = make_layer(2, 3, inputs, similarity_aware=aware, similarity_buckets=buckets)
    return layer, (query, keys, mask, [*pairs, similarity])


def attend_similar(layer, query, keys, mask, pairs):
    return layer(query, [keys], [mask], [pairs[:-1]], [pairs[-1]])


def similar_by_definition(layer, query, keys, mask, pairs):
    """Pair by pair, with the key and the value of each: the output, and the weights of the steps."""
    weights = {w.name: np.float64(w) for w in layer.weights}
    gain = weights.get("similarity_kernel", np.zeros(layer.heads))
    output = np.zeros((*query.shape[:2], layer.heads, layer.head_dim))
    by_step = np.zeros((query.shape[0], layer.heads, query.shape[1], keys.shape[1]))
    for b, c, h in np.ndindex(output.shape[:3]):
        columns = slice(h * layer.head_dim, (h + 1) * layer.head_dim)
        q = query[b, c] @ weights["query_kernel"][:, columns] + weights["query_bias"][columns]
        logits, values = [], []
        for t in np.flatnonzero(mask[b]):
            key, value = (keys[b, t] @ weights[name][:, columns] for name in ("key_kernel", "value_kernel"))
            similarity = pairs[-1][b, c, t]
            if layer.similarity_buckets:
                inner = np.linspace(-2, 4, layer.similarity_buckets - 1)
                bucket = np.searchsorted(inner, similarity, side="right")
                key, value = key + weights["bucket_keys"][h, bucket], value + weights["bucket_values"][h, bucket]
            on_pairs = sum(weights["pair_kernel"][f, h] * pair[b, c, t] for f, pair in enumerate(pairs[:-1]))
            logits.append(q @ key / np.sqrt(layer.head_dim) * (1 + gain[h] * similarity) + on_pairs)
            values.append(value)
        if values:
            shares = np.exp(np.array(logits) - max(logits))
            by_step[b, h, c, mask[b]] = shares / shares.sum()
            output[b, c, h] = shares / shares.sum() @ np.array(values)
    return output.reshape(*query.shape[:2], layer.heads * layer.head_dim), by_step


@pytest.mark.parametrize(("aware", "buckets"), OPTIONS)
@pytest.mark.parametrize("shape", [(3, 4, 6, 4, 5), (2, 40, 3, 5, 3), (2, 3, 0, 4, 4), (2, 0, 3, 4, 4)])
def test_similarity_equals_definition(shape, aware, buckets):
    layer, inputs = make_similar(shape, aware, buckets, empty_rows=[1])
    output = attend_similar(layer, *inputs)
    query, keys, mask, pairs = inputs
    (weights,) = layer.attention_weights(query, [keys], [mask], [pairs[:-1]], [pairs[-1]])
    for actual, expected in zip((output, weights), similar_by_definition(layer, *inputs), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    rows, candidates, steps = shape[0] * shape[1], shape[1], shape[2]
    by_row = (
        query.reshape(rows, 1, query.shape[2]),
        np.repeat(keys, candidates, axis=0),
        np.repeat(mask, candidates, axis=0),
        [pair.reshape(rows, 1, steps) for pair in pairs],
    )
    np.testing.assert_allclose(np.reshape(attend_similar(layer, *by_row), output.shape), output, rtol=1e-4, atol=1e-5)


def test_padding_and_empty_histories_say_nothing_of_similarity():
    layer, inputs = make_similar((3, 2, 5, 4, 4), True, 5, empty_rows=[1])
    query, keys, mask, pairs = inputs
    expected = values_and_gradients(partial(attend_similar, layer), layer, inputs)
    keys, mask, pairs = (
        np.pad(keys, ((0, 0), (0, 2), (0, 0)), constant_values=np.nan),
        np.pad(mask, ((0, 0), (0, 2))),
        [np.pad(pair, ((0, 0), (0, 0), (0, 2)), constant_values=-1e6) for pair in pairs],
    )
    pairs[-1][..., 5:] = np.nan
    actual = values_and_gradients(partial(attend_similar, layer), layer, (query, keys, mask, pairs))
    actual[2] = actual[2][:, :5]
    actual[3:6] = [gradient[..., :5] for gradient in actual[3:6]]
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert not expected[0][1].any()
    assert all(gradient.any() for gradient in expected[6:])  # every weight learns


def test_similarity_begins_as_attention_without_it():
    _, inputs = make_similar((3, 2, 5, 4, 4), True, 5)
    keras.utils.set_random_seed(0)
    layer = MultiHeadTargetAttention(2, 3, 2, similarity_aware=True, similarity_buckets=5)
    output, plain = attend_similar(layer, *inputs), MultiHeadTargetAttention(2, 3, 2)
    plain.build(inputs[0].shape, [inputs[1].shape])
    plain.set_weights(layer.get_weights()[:5])
    np.testing.assert_allclose(output, attend(plain, *inputs[:3], inputs[3][:-1]), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="`similarity` must be given"):
        attend(layer, *inputs[:3], inputs[3][:-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4), r"`heads` must be at least 1. Received: heads=0"),
        ((2, 0), r"`head_dim` must be at least 1. Received: head_dim=0"),
        ((2, 4, 0, False, 2), r"`similarity_buckets` must be 0, or at least 3. Received: 2"),
        ((2, 4, -1), r"`pair_features` must be at least 0. Received: pair_features=-1"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadTargetAttention(*arguments)


def test_number_of_pairs_must_be_that_of_the_weights():
    query, keys, mask, pairs = make_inputs(1, 1, 2, 3, 3, 2)
    with pytest.raises(ValueError, match=r"`pairs` must hold pair_features=1 tensors for each history. Received: 2"):
        attend(MultiHeadTargetAttention(2, 3, 1), query, keys, mask, pairs)
