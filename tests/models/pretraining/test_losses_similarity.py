import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.losses import negative_similarity


def draw(rows, dim, seed=0):
    rng = np.random.default_rng(seed)
    embeddings, reconstructions = rng.normal(size=(2, rows, dim)).astype(np.float32)
    return embeddings, reconstructions, rng.random(rows) < 0.5


@pytest.mark.parametrize("shape", [(1, 1), (4, 3), (30, 8)])
def test_is_minus_the_cosine_of_the_positives(shape):
    embeddings, reconstructions, positive = draw(*shape)
    expected = 0.0
    for row in np.flatnonzero(positive):
        e, r = embeddings[row], reconstructions[row]
        expected -= e @ r / np.linalg.norm(e) / np.linalg.norm(r)
    assert float(negative_similarity(embeddings, reconstructions, positive)) == pytest.approx(expected, rel=1e-5)


def test_bounds_are_met_and_lengths_do_not_matter():
    embeddings, _, _ = draw(5, 4)
    everyone = np.ones(5, bool)
    assert float(negative_similarity(embeddings, 3 * embeddings, everyone)) == pytest.approx(-5, rel=1e-6)
    assert float(negative_similarity(embeddings, -embeddings, everyone)) == pytest.approx(5, rel=1e-6)


def test_the_target_has_no_gradient_and_the_reconstruction_of_positives_has():
    embeddings, reconstructions, positive = draw(12, 4)
    embeddings, reconstructions = tf.Variable(embeddings), tf.Variable(reconstructions)
    with tf.GradientTape() as tape:
        loss = negative_similarity(embeddings, reconstructions, positive)
    target, learner = tape.gradient(loss, [embeddings, reconstructions])
    assert target is None  # stopped, not small
    columns = np.abs(learner).max(axis=1)
    assert (columns[positive] > 0).all()
    assert (columns[~positive] == 0).all()
