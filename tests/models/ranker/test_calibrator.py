import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression

from beam_pipelines.format.errors import InputError
from models.config import load_config
from models.metrics.auc import auc
from models.metrics.log_loss import candidate_weights, log_loss
from models.ranker.calibrator import Calibrator, fit_isotonic, fit_platt, to_logits

FITS = {"platt": fit_platt, "isotonic": fit_isotonic}


def distorted(slope=1.0, intercept=0.0, n=100_000, seed=0):
    """Logits whose true click probability is `sigmoid(slope * logit + intercept)`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.2, n)
    return logits, rng.random(n) < expit(slope * logits + intercept)


@st.composite
def calibrators(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n = draw(st.sampled_from([2, 5, 60, 500]))
    logits = rng.normal(0, draw(st.sampled_from([0.01, 1.0, 9.0])), n).round(draw(st.sampled_from([0, 2, 9])))
    clicked = rng.random(n) < expit(draw(st.sampled_from([-1.0, 0.3, 2.0])) * logits)
    clicked[:2] = False, True
    weights = rng.choice([0.1, 1.0, 3.0], n)
    return FITS[draw(st.sampled_from(sorted(FITS)))](logits, clicked, weights)


@pytest.mark.parametrize("kind", FITS)
@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (2.0, -1.0), (0.3, 1.5)])
def test_a_known_distortion_is_undone(kind, slope, intercept):
    calibrator = FITS[kind](*distorted(slope, intercept))
    assert calibrator.kind == kind
    z = np.linspace(-3, 1, 41)
    result, true = calibrator.apply_numpy(z), slope * z + intercept
    np.testing.assert_allclose(expit(result), expit(true), atol=0.01 if kind == "platt" else 0.04)
    if kind == "platt":
        np.testing.assert_allclose([calibrator.slope, *calibrator.y], [slope, intercept], atol=0.03)


def test_platt_minimises_the_log_loss():
    logits, clicked = distorted(2.0, -1.0, n=500)
    weights = np.random.default_rng(3).random(500)
    calibrator = fit_platt(logits, clicked, weights)
    n = clicked.sum()
    target = np.where(clicked, (n + 1) / (n + 2), 1 / (500 - n + 2))
    error = weights * (expit(calibrator.apply_numpy(logits)) - target)
    np.testing.assert_allclose([error.sum(), error @ logits], 0, atol=1e-4)  # the gradient


def test_isotonic_is_the_regression_between_block_centres():
    logits, clicked = distorted(1.5, -0.5, n=4000)
    weights = candidate_weights(clicked, 0.3)
    calibrator = fit_isotonic(logits, clicked, weights)
    fitted = IsotonicRegression().fit(logits, clicked, sample_weight=weights).predict(logits)
    assert len(calibrator.x) == len(np.unique(fitted))
    centres = [np.average(logits[fitted == value], weights=weights[fitted == value]) for value in np.unique(fitted)]
    np.testing.assert_allclose(calibrator.x, centres, rtol=1e-9)
    inner = slice(1, -1)
    np.testing.assert_allclose(expit(calibrator.y)[inner], np.unique(fitted)[inner], rtol=1e-3)


@pytest.mark.parametrize("kind", FITS)
def test_weights_stand_for_candidates_left_out(kind):
    logits, clicked = distorted(1.0, -0.7)
    left = clicked | (np.random.default_rng(1).random(len(clicked)) < 0.2)
    weighted = FITS[kind](logits[left], clicked[left], candidate_weights(clicked[left], 0.2))
    z = np.linspace(-3, 1, 41)
    np.testing.assert_allclose(weighted.apply_numpy(z), z - 0.7, atol=0.06 if kind == "platt" else 0.4)
    unweighted = FITS[kind](logits[left], clicked[left])
    assert (unweighted.apply_numpy(z) > z + 0.4).all()


@pytest.mark.parametrize("kind", FITS)
def test_calibration_lowers_log_loss_and_leaves_order(kind):
    logits, clicked = distorted(0.5, -1.0, n=20_000)
    calibrator = FITS[kind](logits[:10_000], clicked[:10_000])
    logits, clicked = logits[10_000:].astype(np.float32), clicked[10_000:]
    calibrated = calibrator.apply_numpy(logits)
    assert auc(calibrated, clicked) == auc(logits, clicked)
    assert log_loss(expit(calibrated), clicked) < log_loss(expit(logits), clicked) - 0.02
    in_graph = tf.sigmoid(calibrator.apply(tf.constant(logits))).numpy()
    assert auc(in_graph, clicked) == pytest.approx(auc(logits, clicked), abs=1e-6)  # but for float32's own ties


@settings(deadline=None, max_examples=25)
@given(calibrators())
def test_the_map_increases_and_is_finite_everywhere(calibrator):
    largest = np.finfo(np.float32).max
    near = [np.float32(x) + np.float32(d) for x in calibrator.x[:50] for d in (-1e-3, 0, 1e-3)]
    near += [np.nextafter(np.float32(x), np.float32(s)) for x in calibrator.x[:50] for s in (-99, 99)]
    logits = np.sort(np.float32([*near, *np.linspace(-90, 90, 401), -largest, largest, 1e9, -1e9, 1e-40]))
    result = calibrator.apply(tf.constant(logits)).numpy()
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    assert (np.diff(result) >= 0).all()
    rises = np.diff(calibrator.apply_numpy(logits))
    assert (rises >= 0).all()
    assert (rises[(np.diff(logits) > 1e-6) & (np.abs(logits[1:]) < 80) & (np.abs(logits[:-1]) < 80)] > 0).all()


@settings(deadline=None, max_examples=25)
@given(calibrators())
def test_in_graph_is_in_numpy(calibrator):
    logits = np.random.default_rng(0).normal(0, 6, (7, 3, 50)).astype(np.float32)
    # Against float32 knots: a segment of a millionth has another slope when its ends are rounded.
    rounded = calibrator.model_copy(update={"x": tuple(np.float32(calibrator.x).tolist())})
    result = calibrator.apply(tf.constant(logits)).numpy()
    assert result.shape == logits.shape
    np.testing.assert_allclose(expit(result), expit(rounded.apply_numpy(logits)), atol=1e-6, rtol=1e-4)


def test_none_is_the_identity():
    logits = tf.constant([[-1e30, -2.5], [0.0, 1e30]])
    np.testing.assert_array_equal(Calibrator().apply(logits), logits)
    np.testing.assert_array_equal(Calibrator().apply_numpy(logits.numpy()), logits)


def test_it_is_exported_with_a_model(tmp_path):
    calibrator = fit_isotonic(*distorted(2.0, -1.0, n=2000))
    module = tf.Module()
    module.serve = tf.function(calibrator.apply, input_signature=[tf.TensorSpec((None, None), tf.float32)])
    tf.saved_model.save(module, str(tmp_path / "model"))
    logits = tf.random.stateless_normal((3, 5), seed=(0, 1))
    again = tf.saved_model.load(str(tmp_path / "model")).serve(logits)
    np.testing.assert_array_equal(again, calibrator.apply(logits))


@pytest.mark.parametrize("kind", FITS)
def test_yaml_gives_the_same_map_back(kind, tmp_path):
    calibrator = FITS[kind](*distorted(n=500))
    (tmp_path / "calibrator.yaml").write_text(calibrator.to_yaml())
    assert load_config(Calibrator, str(tmp_path / "calibrator.yaml")) == calibrator


@pytest.mark.parametrize("kind", FITS)
def test_hard_data(kind):
    separable = FITS[kind](np.r_[-1.0, -2, 1, 2], np.r_[False, False, True, True])
    assert np.isfinite(separable.apply_numpy(np.r_[-99.0, 0, 99])).all()
    constant = FITS[kind](np.full(40, 0.3), np.arange(40) < 10)
    assert expit(constant.apply_numpy(0.3)) == pytest.approx(0.25, abs=0.02)
    reversed_scores = FITS[kind](np.linspace(-2, 2, 200), np.linspace(-2, 2, 200) < 0)
    result = reversed_scores.apply_numpy(np.r_[-1.0, 1])
    assert 0 < result[1] - result[0] <= 2.0 + 1e-9
    assert expit(result[0]) < 0.75


def test_errors():
    for fit in FITS.values():
        with pytest.raises(ValueError, match=r"both classes. Received: 0 of 3 clicked"):
            fit(np.zeros(3), np.zeros(3, bool))
        with pytest.raises(ValueError, match=r"`logits` must be finite. Received: 1"):
            fit(np.r_[0.0, np.inf], np.r_[True, False])
        with pytest.raises(ValueError, match="same length"):
            fit(np.zeros(3), np.zeros(2, bool))
    with pytest.raises(InputError, match="strictly increasing"):
        load_config(Calibrator, None, ["x=[0, 0]", "y=[0, 1]"])
    with pytest.raises(InputError, match="slope above 0"):
        load_config(Calibrator, None, ["slope=0"])
    with pytest.raises(InputError, match="same length"):
        load_config(Calibrator, None, ["x=[0, 1]"])


def test_logits_of_certainties_are_finite():
    np.testing.assert_allclose(to_logits(np.r_[0.5, 0.2]), [0, np.log(0.25)], atol=1e-12)
    np.testing.assert_array_equal(to_logits(np.r_[0.0, 1.0]), [-80, 80])
