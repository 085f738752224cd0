"""Post-hoc calibration: an increasing map of logits, fitted on validation pages and exported inside the graph."""

from typing import Literal

import numpy as np
import tensorflow as tf
from pydantic import model_validator
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression

from models.config import Config

_LARGEST_LOGIT = 80.0  # about where the float32 sigmoid ends: there is nothing to calibrate beyond
_SMALLEST_SLOPE = 0.01  # the map never flattens: ties on a page would lose its order
_LARGEST_SLOPE = 100.0


class Calibrator(Config):
    """A strictly increasing, piecewise linear map of logits, so that it changes probabilities and no order.

    Logits are cut at +-80 first, where float32 probabilities end; of kind `none` they stay as they are.

    Attributes:
        kind: `none`, `platt` (one straight line) or `isotonic`; how it was fitted.
        x: logits of the knots, strictly increasing.
        y: what they become, strictly increasing.
        slope: before the first knot and after the last.
    """

    kind: Literal["none", "platt", "isotonic"] = "none"
    x: tuple[float, ...] = (0.0,)
    y: tuple[float, ...] = (0.0,)
    slope: float = 1.0

    @model_validator(mode="after")
    def _is_increasing(self) -> "Calibrator":
        if not len(self.x) == len(self.y) >= 1:
            raise ValueError(f"x and y must be of the same length, at least 1. Received: {len(self.x)}, {len(self.y)}")
        knots = np.array([self.x, self.y])
        if not (np.isfinite([*knots.ravel(), self.slope]).all() and (np.diff(knots) > 0).all() and self.slope > 0):
            raise ValueError("x and y must be finite and strictly increasing, and slope above 0")
        return self

    def apply(self, logits: tf.Tensor) -> tf.Tensor:
        """Calibrates in a graph, with standard operations alone.

        Args:
            logits: float32, of any shape.

        Returns:
            float32 of that shape: finite where logits are, and never decreasing in them.
        """
        if self.kind == "none":
            return tf.identity(logits)
        x, y, slope, upper = (tf.constant(part, tf.float32) for part in self._segments())
        flat = tf.reshape(tf.clip_by_value(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT), (-1,))
        segment = tf.searchsorted(x, flat, side="right")
        knot = tf.maximum(segment - 1, 0)
        value = tf.gather(y, knot) + (flat - tf.gather(x, knot)) * tf.gather(slope, segment)
        # Rounding must not carry a segment's end above the start of the next.
        return tf.reshape(tf.minimum(value, tf.gather(upper, segment)), tf.shape(logits))

    def apply_numpy(self, logits: np.ndarray) -> np.ndarray:
        """`apply` in float64, where logits that differ stay different."""
        logits = np.asarray(logits, np.float64)
        if self.kind == "none":
            return logits
        x, y, slope, upper = self._segments()
        flat = np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)
        segment = np.searchsorted(x, flat, side="right")
        knot = np.maximum(segment - 1, 0)
        return np.minimum(y[knot] + (flat - x[knot]) * slope[segment], upper[segment])

    def _segments(self) -> tuple[np.ndarray, ...]:
        """Knots, and slope and largest value of the segments before, between and after them."""
        x, y = np.array(self.x), np.array(self.y)
        slope = np.r_[self.slope, np.diff(y) / np.diff(x), self.slope]
        return x, y, slope, np.r_[y, np.finfo(np.float32).max]


def to_logits(probabilities: np.ndarray) -> np.ndarray:
    """Log-odds, float64 and finite: probabilities of 0 and 1 are taken for the smallest and largest of float32."""
    p = np.asarray(probabilities, np.float64)
    with np.errstate(divide="ignore"):
        return np.clip(np.log(p) - np.log1p(-p), -_LARGEST_LOGIT, _LARGEST_LOGIT)


def fit_platt(logits: np.ndarray, clicked: np.ndarray, weights: np.ndarray | None = None) -> Calibrator:
    """Fits `slope * logit + intercept` by maximum likelihood.

    The targets are drawn towards one half as if each class had one more candidate of the other kind, so that the slope
    stays finite when a threshold separates the classes. Scores that order candidates the wrong way round get the
    smallest slope, 0.01: they become nearly constant.

    Args:
        logits: finite, shape `(n,)`.
        clicked: bool, shape `(n,)`.
        weights: shape `(n,)`, see `candidate_weights`; unset: all the same.

    Raises:
        ValueError: shapes differ, a logit is not finite, or `clicked` has one class.

    Reference: Platt, Probabilistic outputs for support vector machines (1999), section 2.2.
    """
    logits, clicked, weights = _checked(logits, clicked, weights)
    positives = int(clicked.sum())
    target = np.where(clicked, (positives + 1) / (positives + 2), 1 / (len(clicked) - positives + 2))
    center, spread = np.average(logits, weights=weights), max(float(logits.std()), 1e-6)
    z = (logits - center) / spread  # so that the optimizer's steps are of order one

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        value = line[0] * z + line[1]
        error = weights * (0.5 * (1 + np.tanh(value / 2)) - target)
        return float(weights @ (np.logaddexp(0, value) - target * value)), np.array([error @ z, error.sum()])

    bounds = [(_SMALLEST_SLOPE * spread, _LARGEST_SLOPE * spread), (None, None)]
    start = np.array([np.clip(spread, *bounds[0]), center])
    line = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10}).x
    slope = float(line[0] / spread)
    return Calibrator(kind="platt", x=(0.0,), y=(float(line[1] - slope * center),), slope=slope)


def fit_isotonic(logits: np.ndarray, clicked: np.ndarray, weights: np.ndarray | None = None) -> Calibrator:
    """Fits isotonic regression, then joins the centres of its blocks by straight lines in logit space.

    Isotonic regression itself is constant on a block, which would tie what the ranker had ordered. Here every segment
    rises, by 0.01 at least, and beyond the outer blocks the map goes on with slope 1.

    Args:
        logits: finite, shape `(n,)`.
        clicked: bool, shape `(n,)`.
        weights: shape `(n,)`, see `candidate_weights`; unset: all the same.

    Raises:
        ValueError: shapes differ, a logit is not finite, or `clicked` has one class.
    """
    logits, clicked, weights = _checked(logits, clicked, weights)
    fitted = IsotonicRegression().fit_transform(logits, clicked.astype(np.float64), sample_weight=weights)
    value, block = np.unique(fitted, return_inverse=True)
    weight = np.bincount(block, weights)
    x = np.bincount(block, weights * logits) / weight
    smallest = 0.5 * weights.max() / weights.sum()  # blocks without a click, or with clicks alone, are no certainty
    y = to_logits(np.clip(value, smallest, 1 - smallest))
    y = np.maximum.accumulate(y - _SMALLEST_SLOPE * x) + _SMALLEST_SLOPE * x
    apart = np.r_[True, np.diff(x) > 1e-6]  # of blocks that float32 cannot tell apart, the first stands for all
    return Calibrator(kind="isotonic", x=tuple(x[apart].tolist()), y=tuple(y[apart].tolist()))


def _checked(
    logits: np.ndarray, clicked: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    logits, clicked = np.asarray(logits, np.float64), np.asarray(clicked, bool)
    weights = np.ones(len(logits)) if weights is None else np.asarray(weights, np.float64)
    if not logits.shape == clicked.shape == weights.shape or logits.ndim != 1:
        raise ValueError(
            "`logits`, `clicked` and `weights` must be vectors of the same length. "
            f"Received: {logits.shape}, {clicked.shape}, {weights.shape}"
        )
    if not np.isfinite(logits).all():
        raise ValueError(f"`logits` must be finite. Received: {int((~np.isfinite(logits)).sum())} that are not")
    if clicked.all() or not clicked.any():
        raise ValueError(f"`clicked` must have both classes. Received: {int(clicked.sum())} of {len(clicked)} clicked")
    return logits, clicked, weights
