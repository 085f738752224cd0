"""Log loss of probabilities."""

import numpy as np

_EPSILON = 1e-7  # a float32 probability of exactly 0 or 1 is a rounded one


def log_loss(probabilities: np.ndarray, clicked: np.ndarray, negative_rate: float = 1.0) -> float:
    """Mean negative log likelihood of clicks.

    Args:
        probabilities: shape `(n,)`.
        clicked: bool, shape `(n,)`.
        negative_rate: share of the unclicked that is left of a larger set, whose mean is estimated, see
            `candidate_weights`.

    Returns:
        The mean, NaN for `n = 0` and where `negative_rate` is 0.

    Raises:
        ValueError: a probability is NaN.
    """
    weights = candidate_weights(clicked, negative_rate)
    if not weights.any():
        return float("nan")
    return float(np.average(log_losses(probabilities, clicked), weights=weights))


def log_losses(probabilities: np.ndarray, clicked: np.ndarray) -> np.ndarray:
    """Negative log likelihood of each outcome.

    Args:
        probabilities: shape `(n,)`.
        clicked: bool, shape `(n,)`.

    Returns:
        float64 `(n,)`; certain and wrong is bad, not infinite.

    Raises:
        ValueError: a probability is NaN.
    """
    p = np.asarray(probabilities, np.float64)
    if np.isnan(p).any():
        raise ValueError(f"`probabilities` must not be NaN. Received: {int(np.isnan(p).sum())} of {len(p)} are")
    p = np.clip(p, _EPSILON, 1 - _EPSILON)
    return -np.where(np.asarray(clicked, bool), np.log(p), np.log1p(-p))


def candidate_weights(clicked: np.ndarray, negative_rate: float) -> np.ndarray:
    """How much candidates count where only some of the unclicked ones are left.

    Args:
        clicked: bool, shape `(n,)`.
        negative_rate: share of the unclicked that is left: each one stands for `1 / negative_rate` of them.

    Returns:
        float64 `(n,)`, scaled to 1 for the unclicked and so `negative_rate` for the clicked: finite at rate 0, too.
    """
    return np.where(np.asarray(clicked, bool), negative_rate, 1.0)
