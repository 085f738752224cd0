import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.metrics.calibration import calibration_curve, copc
from tests.models.metrics.page_cases import scored_pages


def curve_by_bins(p, clicked, weights, bins):
    """Bins by the middle of the ranks that a prediction takes."""
    rank = np.array([(p < x).sum() + (p == x).sum() / 2 for x in p])
    number = (rank * bins // len(p)).astype(int)
    chosen = [number == n for n in range(bins) if (number == n).any()]
    return [
        (np.average(p[c], weights=weights[c]), np.average(clicked[c], weights=weights[c]), c.sum(), clicked[c].sum())
        for c in chosen
    ]


@settings(deadline=None)
@given(scored_pages(), st.sampled_from([1, 4, 10]), st.sampled_from([1.0, 0.2]))
def test_calibration_curve_is_that_of_the_bins(case, bins, rate):
    p, clicked, _ = case
    curve = calibration_curve(p, clicked, rate, bins)
    expected = curve_by_bins(p, clicked, np.where(clicked, rate, 1.0), bins)
    np.testing.assert_allclose(np.transpose([*curve[:4]]), expected, rtol=1e-12)
    assert curve.weight.sum() == pytest.approx(1)
    distances = [abs(predicted - observed) for predicted, observed, *_ in expected]
    assert curve.ece() == pytest.approx(curve.weight @ distances)


def test_calibration_closed_forms():
    p, clicked = np.full(8, 0.25), np.arange(8) < 4
    assert copc(p, clicked) == 2.0
    assert calibration_curve(p, clicked).ece() == 0.25  # a constant is one bin
    assert len(calibration_curve(p, clicked).weight) == 1
    assert calibration_curve(np.arange(40) / 40, np.arange(40) % 2 == 0).candidates.tolist() == [4] * 10
    assert np.isnan(copc(np.zeros(2), np.zeros(2, bool)))
    assert np.isnan(calibration_curve(np.zeros(0), np.zeros(0, bool)).ece())


def test_calibration_of_what_sampling_left_is_that_of_all():
    clicked = np.arange(12) < 4
    p = np.where(clicked, 0.7, 0.2)
    left = np.arange(12) < 6  # a quarter of the unclicked
    assert copc(p[left], clicked[left], 0.25) == pytest.approx(copc(p, clicked))
    assert copc(p[left], clicked[left]) != pytest.approx(copc(p, clicked), rel=0.1)
    whole, sampled = calibration_curve(p, clicked, bins=1), calibration_curve(p[left], clicked[left], 0.25, bins=1)
    assert sampled.ece() == pytest.approx(whole.ece())
    assert sampled.observed == pytest.approx(whole.observed)
