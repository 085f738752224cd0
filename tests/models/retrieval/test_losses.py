import numpy as np
import pytest
import tensorflow as tf

from models.retrieval.losses import bpr_loss, info_nce, norm_penalty, squared_penalty


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 7])
def test_bpr(batch):
    positive, negative = draw(batch), draw(batch, seed=1)
    expected = np.mean(-np.log(1 / (1 + np.exp(negative - positive))))
    assert float(bpr_loss(positive, negative)) == pytest.approx(expected, rel=1e-5)
    assert float(bpr_loss(positive, positive)) == pytest.approx(np.log(2))
    assert float(bpr_loss(positive + 5, negative + 5)) == pytest.approx(expected, rel=1e-5)
    assert float(bpr_loss(np.float32([1000]), np.float32([-1000]))) == 0
    assert float(bpr_loss(np.float32([-1000]), np.float32([1000]))) == 2000


def test_penalties():
    one, other = draw(4, 3), draw(4, 2, seed=1)
    expected = (np.sqrt((one**2).sum()) + np.sqrt((other**2).sum())) / 4
    assert float(norm_penalty(one, other)) == pytest.approx(expected, rel=1e-5)
    assert float(squared_penalty(one, other)) == pytest.approx(((one**2).sum() + (other**2).sum()) / 8, rel=1e-5)
    zeros = tf.zeros((4, 3))
    with tf.GradientTape() as tape:
        tape.watch(zeros)
        penalty = norm_penalty(zeros)
    assert not np.any(tape.gradient(penalty, zeros))


@pytest.mark.parametrize(("batch", "temperature"), [(1, 0.2), (6, 1.0), (6, 0.2)])
def test_info_nce(batch, temperature):
    queries, keys = draw(batch, 5), draw(batch, 5, seed=1)
    q, k = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (queries, keys))
    logits = np.exp(q @ k.T / temperature)
    expected = -np.mean(np.log(np.diag(logits) / logits.sum(axis=1)))
    assert float(info_nce(queries, keys, temperature)) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert float(info_nce(3 * queries, keys / 2, temperature)) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    same = np.ones((batch, 5), np.float32)
    assert float(info_nce(same, same, temperature)) == pytest.approx(np.log(batch), abs=1e-6)
