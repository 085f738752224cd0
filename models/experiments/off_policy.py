"""What another policy would have earned, estimated from the log of one that chose at random: IPS, SNIPS, doubly robust.

The log says what was shown, how likely that was, and what it earned. A row counts by how much likelier the other policy
would have shown it. Rows are taken to be independent of each other; give sums of users or pages where they are not.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from beam_pipelines.format.errors import InputError
from models.experiments.estimates import LEVEL, Estimate


class OffPolicyEstimate(NamedTuple):
    """The value of a policy.

    Attributes:
        value: earned per row.
        error: its standard error.
        low, high: the 95 % interval, by the normal distribution.
        rows: of the log.
        effective_rows: so many rows of the policy itself would weigh as evenly: (sum of weights)² / sum of squares.
        largest_weight: of a row.
    """

    value: float
    error: float
    low: float
    high: float
    rows: int
    effective_rows: float
    largest_weight: float


def importance_weights(target: np.ndarray, logged: np.ndarray) -> np.ndarray:
    """How much likelier the target policy would have shown what was shown.

    Args:
        target: its probabilities of what was shown, `(n,)`.
        logged: those of the policy that made the log, `(n,)`; more than 0 and at most 1.

    Raises:
        InputError: a probability is none.
    """
    target, logged = np.asarray(target, np.float64), np.asarray(logged, np.float64)
    if not ((logged > 0) & (logged <= 1)).all():
        raise InputError(f"`logged` must be more than 0 and at most 1. Received: {logged.min()} to {logged.max()}")
    if not ((target >= 0) & (target <= 1)).all():
        raise InputError(f"`target` must be from 0 to 1. Received: {target.min()} to {target.max()}")
    return target / logged


def ips(reward: np.ndarray, weight: np.ndarray) -> OffPolicyEstimate:
    """Inverse propensity scoring: unbiased if all that the policy would show may be in the log.

    Args:
        reward: of each row, `(n,)`.
        weight: see `importance_weights`.

    Reference: Horvitz, Thompson, A generalization of sampling without replacement from a finite universe (1952).
    """
    return _estimate(weight * reward, weight)


def snips(reward: np.ndarray, weight: np.ndarray) -> OffPolicyEstimate:
    """Self-normalised: `ips` over the mean weight, which should be 1; a little biased and usually closer.

    Args:
        reward: of each row, `(n,)`.
        weight: see `importance_weights`.

    Reference: Swaminathan, Joachims, The self-normalized estimator for counterfactual learning (NeurIPS 2015); its
    error is that of a ratio, by the delta method.
    """
    mean = weight.mean()
    if not mean > 0:
        raise InputError("`weight` must be more than 0 somewhere: the log has nothing that the policy would show")
    value = (weight * reward).mean() / mean
    return _estimate(value + weight * (reward - value) / mean, weight)


def doubly_robust(
    reward: np.ndarray, weight: np.ndarray, predicted: np.ndarray, predicted_of_policy: np.ndarray
) -> OffPolicyEstimate:
    """A model's prediction, corrected by the weighted errors that it makes: right if the weights or the model are.

    Args:
        reward: of each row, `(n,)`.
        weight: see `importance_weights`.
        predicted: the reward that a model expects of what was shown, `(n,)`; of a model that has not learned this row.
        predicted_of_policy: the same of what the policy would show: its mean over the policy's probabilities, `(n,)`.

    Reference: Dudík, Langford, Li, Doubly robust policy evaluation and learning (ICML 2011).
    """
    return _estimate(predicted_of_policy + weight * (reward - predicted), weight)


def _estimate(terms: np.ndarray, weight: np.ndarray) -> OffPolicyEstimate:
    """The mean of terms that are independent of each other."""
    rows = len(terms)
    if rows < 2:
        raise InputError(f"`reward` must have two rows or more. Received: {rows}")
    estimate = Estimate(float(terms.mean()), float(terms.std(ddof=1) / np.sqrt(rows)))
    low, high = estimate.interval(float(norm.ppf((1 + LEVEL) / 2)))
    squares = float((weight**2).sum())
    effective = float(weight.sum()) ** 2 / squares if squares > 0 else 0.0
    return OffPolicyEstimate(*estimate, low, high, rows, effective, float(weight.max()))
