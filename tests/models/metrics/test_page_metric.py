"""GAUC and COPC as Keras metrics."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.metrics.calibration import copc
from models.metrics.copc import COPC
from models.metrics.gauc import GAUC

METRICS = [GAUC, COPC]


def pages(seed, batch, candidates, levels=5, full=False):
    """Labels with padding at the end (at least one candidate stays), predictions with ties in (0, 1)."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((batch, candidates)) < 0.3).astype(np.int64)
    predictions = ((rng.integers(0, levels, labels.shape) + 0.5) / levels).astype(np.float32)
    padding = np.arange(candidates) >= rng.integers(1, candidates + 1, (batch, 1))
    if not full:
        labels[padding], predictions[padding] = -1, np.nan
    return labels, predictions


def gauc_by_pairs(labels, predictions, weights, average="mean"):
    """One pair after the other."""
    total = count = 0.0
    for label, prediction, weight in zip(labels, predictions, weights, strict=True):
        there = [n for n in range(len(label)) if label[n] >= 0 and weight[n] > 0]
        won = pairs = 0.0
        for i in there:
            for j in there:
                if label[i] == 1 and label[j] == 0:
                    pairs += weight[i] * weight[j]
                    won += (
                        weight[i]
                        * weight[j]
                        * (1.0 if prediction[i] > prediction[j] else 0.5 if prediction[i] == prediction[j] else 0.0)
                    )
        if pairs:
            page_weight = sum(weight[n] for n in there) / (len(there) if average == "mean" else 1)
            total += page_weight * won / pairs
            count += page_weight
    return total / count if count else np.nan


def copc_by_candidates(labels, predictions, weights, rate):
    clicks = predicted = 0.0
    for label, prediction, weight in zip(labels.ravel(), predictions.ravel(), weights.ravel(), strict=True):
        if label >= 0 and weight > 0:
            clicks += label * rate * weight
            predicted += prediction * weight * (rate if label else 1.0)
    return clicks / predicted


def result(metric, *batches):
    for batch in batches:
        metric.update_state(*batch)
    return float(metric.result())


@pytest.mark.parametrize("average", ["mean", "impressions"])
@pytest.mark.parametrize("levels", [1, 3, 1000])
@pytest.mark.parametrize(("batch", "candidates"), [(1, 1), (1, 2), (1, 7), (5, 2), (16, 9), (3, 40)])
def test_gauc_counts_pairs(batch, candidates, levels, average):
    labels, predictions = pages(batch + candidates, batch, candidates, levels)
    ones = np.ones(labels.shape)
    expected = gauc_by_pairs(labels, predictions, ones, average)
    assert result(GAUC(average), (labels, predictions)) == pytest.approx(expected, rel=1e-6, nan_ok=True)
    weights = np.random.default_rng(0).choice([0.0, 0.5, 1.0, 3.0], labels.shape)
    expected = gauc_by_pairs(labels, predictions, weights, average)
    assert result(GAUC(average), (labels, predictions, weights)) == pytest.approx(expected, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("rate", [1.0, 0.1])
@pytest.mark.parametrize(("batch", "candidates"), [(1, 1), (1, 7), (5, 2), (16, 9)])
def test_copc_counts_clicks(batch, candidates, rate):
    labels, predictions = pages(batch + candidates, batch, candidates, levels=1000)
    there = labels >= 0
    expected = copc(predictions[there], labels[there] == 1, rate)
    assert result(COPC(rate), (labels, predictions)) == pytest.approx(expected, rel=1e-5)
    with np.errstate(invalid="ignore"):
        logits = np.log(predictions / (1 - predictions))
    assert result(COPC(rate, from_logits=True), (labels, logits)) == pytest.approx(expected, rel=1e-5)
    weights = np.random.default_rng(1).choice([0.0, 0.5, 2.0], labels.shape, p=[0.2, 0.4, 0.4]) + 1e-3
    expected = copc_by_candidates(labels, predictions, weights, rate)
    assert result(COPC(rate), (labels, predictions, weights)) == pytest.approx(expected, rel=1e-5)


def test_gauc_closed_forms():
    clicked = [[0, 1, 0, 1]]
    assert result(GAUC(), (clicked, [[0.1, 0.8, 0.2, 0.9]])) == 1.0
    assert result(GAUC(), (clicked, [[0.9, 0.2, 0.8, 0.1]])) == 0.0
    assert result(GAUC(), (clicked, [[0.5, 0.5, 0.5, 0.5]])) == 0.5
    assert result(GAUC(), (clicked, [[0.1, 0.2, 0.3, 0.4]])) == 0.75
    assert result(GAUC(), (clicked, [[-np.inf, np.inf, np.inf, 3.0]])) == 0.75 - 0.125
    two = ([[1, 0, -1], [1, 0, 0]], [[0.9, 0.1, 0.0], [0.2, 0.2, 0.1]])  # AUC of 1 and 3/4
    assert result(GAUC(), two) == pytest.approx((1 + 0.75) / 2)
    assert result(GAUC("impressions"), two) == pytest.approx((2 * 1 + 3 * 0.75) / 5)


def test_pages_of_one_class_are_left_out():
    of_one_class = ([[1, 1, -1], [0, 0, 0]], [[0.9, 0.1, 0.0], [0.2, np.nan, 0.1]])
    assert np.isnan(result(GAUC(), of_one_class))
    both = ([[1, 0, -1]], [[0.9, 0.1, 0.0]])
    assert result(GAUC(), of_one_class, both) == 1.0


def test_predictions_that_are_nan_are_not_hidden():
    batch = ([[1, 0, 0], [0, 1, 0]], [[0.3, 0.2, np.nan], [0.1, 0.2, 0.3]])
    assert np.isnan(result(GAUC(), batch))
    assert np.isnan(result(COPC(), batch))


@pytest.mark.parametrize("average", ["mean", "impressions"])
def test_gauc_depends_on_order_inside_pages_alone(average):
    labels, predictions = pages(3, 12, 8)
    labels[0, :3], predictions[0, :3] = [0, 1, 0], [0.1, 0.3, 0.3]
    expected = result(GAUC(average), (labels, predictions))
    per_page = 2.0 ** np.random.default_rng(0).integers(-3, 4, (12, 1)).astype(np.float32)
    assert result(GAUC(average), (labels, per_page * predictions - 1)) == expected
    assert result(GAUC(average), (labels[::-1], predictions[::-1])) == pytest.approx(expected, rel=1e-6)
    assert result(GAUC(average), (labels[:, ::-1], predictions[:, ::-1])) == pytest.approx(expected, rel=1e-6)
    assert result(GAUC(average), (labels, -predictions)) == pytest.approx(1 - expected, rel=1e-5)


@pytest.mark.parametrize("make", METRICS)
def test_padding_means_nothing_however_it_is_marked(make):
    labels, predictions = pages(4, 9, 6)
    there = labels >= 0
    expected = result(make(), (labels, predictions))
    assert np.isfinite(expected)
    as_zero = np.where(there, labels, 0)
    assert result(make(), (as_zero, predictions, there.astype(np.float32))) == expected
    masked = tf.constant(predictions)
    masked._keras_mask = tf.constant(there)
    assert result(make(), (as_zero, masked)) == expected
    wider = [
        np.pad(values, ((0, 2), (0, 3)), constant_values=fill) for values, fill in ((labels, -1), (predictions, 7))
    ]
    assert result(make(), wider) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("make", METRICS)
def test_a_page_of_weight_two_counts_as_two_pages(make):
    labels, predictions = pages(5, 6, 8)
    times = np.array([1, 2, 3, 1, 2, 1])
    repeated = np.repeat(labels, times, axis=0), np.repeat(predictions, times, axis=0)
    expected = result(make(), repeated)
    assert result(make(), (labels, predictions, times)) == pytest.approx(expected, rel=1e-6)
    assert result(make(), (labels, predictions, times[:, None])) == pytest.approx(expected, rel=1e-6)
    assert result(make(), (labels, predictions)) != pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("make", METRICS)
def test_batches_add_up_and_reset_forgets(make):
    labels, predictions = pages(6, 20, 5)
    whole = result(make(), (labels, predictions))
    metric = make()
    for _ in range(2):
        parts = [(labels[rows], predictions[rows]) for rows in np.split(np.arange(20), [3, 4, 11])]
        assert result(metric, *parts) == pytest.approx(whole, rel=1e-6)
        metric.reset_state()
    assert np.isnan(float(metric.result()))


@pytest.mark.parametrize("make", METRICS)
@pytest.mark.parametrize("compiled", [False, True])
def test_graphs_with_unknown_sizes_and_half_precision(make, compiled):
    labels, predictions = pages(7, 10, 8, levels=8)  # levels that float16 and bfloat16 tell apart
    expected = result(make(), (labels, predictions))
    for dtype in (tf.float16, tf.bfloat16):
        metric = make()
        update = tf.function(
            metric.update_state,
            input_signature=[tf.TensorSpec((None, None), tf.int64), tf.TensorSpec((None, None), dtype)],
            jit_compile=compiled,
        )
        for rows in (slice(0, 4), slice(4, 10)):
            update(tf.constant(labels[rows]), tf.cast(predictions[rows], dtype))
        assert float(metric.result()) == pytest.approx(expected, rel=1e-6)
        assert metric.total.dtype == "float32"


@pytest.mark.parametrize("metric", [GAUC("impressions", name="by_size"), COPC(0.25, from_logits=True, dtype="float64")])
def test_config_makes_the_same_metric(metric):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(again) is type(metric)
    assert again.get_config() == metric.get_config()


def test_errors():
    with pytest.raises(ValueError, match=r'`average` must be "mean" or "impressions"\. Received: average=\'users\''):
        GAUC("users")
    for rate in (0.0, 1.5):
        with pytest.raises(ValueError, match="`negative_rate` must be above 0 and at most 1"):
            COPC(rate)
    for shapes in (((3,), (3,)), ((3, 1), (3, 4)), ((3, 4), (3, 4, 1))):
        with pytest.raises(ValueError, match=r"must have shape \(batch, candidates\)\. Received: y_true\.shape=\(3,"):
            GAUC().update_state(*map(np.zeros, shapes))


def stock_model():
    """A plain Keras model: `candidates` features in, one probability for each out."""
    inputs = keras.Input((6, 3))
    outputs = keras.layers.Dense(1, activation="sigmoid", kernel_initializer=keras.initializers.GlorotUniform(0))(
        inputs
    )
    model = keras.Model(inputs, keras.layers.Reshape((6,), dtype="float32")(outputs))
    weighted = [GAUC("impressions", name="weighted_gauc"), COPC(name="weighted_copc")]
    model.compile("sgd", "binary_crossentropy", metrics=[GAUC(), COPC()], weighted_metrics=weighted)
    return model


@pytest.fixture(scope="module")
def stock_data():
    rng = np.random.default_rng(8)
    features = rng.standard_normal((64, 6, 3)).astype(np.float32)
    labels = (rng.random((64, 6)) < 1 / (1 + np.exp(-features[..., 0]))).astype(np.float32)
    return features, labels, rng.integers(1, 4, 64).astype(np.float32)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("eager", [False, True])
def test_in_a_stock_model(stock_data, policy, eager, tmp_path):
    features, labels, weights = stock_data
    keras.config.set_dtype_policy(policy)
    try:
        model = stock_model()
    finally:
        keras.config.set_dtype_policy("float32")
    model.run_eagerly = eager
    stopping = keras.callbacks.EarlyStopping("val_gauc", mode="max", patience=1, restore_best_weights=True)
    earlier, later = (
        tuple(values[rows] for values in (features, labels, weights)) for rows in (slice(48), slice(48, 64))
    )
    options = {"sample_weight": earlier[2], "validation_data": later, "callbacks": [stopping]}
    history = model.fit(*earlier[:2], **options, epochs=2, batch_size=10, verbose=0).history

    def evaluate(model):
        return model.evaluate(later[0], later[1], 7, sample_weight=later[2], return_dict=True, verbose=0)

    predictions, measured = model.predict(later[0], verbose=0), evaluate(model)
    ones = np.ones((16, 6))
    by_page = ones * later[2][:, None]
    expected = {
        "gauc": gauc_by_pairs(later[1], predictions, ones),
        "copc": copc_by_candidates(later[1], predictions, ones, 1),
        "weighted_gauc": gauc_by_pairs(later[1], predictions, by_page, "impressions"),
        "weighted_copc": copc_by_candidates(later[1], predictions, by_page, 1),
    }
    assert {name: measured[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert max(history["val_gauc"]) == pytest.approx(measured["gauc"], rel=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.run_eagerly = eager
    assert evaluate(loaded) == pytest.approx(measured, rel=1e-5)


def test_two_replicas_are_one(stock_data):
    features, labels, weights = stock_data
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice())
    with strategy.scope():
        model = stock_model()
        model.optimizer.learning_rate = 0.0  # so that the last batch sees the weights of the first
    data = tf.data.Dataset.from_tensor_slices((features, labels, weights)).batch(22)  # the last one is smaller
    history = model.fit(data, epochs=1, verbose=0, shuffle=False).history
    scored = labels, model(features)
    assert history["gauc"] == [pytest.approx(result(GAUC(), scored), rel=1e-5)]
    assert history["copc"] == [pytest.approx(result(COPC(), scored), rel=1e-5)]
    assert history["weighted_gauc"] == [pytest.approx(result(GAUC("impressions"), (*scored, weights)), rel=1e-5)]
    assert history["weighted_copc"] == [pytest.approx(result(COPC(), (*scored, weights)), rel=1e-5)]
