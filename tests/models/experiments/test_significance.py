import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.experiments.significance import holm, sample_ratio_p


def test_the_sample_ratio_has_its_closed_form():
    assert sample_ratio_p([500, 500], [0.5, 0.5]) == 1
    assert sample_ratio_p([450, 550], [0.5, 0.5]) == pytest.approx(0.0015654, rel=1e-4)  # chi-squared 10 of 1 degree
    assert sample_ratio_p([100, 300], [0.25, 0.75]) == 1
    assert sample_ratio_p([40, 30, 30], [0.4, 0.3, 0.3]) == 1


def test_holm_goes_down_step_by_step():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.9, np.nan, 0.001]), [1, 1, 0.003])
    assert holm([0.02]).tolist() == [0.02]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_p_and_bonferroni(p):
    adjusted = holm(p)
    assert (adjusted >= np.array(p)).all()
    assert (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all() or len(set(p)) > 1
    assert np.argmin(p) in np.flatnonzero(adjusted == adjusted.min())
    assert adjusted.min() == pytest.approx(min(1, len(p) * min(p)))
