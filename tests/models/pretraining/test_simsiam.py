import keras
import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.simsiam import SimSiam
from tests.models.courier_batch import Table


def batch(picture_id=(3, 5, 8, 9, -1)):
    n = len(picture_id)
    pictures = np.tile(np.arange(10, 10 + n)[:, None, None, None], (1, 2, 2, 3)).astype(np.uint8)
    return {"pictures": tf.constant(pictures), "picture_id": tf.constant(picture_id)}


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return SimSiam(Table(), projection_dim=6, hidden_dim=4)


def outputs(rows, dim, seed=0, counted=None):
    drawn = np.random.default_rng(seed).normal(size=(4, rows, dim)).astype(np.float32)
    names = ("view_1", "view_2", "predicted_from_1", "predicted_from_2")
    counted = np.ones(rows, bool) if counted is None else counted
    return {**{name: tf.Variable(values) for name, values in zip(names, drawn, strict=True)}, "counted": counted}


def loss(model, y_pred):
    return model.loss_part({}, y_pred, float(np.sum(y_pred["counted"])), True)


def cosines(one, other):
    one, other = (np.asarray(v, float) / np.linalg.norm(v, axis=1, keepdims=True) for v in (one, other))
    return (one * other).sum(axis=1)


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("dim", [1, 3, 16])
def test_equals_the_equation(model, rows, dim):
    counted = np.arange(rows) % 3 < 2
    y_pred = outputs(rows, dim, rows, counted)
    halves = cosines(y_pred["predicted_from_1"], y_pred["view_2"]) + cosines(
        y_pred["predicted_from_2"], y_pred["view_1"]
    )
    assert float(loss(model, y_pred)) == pytest.approx(-halves[counted].mean() / 2, abs=1e-5)


def test_perfect_predictions_have_a_loss_of_minus_one_and_views_may_change_places(model):
    y_pred = outputs(5, 4)
    others = {"view_1": "view_2", "predicted_from_1": "predicted_from_2"}
    others |= {there: here for here, there in others.items()}
    swapped = {name: y_pred[other] for name, other in others.items()}
    assert float(loss(model, {**swapped, "counted": y_pred["counted"]})) == pytest.approx(float(loss(model, y_pred)))
    perfect = {**y_pred, "predicted_from_1": y_pred["view_2"], "predicted_from_2": 3 * y_pred["view_1"]}
    assert float(loss(model, perfect)) == pytest.approx(-1, abs=1e-6)


def test_targets_and_padding_have_no_gradient(model):
    counted = np.array([1, 1, 1, 0], bool)
    y_pred = outputs(4, 3, counted=counted)
    with tf.GradientTape() as tape:
        value = loss(model, y_pred)
    targets = tape.gradient(value, [y_pred["view_1"], y_pred["view_2"]])
    assert targets == [None, None]
    with tf.GradientTape() as tape:
        value = loss(model, y_pred)
    predictions = tape.gradient(value, [y_pred["predicted_from_1"], y_pred["predicted_from_2"]])
    for gradient in predictions:
        largest = np.abs(gradient).max(axis=1)
        assert (largest[counted] > 0).all()
        assert (largest[~counted] == 0).all()


def test_the_branch_of_a_prediction_is_the_only_one_that_learns(model):
    """Of the whole network: nothing moves the projections but what goes through the predictor."""
    model.predictor.dense[1].kernel.assign(tf.zeros_like(model.predictor.dense[1].kernel))
    with tf.GradientTape() as tape:
        y_pred = model(batch(), training=True)
        value = model.compute_loss(x=batch(), y_pred=y_pred)
    gradient = tf.convert_to_tensor(tape.gradient(value, model.encoder.trainable_weights[0]))
    assert np.abs(gradient).max() == 0
    assert np.isfinite(float(value))
