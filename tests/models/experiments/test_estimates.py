import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.experiments.estimates import UserSums, compare, influence


def random_sums(users, covariates, seed=0):
    rng = np.random.default_rng(seed)
    below = 1.0 + rng.poisson(rng.gamma(1, 5, users))
    above = rng.binomial(below.astype(int), rng.beta(2, 5, users)).astype(float)
    known = above[:, None] * rng.normal(1, 0.3, (users, covariates)) + rng.normal(0, 1, (users, covariates))
    return UserSums(above, below, known), rng.permutation(users) < 0.4 * users


def reference(sums, treated):
    """User by user: the adjusted difference of ratios and its standard error, with numpy's least squares."""
    ratios, linear, centred = {}, np.zeros(len(treated)), np.zeros(sums.covariates.shape)
    for arm in (False, True):
        rows = [n for n in range(len(treated)) if treated[n] == arm]
        ratios[arm] = sum(sums.above[n] for n in rows) / sum(sums.below[n] for n in rows)
        for n in rows:
            mean_below = sum(sums.below[m] for m in rows) / len(rows)
            linear[n] = (sums.above[n] - ratios[arm] * sums.below[n]) / mean_below
            centred[n] = sums.covariates[n] - np.mean([sums.covariates[m] for m in rows], axis=0)
    slopes = np.linalg.lstsq(centred, linear, rcond=None)[0]
    shift = sums.covariates[treated].mean(axis=0) - sums.covariates[~treated].mean(axis=0)
    left = linear - centred @ slopes
    variance = sum(left[treated == arm].var(ddof=1) / (treated == arm).sum() for arm in (False, True))
    return ratios[True] - ratios[False] - shift @ slopes, np.sqrt(variance)


@pytest.mark.parametrize("covariates", [0, 1, 3])
@pytest.mark.parametrize("users", [6, 40, 300])
def test_differences_are_those_of_a_slow_reference(users, covariates):
    sums, treated = random_sums(users, covariates, seed=users)
    found = compare(sums, treated)
    difference, error = reference(sums, treated)
    np.testing.assert_allclose(found.difference, (difference, error), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.treatment.value - found.control.value, difference, rtol=1e-9, atol=1e-9)


def test_without_covariates_means_per_user_have_their_closed_form():
    above = np.array([0.0, 2, 4, 1, 1, 7])
    treated = np.arange(6) >= 3
    found = compare(UserSums(above, np.ones(6), np.zeros((6, 0))), treated)
    assert found.control == pytest.approx((2, 2 / np.sqrt(3)))
    assert found.treatment == pytest.approx((3, np.sqrt(12 / 3)))
    assert found.difference == pytest.approx((1, np.sqrt(4 / 3 + 12 / 3)))
    assert found.log_ratio == pytest.approx((np.log(1.5), np.sqrt(4 / 3 / 4 + 12 / 3 / 9)))
    assert found.p == pytest.approx(0.6650, abs=1e-4)  # 2 P(N > 0.4330)
    assert found.variance_left == 1


def test_the_lift_of_adjusted_arms_has_the_error_of_many_samples():
    """Over samples, the spread of the logarithm is what one sample says it is; so is that of the difference."""
    logs, differences, errors = [], [], []
    for seed in range(300):
        sums, treated = random_sums(400, 2, seed)
        found = compare(sums, treated)
        logs.append(found.log_ratio.value)
        differences.append(found.difference.value)
        errors.append((found.log_ratio.error, found.difference.error))
    expected = np.mean(errors, axis=0)
    np.testing.assert_allclose((np.std(logs), np.std(differences)), expected, rtol=0.12)  # 3 standard errors


def test_a_covariate_that_says_it_all_leaves_no_variance():
    sums, treated = random_sums(50, 0)
    linear = influence(sums, treated).plain
    found = compare(sums._replace(covariates=linear[:, None]), treated)
    assert found.difference.error < 1e-9
    assert found.variance_left < 1e-12


def test_covariates_that_say_nothing_or_the_same_twice_change_nothing():
    sums, treated = random_sums(50, 1)
    plain = compare(sums._replace(covariates=sums.covariates[:, :0]), treated)
    constant = compare(sums._replace(covariates=np.full((50, 1), 7.0)), treated)
    np.testing.assert_allclose(constant.difference, plain.difference, rtol=1e-9)
    twice = compare(sums._replace(covariates=np.repeat(sums.covariates, 2, axis=1)), treated)
    np.testing.assert_allclose(twice.difference, compare(sums, treated).difference, rtol=1e-6)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(0.01, 100))
def test_order_scale_and_names_of_arms_do_not_matter(seed, scale, unit):
    sums, treated = random_sums(60, 2, seed)
    found = compare(sums, treated)
    order = np.random.default_rng(seed).permutation(60)
    np.testing.assert_allclose(compare(sums.select(order), treated[order]).difference, found.difference, rtol=1e-6)
    scaled = compare(UserSums(scale * sums.above, sums.below, unit * sums.covariates), treated)
    np.testing.assert_allclose(scaled.difference, scale * np.array(found.difference), rtol=1e-6)
    np.testing.assert_allclose((scaled.log_ratio, (scaled.p,) * 2), (found.log_ratio, (found.p,) * 2), rtol=1e-6)
    other = compare(sums, ~treated)
    np.testing.assert_allclose(other.difference.value, -found.difference.value, rtol=1e-6)
    np.testing.assert_allclose((other.p, other.difference.error), (found.p, found.difference.error), rtol=1e-6)


def test_nothing_is_undefined_quietly():
    nothing = UserSums(np.zeros(6), np.zeros(6), np.zeros((6, 1)))
    treated = np.arange(6) % 2 == 0
    found = compare(nothing, treated)
    assert np.isnan([*found.difference, *found.log_ratio, found.p]).all()
    same = compare(nothing._replace(below=np.ones(6)), treated)
    assert same.difference == (0, 0)
    assert same.p == 1
    assert np.isnan(same.log_ratio.value)
    certain = compare(UserSums(treated * 1.0, np.ones(6), np.zeros((6, 0))), treated)
    assert certain.p == 0
