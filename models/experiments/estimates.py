"""Metrics of arms and their differences, with users as the units: the delta method and CUPED.

Every metric is a ratio of two sums over users, such as clicks over impressions; a mean per user has ones below. Users
are independent of each other, their impressions and days are not: the spread is that of sums by user.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm

LEVEL = 0.95


class UserSums(NamedTuple):
    """What a metric is made of.

    Attributes:
        above: of each user, what is summed above, float64 `(n,)`.
        below: likewise below; ones for a mean per user.
        covariates: of each user, what was known before the experiment, float64 `(n, c)`; `c` may be 0.
    """

    above: np.ndarray
    below: np.ndarray
    covariates: np.ndarray

    def select(self, rows: np.ndarray) -> "UserSums":
        """Those of some users."""
        return UserSums(*(column[rows] for column in self))


class Estimate(NamedTuple):
    """A value with its standard error; NaN where it is undefined."""

    value: float
    error: float

    def interval(self, z: float = float(norm.ppf((1 + LEVEL) / 2))) -> tuple[float, float]:
        """The value less and plus `z` standard errors; by default the 95 % interval."""
        return self.value - z * self.error, self.value + z * self.error


class Comparison(NamedTuple):
    """An arm beside the control.

    Attributes:
        control, treatment: the metric in both, after adjustment for the covariates.
        difference: of the treatment from the control.
        log_ratio: logarithm of treatment over control; NaN unless both are positive.
        p: of the hypothesis that there is no difference, two-sided.
        variance_left: of the difference's variance, the part that adjustment has left; 1 without covariates.
    """

    control: Estimate
    treatment: Estimate
    difference: Estimate
    log_ratio: Estimate
    p: float
    variance_left: float


class Influence(NamedTuple):
    """What each user adds to the difference of two arms, to first order.

    Attributes:
        value: the metric in control and treatment, adjusted, `(2,)`.
        user: of each user, on the metric of the own arm, `(n,)`; mean 0 in each arm.
        plain: the same without adjustment.
        covariate: what adjustment takes off, `(n,)`: `user = plain - covariate`.
    """

    value: np.ndarray
    user: np.ndarray
    plain: np.ndarray
    covariate: np.ndarray


def influence(sums: UserSums, treated: np.ndarray) -> Influence:
    """Linearises a metric in both arms, and adjusts it by what was known of the users before.

    With R = sum(above) / sum(below) of an arm, a user adds (above - R below) / mean(below): the delta method. CUPED
    takes off what a linear regression on the covariates, with the same slopes in both arms, expects of a user.

    Args:
        sums: of the users of both arms.
        treated: who is in the treatment, bool `(n,)`.

    Reference: Deng, Knoblich, Lu, Applying the delta method in metric analytics (KDD 2018); Deng, Xu, Kohavi, Walker,
    Improving the sensitivity of online controlled experiments by utilizing pre-experiment data (WSDM 2013).
    """
    arms = (~treated, treated)
    plain, centred = np.empty(len(treated)), np.empty(sums.covariates.shape)
    value, means = np.empty(2), np.empty((2, sums.covariates.shape[1]))
    for n, arm in enumerate(arms):
        below = sums.below[arm].sum()
        value[n] = sums.above[arm].sum() / below if below > 0 else np.nan
        plain[arm] = (sums.above[arm] - value[n] * sums.below[arm]) * (arm.sum() / below if below > 0 else np.nan)
        means[n] = sums.covariates[arm].mean(axis=0)
        centred[arm] = sums.covariates[arm] - means[n]
    covariate = np.zeros(len(treated))
    if centred.shape[1] and np.isfinite(plain).all():
        slopes = _slopes(centred, plain)
        covariate = centred @ slopes
        value = value - (means - sums.covariates.mean(axis=0)) @ slopes
    return Influence(value, plain - covariate, plain, covariate)


def _slopes(centred: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Least squares on scaled columns; 0 for a column that is constant."""
    scale = np.sqrt((centred**2).mean(axis=0))
    scale[scale == 0] = 1.0
    scaled = centred / scale
    gram = scaled.T @ scaled
    return np.linalg.lstsq(gram, scaled.T @ outcome, rcond=1e-10)[0] / scale


def compare(sums: UserSums, treated: np.ndarray) -> Comparison:
    """Compares two arms.

    Args:
        sums: of the users of both.
        treated: who is in the treatment, bool `(n,)`; at least two users in each arm.
    """
    found = influence(sums, treated)
    sizes = np.array([(~treated).sum(), treated.sum()])
    errors = np.array([_error(found.user[~treated]), _error(found.user[treated])])
    difference = Estimate(float(found.value[1] - found.value[0]), float(np.hypot(*errors)))
    before = np.hypot(_error(found.plain[~treated]), _error(found.plain[treated]))
    control, treatment = (
        Estimate(float(value), float(error)) for value, error in zip(found.value, errors, strict=True)
    )
    return Comparison(
        control,
        treatment,
        difference,
        _log_ratio(found, treated, sizes),
        two_sided_p(difference),
        float(difference.error**2 / before**2) if before > 0 else 1.0,
    )


def two_sided_p(difference: Estimate) -> float:
    """The p-value of no difference; 1 if neither a difference nor a spread was seen."""
    if difference.error > 0 or np.isnan(difference.error):
        return float(2 * norm.sf(abs(difference.value) / difference.error))
    return 1.0 if difference.value == 0 else 0.0


def _log_ratio(found: Influence, treated: np.ndarray, sizes: np.ndarray) -> Estimate:
    """The adjusted arms share the mean of the covariates, which is why a user's covariates act on both."""
    if not (found.value > 0).all():
        return Estimate(float("nan"), float("nan"))
    control, treatment = found.value
    share = sizes[1] / sizes.sum()
    common = found.covariate * ((1 - share) / treatment + share / control)
    users = found.plain / np.where(treated, treatment, control) - common
    error = np.hypot(_error(users[~treated]), _error(users[treated]))
    return Estimate(float(np.log(treatment / control)), float(error))


def _error(users: np.ndarray) -> float:
    """The standard error of a mean."""
    return float(users.std(ddof=1) / np.sqrt(len(users))) if len(users) > 1 else float("nan")
