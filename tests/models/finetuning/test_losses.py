import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from models.finetuning.losses import label_cross_entropy, product_contrast


def cross_entropy_by_definition(logits, labels):
    total = 0.0
    for row, label in zip(np.float64(logits), labels, strict=True):
        if label >= 0:
            shares = np.exp(row - row.max())
            total -= math.log(shares[label] / shares.sum())
    return total


def contrast_by_definition(embeddings, products, temperature):
    """Picture by picture, pair by pair."""
    embeddings, total, count = np.float64(embeddings), 0.0, 0
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for i, product in enumerate(products):
        others = [a for a in range(len(products)) if a != i and products[a] >= 0]
        same = [p for p in others if products[p] == product]
        if product < 0 or not same:
            continue
        exponentials = {a: math.exp(unit[i] @ unit[a] / temperature) for a in others}
        total -= np.mean([math.log(exponentials[p] / sum(exponentials.values())) for p in same])
        count += 1
    return total, count


def contrast(embeddings, products, temperature=0.2):
    products = tf.constant(products, tf.int64)
    own = tf.eye(len(products), dtype=tf.bool) if len(products) else tf.zeros((0, 0), tf.bool)
    return product_contrast(embeddings, products, embeddings, products, own, temperature=temperature)


@pytest.mark.parametrize(("pictures", "classes"), itertools.product((0, 1, 7), (2, 5)))
def test_cross_entropy_equals_definition(pictures, classes):
    random = np.random.default_rng(pictures * 10 + classes)
    logits = random.normal(0, 3, (pictures, classes)).astype(np.float32)
    labels = random.integers(-1, classes, pictures)
    loss = label_cross_entropy(tf.constant(logits), tf.constant(labels))
    assert float(loss) == pytest.approx(cross_entropy_by_definition(logits, labels), rel=1e-5, abs=1e-6)


def test_equal_logits_cost_the_logarithm_of_the_classes():
    assert float(label_cross_entropy(tf.zeros((3, 7)), tf.constant([0, 6, -1]))) == pytest.approx(2 * math.log(7))


def test_pictures_without_a_label_have_no_gradient():
    logits = tf.constant(np.random.default_rng(0).normal(size=(4, 3)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = label_cross_entropy(logits, tf.constant([1, -1, 2, -1]))
    gradient = tape.gradient(loss, logits).numpy()
    assert not gradient[[1, 3]].any()
    assert gradient[[0, 2]].all()


@pytest.mark.parametrize(
    "products", [[], [0], [0, 0], [0, 1, 2], [0, 0, 1, 1, 1, 2], [3, -1, 3, 4, 4, -1, 9], [-1, -1]]
)
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_contrast_equals_definition(products, temperature):
    embeddings = np.random.default_rng(len(products)).normal(size=(len(products), 4)).astype(np.float32)
    loss, count = contrast(tf.constant(embeddings), products, temperature)
    expected, expected_count = contrast_by_definition(embeddings, products, temperature)
    assert float(loss) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert count == expected_count


def test_equal_pictures_cost_the_logarithm_of_the_others():
    loss, count = contrast(tf.ones((6, 3)), [0, 0, 1, 1, 2, 3])
    assert float(loss) == pytest.approx(4 * math.log(5))
    assert count == 4


def test_contrast_knows_neither_order_nor_scale():
    random = np.random.default_rng(5)
    embeddings, products = random.normal(size=(8, 4)).astype(np.float32), np.array([0, 0, 1, 1, 1, 2, 3, 3])
    loss = float(contrast(tf.constant(embeddings), products)[0])
    order = random.permutation(8)
    scaled = embeddings * random.uniform(0.5, 3, (8, 1)).astype(np.float32)
    assert float(contrast(tf.constant(embeddings[order]), products[order])[0]) == pytest.approx(loss, rel=1e-5)
    assert float(contrast(tf.constant(scaled), products + 7)[0]) == pytest.approx(loss, rel=1e-5)


def test_padding_and_batches_without_pairs_have_no_gradient():
    embeddings = tf.constant(np.random.default_rng(2).normal(size=(5, 4)), tf.float32)

    def gradient(products):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            loss, _ = contrast(embeddings, products)
        return tape.gradient(loss, embeddings).numpy()

    padded = gradient([0, 0, -1, 1, 1])
    assert not padded[2].any()
    assert np.abs(padded[[0, 1, 3, 4]]).max(axis=1).all()
    assert gradient([0, 0, 1, -1, -1])[2].any()  # alone, it is what others are told from
    assert not gradient([0, 1, 2, 3, 4]).any()


def test_parts_of_replicas_add_up():
    embeddings = tf.constant(np.random.default_rng(3).normal(size=(6, 4)), tf.float32)
    products = tf.constant([0, 1, 0, 1, 2, 2], tf.int64)
    whole, count = contrast(embeddings, products)
    eye = tf.eye(6, dtype=tf.bool)
    parts = [
        product_contrast(embeddings[s], products[s], embeddings, products, eye[s], temperature=0.2)
        for s in (slice(0, 2), slice(2, 6))
    ]
    assert float(sum(loss for loss, _ in parts)) == pytest.approx(float(whole), rel=1e-6)
    assert sum(each for _, each in parts) == count == 6
