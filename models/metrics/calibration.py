"""Whether predicted probabilities are as large as what happens."""

from typing import NamedTuple

import numpy as np

from models.metrics.log_loss import candidate_weights

BINS = 10


class CalibrationCurve(NamedTuple):
    """Bins of candidates by prediction, lowest first; every array has shape `(bins,)`.

    Attributes:
        predicted: mean prediction.
        observed: share of clicks.
        candidates: how many there are.
        clicks: how many of them are clicked.
        weight: share of all that the bin stands for, see `candidate_weights`.
    """

    predicted: np.ndarray
    observed: np.ndarray
    candidates: np.ndarray
    clicks: np.ndarray
    weight: np.ndarray

    def ece(self) -> float:
        """Expected calibration error: mean distance of prediction and observation over the bins; NaN without any."""
        return float(self.weight @ np.abs(self.predicted - self.observed)) if len(self.weight) else float("nan")


def copc(probabilities: np.ndarray, clicked: np.ndarray, negative_rate: float = 1.0) -> float:
    """Clicks over predicted clicks: 1 is right, below 1 predictions are too large.

    Args:
        probabilities: shape `(n,)`.
        clicked: bool, shape `(n,)`.
        negative_rate: share of the unclicked that is left, see `candidate_weights`.

    Returns:
        The ratio, NaN where no click is predicted.
    """
    weights = candidate_weights(clicked, negative_rate)
    predicted = float(weights @ np.asarray(probabilities, np.float64))
    return float(weights @ np.asarray(clicked, bool)) / predicted if predicted else float("nan")


def calibration_curve(
    probabilities: np.ndarray, clicked: np.ndarray, negative_rate: float = 1.0, bins: int = BINS
) -> CalibrationCurve:
    """Compares predictions with clicks in bins of equally many candidates.

    Equal predictions share a bin, so that the order of rows means nothing; a constant prediction makes one bin.

    Args:
        probabilities: shape `(n,)`.
        clicked: bool, shape `(n,)`.
        negative_rate: share of the unclicked that is left, see `candidate_weights`; above 0.
        bins: how many, at most.
    """
    p, clicked = np.asarray(probabilities, np.float64), np.asarray(clicked, bool)
    weights = candidate_weights(clicked, negative_rate)
    order = np.argsort(p)
    start = np.flatnonzero(np.r_[True, p[order][1:] != p[order][:-1]][: len(p)])
    tie_size = np.diff(np.r_[start, len(p)])
    number = np.repeat((start + tie_size / 2) * bins // max(len(p), 1), tie_size).astype(np.int64)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(number, values[order], minlength=bins)

    candidates, weight = np.bincount(number, minlength=bins), total(weights)
    used = weight > 0
    return CalibrationCurve(
        predicted=total(weights * p)[used] / weight[used],
        observed=total(weights * clicked)[used] / weight[used],
        candidates=candidates[used],
        clicks=total(clicked.astype(np.float64))[used].astype(np.int64),
        weight=weight[used] / weight.sum(),
    )
