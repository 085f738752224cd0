"""Looks at a running experiment, each with a bound that keeps the error over all of them: group-sequential tests.

Logs arrive day by day and a shop plans when its experiment ends, so that looks are few and known. Then spending the
error over the days costs little on the last one: at 5 % and a look a day for 30 days, the last bound is 2.1 standard
errors instead of 1.96. A test that is valid for ever at any number of looks (mSPRT) needs 3.0 there at best:
1.7 times the users for the same chance (80 %) to see an effect, and effects of rankers are small.

Textbook bounds take it that what is learned between looks is independent. Here the same shoppers come back day after
day, so that it is not: the correlation of the statistics at the looks is estimated from the users instead.

Reference: Lan, DeMets, Discrete sequential boundaries for clinical trials (Biometrika 1983), and Group sequential
procedures: calendar versus information time (1989); Jennison, Turnbull, Interim analyses: the repeated confidence
interval approach (1989). Of mSPRT: Johari, Koomen, Pekelis, Walsh, Always valid inference (Operations Research 2022).
"""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from models.experiments.estimates import UserSums, influence

_PATHS = 2**16
_FEW = 32  # below so many paths, the tail is not counted but bounded


class Looks(NamedTuple):
    """The difference of two arms at each look.

    Attributes:
        difference, error: of the metric and its standard error, float64 `(looks,)`.
        correlation: of the statistics `difference / error`, `(looks, looks)`.
    """

    difference: np.ndarray
    error: np.ndarray
    correlation: np.ndarray


def looks_at(sums: Iterable[tuple[UserSums, np.ndarray]], treated: np.ndarray) -> Looks:
    """Compares two arms at each look.

    Args:
        sums: of each look, the sums up to it of all users, and who had been exposed by then, bool `(n,)`: at least two
            users of each arm.
        treated: who is in the treatment, bool `(n,)`.
    """
    differences, users = [], []
    for up_to, present in sums:
        in_arm = treated[present]
        found = influence(up_to.select(present), in_arm)
        share = np.zeros(len(treated))
        share[present] = np.nan_to_num(found.user) * np.where(
            in_arm, 1 / max(in_arm.sum(), 1), -1 / max((~in_arm).sum(), 1)
        )
        differences.append(found.value[1] - found.value[0])
        users.append(share)
    each = np.array(users)
    covariance = each @ each.T
    error = np.sqrt(np.diag(covariance))
    scale = np.where(error > 0, error, 1.0)
    correlation = covariance / np.outer(scale, scale)
    np.fill_diagonal(correlation, 1.0)
    return Looks(np.array(differences), error, correlation)


def spending(fraction: np.ndarray, alpha: float) -> np.ndarray:
    """The error that may have been made by a fraction of the planned time: little early, after O'Brien and Fleming.

    Each side, better and worse, spends half of it.

    Args:
        fraction: of the planned days, from 0 to 1.
        alpha: the error over all of them.
    """
    with np.errstate(divide="ignore"):
        return 4 * norm.sf(norm.isf(alpha / 4) / np.sqrt(fraction))


def bounds(correlation: np.ndarray, spent: np.ndarray) -> np.ndarray:
    """How many standard errors a difference must have at each look.

    The joint normal distribution of the statistics is drawn `2**16` times, always with the same numbers: a bound does
    not change when later looks are added. Where the error to spend is too small to be counted in them, the bound is
    that of the look on its own, which is larger.

    Args:
        correlation: of the statistics, `(looks, looks)`.
        spent: the error that may have been made up to each look.

    Returns:
        float64 `(looks,)`.
    """
    looks = len(spent)
    root = np.linalg.cholesky(0.999999 * correlation + 0.000001 * np.eye(looks))
    statistics = np.abs(root @ _normal(looks))
    inside = np.ones(_PATHS, bool)
    found = np.empty(looks)
    made = 0.0  # error that has been spent so far
    for look in range(looks):
        new = spent[look] - made
        paths = int(new * _PATHS)
        alone = float(norm.isf(new / 2)) if new > 0 else np.inf
        if paths < _FEW:
            found[look] = alone
        else:
            left = statistics[look][inside]
            found[look] = min(alone, np.partition(left, len(left) - paths)[len(left) - paths])
        inside &= statistics[look] < found[look]
        made = spent[look]
    return found


@functools.lru_cache(maxsize=1)
def _normal(looks: int) -> np.ndarray:
    """Independent numbers, `(looks, _PATHS)`; those of a look are the same however many follow."""
    return np.random.default_rng(0).standard_normal((looks, _PATHS))
