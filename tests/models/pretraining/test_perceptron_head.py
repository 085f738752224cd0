import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.perceptron_head import PerceptronHead, standardize

VECTORS = np.random.default_rng(0).normal(3, 2, (12, 5)).astype(np.float32)
COUNTED = np.arange(12) < 9


def test_standardized_rows_have_mean_zero_and_variance_one():
    rows = standardize(VECTORS, COUNTED).numpy()[COUNTED]
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(rows.var(axis=0), 1, atol=1e-4)


@pytest.mark.parametrize("normalize", ["none", "hidden", "all"])
def test_equals_numpy_and_rows_that_do_not_count_change_nothing(normalize):
    head = PerceptronHead((7, 4), normalize)
    first = head(VECTORS, COUNTED).numpy()
    head.set_weights([np.random.default_rng(1).normal(size=w.shape) for w in head.weights])
    weights = {w.path.split("/", 1)[1]: w.numpy() for w in head.weights}
    assert ("dense_0/bias" in weights) == (normalize == "none")
    assert ("dense_1/bias" in weights) == (normalize != "all")

    def normalized(x):
        return (x - x[COUNTED].mean(axis=0)) / np.sqrt(x[COUNTED].var(axis=0) + 1e-5)

    hidden = VECTORS @ weights["dense_0/kernel"]
    if normalize == "none":
        hidden = hidden + weights["dense_0/bias"]
    else:
        hidden = normalized(hidden) * weights["scale_0"] + weights["offset_0"]
    out = np.maximum(hidden, 0) @ weights["dense_1/kernel"]
    out = normalized(out) if normalize == "all" else out + weights["dense_1/bias"]
    actual = head(VECTORS, COUNTED).numpy()
    np.testing.assert_allclose(actual[COUNTED], out[COUNTED], rtol=1e-3, atol=1e-4)
    assert np.abs(actual - first).max() > 0.1
    garbage = np.where(COUNTED[:, None], VECTORS, 1e3).astype(np.float32)
    np.testing.assert_allclose(head(garbage, COUNTED).numpy()[COUNTED], actual[COUNTED], rtol=1e-5)


def test_an_equal_batch_is_harmless():
    same = tf.Variable(np.ones((4, 5), np.float32))
    with tf.GradientTape() as tape:
        result = PerceptronHead((6, 3), "all")(same)
    np.testing.assert_allclose(result, 0, atol=1e-6)
    assert np.isfinite(tape.gradient(result, same)).all()


@pytest.mark.parametrize(("widths", "normalize"), [((), "none"), ((4, 0), "none"), ((4,), "batch")])
def test_wrong_arguments(widths, normalize):
    with pytest.raises(ValueError, match=r"`widths`|`normalize`"):
        PerceptronHead(widths, normalize)
