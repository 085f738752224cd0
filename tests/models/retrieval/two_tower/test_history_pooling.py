import numpy as np
import tensorflow as tf

from models.retrieval.two_tower.history_pooling import HistoryPooling

STEPS = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
PRESENT = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)


def made(trained=True):
    pooling = HistoryPooling(6, 5)
    pooling.build()
    random = np.random.default_rng(1)
    for weight in pooling.weights if trained else pooling.weights[-1:]:
        weight.assign(random.normal(size=weight.shape))
    return pooling


def test_the_pooled_vector_is_that_of_numpy():
    pooling = made()
    query, recency, beginning = (weight.numpy() for weight in pooling.weights)
    for row, steps, present in zip(pooling(STEPS, PRESENT).numpy(), STEPS, PRESENT, strict=True):
        vectors = np.concatenate([beginning, steps[present]])
        weights = np.exp(vectors @ query + np.concatenate([[0], recency[: present.sum()]]))
        np.testing.assert_allclose(row, weights / weights.sum() @ vectors, rtol=1e-5, atol=1e-6)


def test_before_training_it_is_the_mean_and_an_empty_history_the_beginning():
    pooling = made(trained=False)
    beginning = pooling.weights[-1].numpy()
    pooled = pooling(STEPS, PRESENT).numpy()
    np.testing.assert_allclose(pooled[0], (STEPS[0].sum(axis=0) + beginning[0]) / 5, rtol=1e-5)
    np.testing.assert_allclose(pooled[2], beginning[0], rtol=1e-6)


def test_padding_counts_for_nothing():
    pooling = made()
    damaged = np.where(PRESENT[:, :, None], STEPS, np.float32(np.nan))
    np.testing.assert_array_equal(pooling(damaged, PRESENT), pooling(STEPS, PRESENT))
    np.testing.assert_allclose(pooling(STEPS[1:2, :2], PRESENT[1:2, :2]), pooling(STEPS, PRESENT)[1:2], rtol=1e-6)
    steps = tf.constant(STEPS)
    with tf.GradientTape() as tape:
        tape.watch(steps)
        total = tf.reduce_sum(pooling(steps, PRESENT) ** 2)
    assert (tape.gradient(total, steps).numpy().any(axis=2) == PRESENT).all()


def test_no_pages():
    assert made()(STEPS[:0], PRESENT[:0]).shape == (0, 5)
    assert made()(STEPS[:, :0], PRESENT[:, :0]).shape == (3, 5)
