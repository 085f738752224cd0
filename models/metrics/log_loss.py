"""Log loss of probabilities."""

import numpy as np

_EPSILON = 1e-7  # a float32 probability of exactly 0 or 1 is a rounded one


def log_loss(probabilities: np.ndarray, clicked: np.ndarray, negative_rate: float = 1.0) -> float:
    """Mean negative log likelihood of clicks.

    Args:
        probabilities: shape `(n,)`.
        clicked: bool, shape `(n,)`.
        negative_rate: share of the unclicked that is left of a larger set, whose mean is estimated: each one that is
            left stands for `1 / negative_rate` of them.

    Returns:
        The mean, NaN for `n = 0` and where `negative_rate` is 0.
    """
    clicked = np.asarray(clicked, bool)
    weights = np.where(clicked, negative_rate, 1.0)
    if not weights.any():
        return float("nan")
    p = np.clip(np.asarray(probabilities, np.float64), _EPSILON, 1 - _EPSILON)
    return float(np.average(-np.where(clicked, np.log(p), np.log1p(-p)), weights=weights))
