import numpy as np
import pytest
import tensorflow as tf
from scipy.special import erf, softmax

from models.layers.mixture_of_experts import MixtureOfExperts
from tests.models.courier_batch import mirrored


def drawn(experts=4, hidden=3, k=2, capacity_factor=None, width=5, seed=0):
    layer = MixtureOfExperts(experts, hidden, k, capacity_factor)
    layer.build((None, width))
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    return layer


def draw(tokens=11, width=5, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(tokens, width)).astype(np.float32), rng.random(tokens) < 0.8


def perceptron(layer, expert, token):
    expand, bias, reduce, offset = (
        np.asarray(w)[expert] for w in (layer.expand, layer.expand_bias, layer.reduce, layer.reduce_bias)
    )
    hidden = token @ expand + bias[0]
    return (hidden * (1 + erf(hidden / np.sqrt(2))) / 2) @ reduce + offset[0]


def reference(layer, x, valid):
    """Token by token: outputs, balance, choices, dropped."""
    scores = x @ np.asarray(layer.gate)
    order = np.argsort(-scores, axis=1)[:, : layer.k]
    capacity = np.inf
    if layer.capacity_factor is not None:
        capacity = max(1, np.ceil(layer.k * valid.sum() / layer.experts * layer.capacity_factor))
    taken, outputs, dropped = np.zeros(layer.experts), np.zeros_like(x), 0
    for choice in range(layer.k):
        for token in np.flatnonzero(valid):
            expert = order[token, choice]
            if taken[expert] >= capacity:
                dropped += 1
                continue
            taken[expert] += 1
            weight = softmax(scores[token, order[token]])[choice]
            outputs[token] += weight * perceptron(layer, expert, x[token])
    shares = np.array([(order[valid] == expert).sum() for expert in range(layer.experts)]) / max(valid.sum(), 1)
    balance = layer.experts * (shares * softmax(scores[valid], axis=1).mean(0)).sum()
    return outputs, balance, layer.k * valid.sum(), dropped


@pytest.mark.parametrize("experts", [1, 3, 6])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("capacity_factor", [None, 0.5, 1.25])
def test_equals_a_loop_over_tokens(experts, k, capacity_factor):
    if k > experts:
        with pytest.raises(ValueError, match="`k` must be between 1 and the"):
            drawn(experts, k=k)
        return
    layer, (x, valid) = drawn(experts, k=k, capacity_factor=capacity_factor), draw()
    mixture = layer(x, valid, training=True)
    outputs, balance, choices, dropped = reference(layer, x, valid)
    np.testing.assert_allclose(mixture.outputs, outputs, rtol=1e-4, atol=1e-5)
    assert float(mixture.balance) == pytest.approx(balance, rel=1e-5)
    assert (float(mixture.choices), float(mixture.dropped)) == (choices, dropped)
    assert dropped > 0 or capacity_factor != 0.5
    layer.capacity_factor = None
    whole, (expected, *_) = layer(x, valid), reference(layer, x, valid)
    np.testing.assert_allclose(whole.outputs, expected, rtol=1e-4, atol=1e-5)
    layer.capacity_factor = capacity_factor
    for one, two in zip(layer(x, valid), whole, strict=True):  # nothing is dropped outside training
        np.testing.assert_array_equal(one, two)


def test_weights_are_the_largest_of_the_full_softmax_made_to_add_up():
    layer, (x, _) = drawn(k=4), draw()
    every = softmax(x @ np.asarray(layer.gate), axis=1)
    expected = [sum(p[e] * perceptron(layer, e, token) for e in range(4)) for p, token in zip(every, x, strict=True)]
    np.testing.assert_allclose(layer(x, np.ones(11, bool)).outputs, expected, rtol=1e-4, atol=1e-5)


def test_one_expert_is_a_dense_layer_and_even_experts_are_balanced():
    layer, (x, valid) = drawn(1, k=1), draw()
    np.testing.assert_allclose(
        np.asarray(layer(x, valid).outputs)[valid], [perceptron(layer, 0, token) for token in x[valid]], rtol=1e-4
    )
    even = drawn(5, k=1, width=5)
    even.gate.assign(np.eye(5))  # each token to its own
    assert float(even(np.eye(5, dtype=np.float32), np.ones(5, bool)).balance) == pytest.approx(1.0, rel=1e-6)
    even.gate.assign(np.zeros((5, 5)))  # all to the same one, without knowing better
    assert float(even(x, valid).balance) == pytest.approx(1.0, rel=1e-6)
    even.gate.assign(100 * np.eye(5)[:, [0] * 5] * (np.arange(5) == 2))
    assert float(even(np.abs(x) + 1, valid).balance) == pytest.approx(5.0, rel=1e-4)  # all to one, and sure of it


def test_order_and_axes_of_tokens_do_not_matter_and_padding_does_nothing():
    layer, (x, valid) = drawn(), draw(12)
    expected = layer(x, valid)
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_allclose(layer(x[order], valid[order]).outputs, np.asarray(expected.outputs)[order], atol=1e-5)
    folded = layer(x.reshape(3, 4, 5), valid.reshape(3, 4))
    np.testing.assert_allclose(folded.outputs, np.asarray(expected.outputs).reshape(3, 4, 5), atol=1e-6)
    tight = drawn(capacity_factor=0.5)
    other = np.where(valid[:, None], x, 7)
    for one, two in zip(tight(x, valid, training=True), tight(other, valid, training=True), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
    assert (np.asarray(expected.outputs)[~valid] == 0).all()


def test_experts_that_nobody_chose_and_tokens_that_were_dropped_have_no_gradient():
    layer, (x, _) = drawn(4, k=1), draw(6)
    layer.gate.assign(np.eye(5, 4) * [1, 1, 0, 0])  # the third and the fourth: only where both others are negative
    x = np.abs(x)
    layer.capacity_factor = 0.1  # one place each
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        mixture = layer(x, np.ones(6, bool), training=True)
        total = tf.reduce_sum(mixture.outputs**2)
    kernel, inputs = tape.gradient(total, [layer.expand.value, x])
    largest = np.abs(kernel).max(axis=(1, 2))
    assert (largest[:2] > 0).all()
    assert (largest[2:] == 0).all()
    dropped = (np.asarray(mixture.outputs) == 0).all(axis=1)
    assert dropped.sum() == float(mixture.dropped) == 4
    assert (np.abs(inputs)[dropped] == 0).all()
    assert (np.abs(inputs)[~dropped].max(axis=1) > 0).all()


def test_two_replicas_compute_what_one_does():
    x, valid = draw(12)

    def on(replicas):
        strategy = mirrored([f"CPU:{i}" for i in range(replicas)])
        with strategy.scope():
            layer = drawn()
        parts = tf.data.Dataset.from_tensor_slices((x, valid)).batch(12)
        if replicas == 2:
            parts = parts.unbatch().batch(6)

        def step(x, valid):
            with tf.GradientTape() as tape:
                mixture = layer(x, valid)
                loss = tf.reduce_sum(mixture.outputs**2) + mixture.balance
            gradients = tape.gradient(loss, layer.trainable_weights)
            return tf.distribute.get_replica_context().all_reduce(
                "SUM", [mixture.balance, *map(tf.convert_to_tensor, gradients)]
            )

        (part,) = strategy.distribute_datasets_from_function(lambda _: parts)
        return [strategy.experimental_local_results(value)[0].numpy() for value in strategy.run(step, part)]

    for one, two in zip(on(1), on(2), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)
