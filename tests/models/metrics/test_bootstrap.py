import numpy as np
import pytest

from models.metrics.bootstrap import bootstrap_counts, interval, resampled_sums


def test_bootstrap_draws_as_many_as_there_are():
    counts = bootstrap_counts(50, samples=2000)
    assert counts.shape == (50, 2000)
    assert (counts.sum(axis=0) == 50).all()
    assert counts.mean(axis=1) == pytest.approx(np.ones(50), abs=0.1)
    assert counts.var() == pytest.approx(1 - 1 / 50, abs=0.05)  # binomial
    np.testing.assert_array_equal(counts, bootstrap_counts(50, samples=2000))
    assert (counts != bootstrap_counts(50, seed=1, samples=2000)).any()


def test_resampled_sums_and_intervals():
    rng = np.random.default_rng(0)
    counts, values, units = bootstrap_counts(30, samples=40), rng.normal(size=(3, 20)), rng.permutation(30)[:20]
    sums = resampled_sums(values, counts, units)
    np.testing.assert_allclose(sums[:, 0], values.sum(axis=1))
    for sample in range(40):
        expected = sum(values[:, k] * counts[unit, sample] for k, unit in enumerate(units))
        np.testing.assert_allclose(sums[:, 1 + sample], expected, atol=1e-5)
    low, high = interval(np.stack([np.arange(1001.0), np.full(1001, np.nan), np.where(np.arange(1001) % 2, np.nan, 3)]))
    np.testing.assert_allclose(low, [25, np.nan, 3])
    np.testing.assert_allclose(high, [975, np.nan, 3])


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    values = np.random.default_rng(0).normal(size=(1, 2000))
    samples = resampled_sums(values, bootstrap_counts(2000), np.arange(2000))[:, 1:] / 2000
    low, high = interval(samples)
    half = 1.96 * values.std() / np.sqrt(2000)
    np.testing.assert_allclose([low[0], high[0]], values.mean() + np.array([-half, half]), atol=0.1 * half)
