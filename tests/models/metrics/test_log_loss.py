import numpy as np
import pytest

from models.metrics.log_loss import log_loss


def test_log_loss():
    assert log_loss(np.full(8, 0.5), np.arange(8) < 3) == pytest.approx(np.log(2), rel=1e-12)
    p, clicked = np.array([0.9, 0.2, 0.4]), np.array([True, False, True])
    assert log_loss(p, clicked) == pytest.approx(-(np.log(0.9) + np.log(0.8) + np.log(0.4)) / 3, rel=1e-12)
    assert log_loss(np.array([0.0]), np.array([True])) < 20  # certain and wrong: bad, not infinite
    assert np.isnan(log_loss(np.zeros(0), np.zeros(0, bool)))


def test_log_loss_of_what_sampling_left_is_that_of_all():
    clicked = np.arange(12) < 4
    p = np.where(clicked, 0.7, 0.2)
    left = np.arange(12) < 6  # a quarter of the unclicked
    assert log_loss(p[left], clicked[left], 0.25) == pytest.approx(log_loss(p, clicked), rel=1e-12)
    assert log_loss(p[left], clicked[left]) != pytest.approx(log_loss(p, clicked), rel=1e-2)
    assert np.isnan(log_loss(np.array([0.3]), np.array([True]), 0.0))


def test_errors():
    with pytest.raises(ValueError, match="must not be NaN"):
        log_loss(np.array([0.0, np.nan]), np.array([True, False]))
