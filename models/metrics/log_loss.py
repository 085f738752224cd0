"""Log loss of probabilities."""

import numpy as np

_EPSILON = 1e-7  # a float32 probability of exactly 0 or 1 is a rounded one


def log_loss(probabilities: np.ndarray, clicked: np.ndarray) -> float:
    """Mean negative log likelihood of clicks.

    Args:
        probabilities: shape `(n,)`.
        clicked: bool, shape `(n,)`.

    Returns:
        The mean, NaN for `n = 0`.
    """
    if not len(probabilities):
        return float("nan")
    p = np.clip(np.asarray(probabilities, np.float64), _EPSILON, 1 - _EPSILON)
    return float(-np.where(np.asarray(clicked, bool), np.log(p), np.log1p(-p)).mean())
