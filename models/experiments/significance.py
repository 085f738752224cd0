"""Tests around the comparison of arms: the sample ratio before it, several comparisons after it."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import chisquare

SAMPLE_RATIO_P = 0.0005
"""Below this, the numbers of users are not those of the weights: the experiment is broken."""


def sample_ratio_p(counts: Sequence[int], shares: Sequence[float]) -> float:
    """The p-value of the numbers of users in the arms, by a chi-squared test.

    Args:
        counts: users of each arm.
        shares: that each arm should have; their sum is 1.

    Reference: Fabijan et al., Diagnosing sample ratio mismatch in online controlled experiments (KDD 2019); the bound
    is theirs.
    """
    return float(chisquare(counts, np.array(shares) * sum(counts)).pvalue)


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values of several comparisons, adjusted so that with probability `1 - a` none below `a` is false.

    Args:
        p: of each; NaN, where a comparison is undefined, counts as 1.

    Returns:
        float64 `(len(p),)`, in the same order.

    Reference: Holm, A simple sequentially rejective multiple test procedure (1979).
    """
    values = np.nan_to_num(np.asarray(p, np.float64), nan=1.0)
    order = np.argsort(values, kind="stable")
    adjusted = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    result = np.empty(len(values))
    result[order] = np.minimum(adjusted, 1.0)
    return result
