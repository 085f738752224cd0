import numpy as np
import pytest

from benchmarks.experiments.coverage import expected_error


@pytest.mark.parametrize("shape", [None, 0.25])
def test_the_expected_error_of_equal_arms_is_the_simulated_one(shape):
    """Normal users make errors more frequent than 5 %, users with heavy tails rarer: by 0.005 and by -0.002 here."""
    rng, users = np.random.default_rng(0), 30
    draw = rng.standard_normal if shape is None else lambda size: rng.standard_gamma(shape, size)
    arms = [draw((60_000, users)) for _ in range(2)]
    error = np.sqrt(sum(arm.var(axis=1, ddof=1) for arm in arms) / users)
    differ = np.abs(arms[0].mean(axis=1) - arms[1].mean(axis=1)) > 1.96 * error
    expected = expected_error(users, 0.0 if shape is None else 6 / shape)
    assert differ.mean() == pytest.approx(expected, abs=0.0025)
    assert (expected > 0.054) == (shape is None)
