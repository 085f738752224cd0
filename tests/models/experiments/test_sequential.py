import numpy as np
import pytest
from scipy.stats import norm

from models.experiments.estimates import UserSums, compare
from models.experiments.sequential import bounds, looks_at, spending


def independent_increments(fraction):
    return np.sqrt(np.minimum.outer(fraction, fraction) / np.maximum.outer(fraction, fraction))


def test_one_look_is_an_ordinary_test():
    spent = spending(np.array([1.0]), 0.05)
    assert spent[0] == pytest.approx(0.05)
    assert bounds(np.ones((1, 1)), spent)[0] == pytest.approx(1.96, abs=0.02)


def test_bounds_are_those_of_the_textbook():
    """Five looks after Lan and DeMets: Jennison and Turnbull, Group sequential methods (2000), section 7.2."""
    fraction = np.arange(1, 6) / 5
    found = bounds(independent_increments(fraction), spending(fraction, 0.05))
    np.testing.assert_allclose(found, [4.877, 3.357, 2.680, 2.290, 2.031], atol=0.05)


def test_equal_looks_spend_nothing_twice_and_independent_ones_all_of_it():
    fraction = np.arange(1, 4) / 3
    spent = spending(fraction, 0.05)
    same = bounds(np.ones((3, 3)), spent)
    assert same[2] == pytest.approx(1.96, abs=0.05)  # what was seen already adds no error
    apart = bounds(np.eye(3), spent)
    inside = np.cumprod(1 - 2 * norm.sf(apart))
    np.testing.assert_allclose(1 - inside, spent, atol=0.003)


def test_a_later_look_changes_no_bound():
    fraction = np.arange(1, 9) / 10
    correlation, spent = independent_increments(fraction), spending(fraction, 0.05)
    fewer = bounds(correlation[:5, :5], spent[:5])
    np.testing.assert_allclose(bounds(correlation, spent)[:5], fewer, rtol=1e-12)


def test_a_look_is_the_comparison_of_those_who_were_there():
    rng = np.random.default_rng(0)
    days = rng.poisson(2.0, (80, 3)).astype(float)
    first = rng.integers(0, 3, 80)
    days[np.arange(3) < first[:, None]] = 0
    treated, known = rng.random(80) < 0.5, rng.normal(size=(80, 2))
    sums = [UserSums(days[:, : n + 1].sum(axis=1), np.ones(80), known) for n in range(3)]
    looks = looks_at(((each, first <= n) for n, each in enumerate(sums)), treated)
    for n, each in enumerate(sums):
        there = first <= n
        expected = compare(each.select(there), treated[there]).difference
        np.testing.assert_allclose(looks.difference[n], expected.value, rtol=1e-9)
        np.testing.assert_allclose(looks.error[n], expected.error, rtol=0.05)  # with n instead of n - 1
    np.testing.assert_allclose(np.diag(looks.correlation), 1)
    assert 0.3 < looks.correlation[1, 2] < 1


def test_correlation_of_the_looks_is_that_of_many_samples():
    statistics, correlations = [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        days = rng.gamma(1, 1, (100, 1)) * rng.poisson(2.0, (100, 2))
        treated = rng.random(100) < 0.5
        sums = [UserSums(days[:, : n + 1].sum(axis=1), np.ones(100), np.zeros((100, 0))) for n in range(2)]
        looks = looks_at(((each, np.ones(100, bool)) for each in sums), treated)
        statistics.append(looks.difference / looks.error)
        correlations.append(looks.correlation[0, 1])
    assert np.corrcoef(np.array(statistics).T)[0, 1] == pytest.approx(np.mean(correlations), abs=0.02)


def test_a_day_without_anyone_crosses_nothing():
    treated = np.arange(8) % 2 == 0
    nobody = UserSums(np.zeros(8), np.zeros(8), np.zeros((8, 0)))
    all_of_them = UserSums(np.arange(8.0), np.ones(8), np.zeros((8, 0)))
    looks = looks_at([(nobody, np.ones(8, bool)), (all_of_them, np.ones(8, bool))], treated)
    assert looks.error[0] == 0
    found = bounds(looks.correlation, spending(np.array([0.5, 1.0]), 0.05))
    assert np.isfinite(found).all()
