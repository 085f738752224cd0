import re

import numpy as np
import pytest

from beam_pipelines.format.errors import InputError
from models.experiments.off_policy import doubly_robust, importance_weights, ips, snips


def test_the_estimates_have_their_closed_forms():
    reward, weight = np.array([1.0, 0, 1, 0]), np.array([2.0, 1, 0.5, 0])
    assert ips(reward, weight).value == pytest.approx(2.5 / 4)
    assert ips(reward, weight).error == pytest.approx(np.std([2, 0, 0.5, 0], ddof=1) / 2)
    assert snips(reward, weight).value == pytest.approx(2.5 / 3.5)
    residuals = weight * (reward - 2.5 / 3.5) / (3.5 / 4)
    assert snips(reward, weight).error == pytest.approx(np.std(residuals, ddof=1) / 2)
    robust = doubly_robust(reward, weight, np.full(4, 0.5), np.full(4, 0.25))
    assert robust.value == pytest.approx(0.25 + np.mean([1, -0.5, 0.25, 0]))
    assert robust.effective_rows == pytest.approx(3.5**2 / 5.25)
    assert (robust.rows, robust.largest_weight) == (4, 2)
    assert robust.high - robust.value == pytest.approx(1.959964 * robust.error)


def test_the_same_policy_is_its_own_mean():
    reward, weight = np.arange(10.0), np.ones(10)
    for estimate in (ips(reward, weight), snips(reward, weight), doubly_robust(reward, weight, *np.ones((2, 10)))):
        assert estimate.value == pytest.approx(4.5)
        assert estimate.error == pytest.approx(np.std(reward, ddof=1) / np.sqrt(10))
        assert estimate.effective_rows == pytest.approx(10)


def test_a_constant_reward_is_known_exactly_by_snips_and_by_a_model_that_knows_it():
    weight = np.array([3.0, 0.5, 1])
    assert snips(np.full(3, 7.0), weight)[:2] == pytest.approx((7, 0))
    assert doubly_robust(np.full(3, 7.0), weight, *np.full((2, 3), 7.0))[:2] == pytest.approx((7, 0))
    assert ips(np.full(3, 7.0), weight).error > 1


def test_the_order_of_rows_does_not_matter_and_scale_scales():
    rng = np.random.default_rng(0)
    reward, weight, order = rng.random(50), rng.gamma(1, 1, 50), rng.permutation(50)
    for estimate in (ips, snips):
        found = estimate(reward, weight)
        np.testing.assert_allclose(estimate(reward[order], weight[order]), found, rtol=1e-9)
        np.testing.assert_allclose(estimate(3 * reward, weight)[:4], 3 * np.array(found[:4]), rtol=1e-9)


def test_intervals_hold_the_value_of_a_known_policy():
    """A bandit of five items whose rewards are known: 95 % of the intervals hold the target's value."""
    rates, logged = np.array([0.05, 0.1, 0.2, 0.3, 0.4]), np.array([0.4, 0.3, 0.1, 0.1, 0.1])
    target = np.array([0.1, 0.1, 0.2, 0.2, 0.4])
    model = np.array([0.1, 0.1, 0.1, 0.4, 0.3])  # not quite right
    inside = np.zeros(3)
    rng = np.random.default_rng(0)
    for _ in range(400):
        item = rng.choice(5, 800, p=logged)
        reward, weight = (rng.random(800) < rates[item]).astype(float), importance_weights(target[item], logged[item])
        robust = doubly_robust(reward, weight, model[item], np.full(800, target @ model))
        inside += [
            each.low < target @ rates < each.high for each in (ips(reward, weight), snips(reward, weight), robust)
        ]
    assert ((inside > 0.92 * 400) & (inside < 0.98 * 400)).all()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: importance_weights([0.5], [0.0]), "`logged` must be more than 0 and at most 1. Received: 0.0 to 0.0"),
        (lambda: importance_weights([1.5], [1.0]), "`target` must be from 0 to 1"),
        (lambda: snips(np.ones(2), np.zeros(2)), "the log has nothing that the policy would show"),
        (lambda: ips(np.ones(1), np.ones(1)), "`reward` must have two rows or more. Received: 1"),
    ],
)
def test_what_cannot_be_estimated_is_named(call, text):
    with pytest.raises(InputError, match=re.escape(text)):
        call()
