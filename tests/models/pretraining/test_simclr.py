import keras
import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.simclr import SimCLR, nt_xent
from tests.models.courier_batch import Table


def reference(one, other, counted, temperature):
    """The equation, view by view."""
    views = [(n, v / np.linalg.norm(v)) for view in (one, other) for n, v in enumerate(view.astype(float))]
    views = [(n, v) for n, v in views if counted[n]]
    total = 0.0
    for i, (n, anchor) in enumerate(views):
        exponents = {j: anchor @ v / temperature for j, (_, v) in enumerate(views) if j != i}
        (positive,) = (exponents[j] for j, (m, _) in enumerate(views) if m == n and j != i)
        total += np.log(sum(np.exp(e - positive) for e in exponents.values()))
    return total


def loss(one, other, counted=None, temperature=0.2):
    counted = np.ones(one.shape[0], bool) if counted is None else counted
    return nt_xent(
        one,
        other,
        counted,
        every=(one, other),
        every_counted=counted,
        rows=np.arange(one.shape[0], dtype=np.int32),
        temperature=temperature,
    )


def draw(rows, dim, seed=0):
    rng = np.random.default_rng(seed)
    one, other = rng.normal(size=(2, rows, dim)).astype(np.float32)
    return one, other, rng.random(rows) < 0.7


@pytest.mark.parametrize("rows", [1, 2, 5, 30])
@pytest.mark.parametrize("dim", [1, 3, 16])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_equals_the_equation(rows, dim, temperature):
    one, other, counted = draw(rows, dim, seed=rows)
    expected = reference(one, other, counted, temperature)
    np.testing.assert_allclose(loss(one, other, counted, temperature), expected, rtol=2e-4, atol=1e-4)


def test_collapse_is_the_logarithm_of_all_other_views():
    same = np.ones((9, 4), np.float32)
    counted = np.arange(9) < 7
    np.testing.assert_allclose(loss(same, same, counted), 14 * np.log(13), rtol=1e-6)


def test_views_and_pictures_may_change_places():
    one, other, counted = draw(12, 4)
    expected = float(loss(one, other, counted))
    assert float(loss(other, one, counted)) == pytest.approx(expected, rel=1e-5)
    order = np.random.default_rng(1).permutation(12)
    assert float(loss(one[order], other[order], counted[order])) == pytest.approx(expected, rel=1e-5)


def test_padding_has_no_gradient_and_is_no_negative():
    one, other, _ = draw(6, 3)
    counted = np.array([1, 1, 1, 1, 0, 0], bool)
    one, other = tf.Variable(one), tf.Variable(other)
    with tf.GradientTape() as tape:
        total = loss(one, other, counted)
    for gradient in tape.gradient(total, [one, other]):
        largest = np.abs(tf.convert_to_tensor(gradient)).max(axis=1)
        assert (largest[counted] > 0).all()
        assert (largest[~counted] == 0).all()
    assert float(loss(one, other, np.zeros(6, bool))) == 0.0


@pytest.mark.parametrize("picture_id", [[4, 2, 9, -1], [4, 2, 9, 7]])
def test_the_loss_of_a_batch_is_the_mean_over_views(picture_id):
    batch = {
        "pictures": tf.constant(np.tile(np.arange(4)[:, None, None, None], (1, 2, 2, 3)), tf.uint8),
        "picture_id": tf.constant(picture_id),
    }
    keras.utils.set_random_seed(0)
    model = SimCLR(Table(), hidden_dim=6, projection_dim=5, augmentation_strength=0.0)
    y_pred = model(batch, training=True)
    actual = float(model.compute_loss(x=batch, y_pred=y_pred))
    counted = np.array(picture_id) >= 0
    expected = reference(y_pred["view_1"].numpy(), y_pred["view_2"].numpy(), counted, 0.2) / (2 * counted.sum())
    assert actual == pytest.approx(expected, rel=1e-4, abs=1e-5)
    metrics = model.get_metrics_result()
    assert float(metrics["positive_similarity"]) == pytest.approx(1, abs=1e-5)  # equal views
    unit = y_pred["view_1"].numpy()[counted]
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    others = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)].mean()
    assert float(metrics["negative_similarity"]) == pytest.approx(others, abs=1e-5)
