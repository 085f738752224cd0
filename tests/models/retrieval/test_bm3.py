import numpy as np
import pytest
import tensorflow as tf

from models.retrieval.bm3 import Bm3
from tests.models.retrieval.numpy_recommenders import BATCH, dense, light_gcn, make, unit, weights


def distance(one, other):
    return 1 - np.mean((unit(one) * unit(other)).sum(axis=1))


@pytest.mark.parametrize(("layers", "regularization", "feature_weight"), [(0, 0.0, 0.0), (1, 0.1, 2.0), (2, 0.0, 1.0)])
def test_the_loss_is_that_of_numpy(layers, regularization, feature_weight):
    model = make(Bm3, layers=layers, regularization=regularization, feature_weight=feature_weight, dropout=0.0)
    values = weights(model)
    vectors = light_gcn(np.concatenate([values["user_embeddings"], values["item_embeddings"]]), layers)
    users, items = vectors[:30], vectors[30:] + values["item_embeddings"]
    user, item = users[BATCH["user"]], items[BATCH["item"]]
    expected = distance(dense(values, "predictor", user), item) + distance(dense(values, "predictor", item), user)
    for kind, features in enumerate(model.features):
        feature = dense(values, f"projection_{kind}", features.numpy()[BATCH["item"]])
        predicted = dense(values, "predictor", feature)
        expected += feature_weight * (distance(predicted, item) + distance(predicted, feature))
    expected += regularization * (np.linalg.norm(items) + np.linalg.norm(users)) / 24
    assert float(model.compute_loss(BATCH)) == pytest.approx(expected, rel=1e-5)
    for vectors, made in zip((users, items), model.vectors(), strict=True):
        np.testing.assert_allclose(made, dense(values, "predictor", vectors), rtol=1e-4, atol=1e-6)


def test_targets_have_no_gradient():
    """Without propagation, a user's embedding moves by what is predicted from it alone."""
    model = make(Bm3, layers=0, regularization=0.0, feature_weight=0.0, dropout=0.0)
    table, batch = model.user_embeddings.value, {**BATCH, "item": BATCH["item"]}
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch)
    whole = tf.convert_to_tensor(tape.gradient(loss, table))
    with tf.GradientTape() as tape:
        user = model.predictor(tf.gather(table, batch["user"]))
        target = 2 * tf.gather(model.item_embeddings.value, batch["item"])
        cosines = tf.reduce_sum(tf.math.l2_normalize(user, 1) * tf.math.l2_normalize(target, 1), 1)
        alone = -tf.reduce_mean(cosines)
    np.testing.assert_allclose(whole, tf.convert_to_tensor(tape.gradient(alone, table)), atol=1e-6)


def test_negative_items_have_no_part_and_no_gradient():
    model = make(Bm3, layers=0, regularization=0.0, dropout=0.0)
    other = {**BATCH, "negative": np.int32([9, 10, 11])}
    assert float(model.compute_loss(BATCH)) == float(model.compute_loss(other))
    with tf.GradientTape() as tape:
        loss = model.compute_loss(BATCH)
    gradient = tf.convert_to_tensor(tape.gradient(loss, model.item_embeddings.value)).numpy()
    assert set(np.flatnonzero(gradient.any(axis=1))) == {1, 2, 3}


def test_dropout_changes_targets_in_training_alone():
    model = make(Bm3, dropout=0.5)
    training = [float(model.compute_loss(BATCH)) for _ in range(2)]
    validation = [float(model.compute_loss(BATCH, training=False)) for _ in range(2)]
    assert training[0] != training[1]
    assert validation[0] == validation[1]
