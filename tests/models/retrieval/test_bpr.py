import numpy as np
import pytest
import tensorflow as tf

from models.retrieval.bpr import Bpr
from tests.models.retrieval.drawn_interactions import draw_interactions

BATCH = {"user": np.int32([0, 4, 4]), "item": np.int32([1, 2, 3]), "negative": np.int32([5, 0, 6])}


def make(**config):
    model = Bpr(30, 24, config={"dim": 4, **config})
    model.adapt(draw_interactions())
    return model


@pytest.mark.parametrize("regularization", [0.0, 0.7])
def test_the_loss_is_that_of_numpy(regularization):
    model = make(regularization=regularization)
    users, items = model.vectors()
    user, item, negative = users[BATCH["user"]], items[BATCH["item"]], items[BATCH["negative"]]
    expected = np.mean(np.log1p(np.exp((user * negative).sum(1) - (user * item).sum(1))))
    expected += regularization * sum(np.linalg.norm(each) for each in (user, item, negative)) / 3
    assert float(model.compute_loss(BATCH)) == pytest.approx(expected, rel=1e-5)
    scores = model(BATCH)
    np.testing.assert_allclose(scores, np.stack([(user * item).sum(1), (user * negative).sum(1)], 1), rtol=1e-5)


def test_only_rows_of_the_batch_have_a_gradient():
    model = make(regularization=0.5)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(BATCH)
    of_users, of_items = (tf.convert_to_tensor(each).numpy() for each in tape.gradient(loss, model.trainable_variables))
    assert set(np.flatnonzero(of_users.any(axis=1))) == {0, 4}
    assert set(np.flatnonzero(of_items.any(axis=1))) == {0, 1, 2, 3, 5, 6}
