"""The scale of a number, robust against whatever a column holds, and numbers encoded by it."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from pydantic import Field, NonNegativeInt, model_validator

from models.config import Config
from models.features.spec import NumberFeature

LARGEST = float(np.float32(1e36))
"""Numbers of this magnitude are no measurements but marks of what is missing, such as FLT_MAX."""
LARGEST_COUNT = 2.0**53
"""Counts of this magnitude are marks, too, such as the largest int64."""

_SMALLEST = float(np.finfo(np.float32).tiny)  # below it, what a kernel makes of a number depends on the thread
_FAR = 100  # distances between the quartiles
_CUT = 1000  # of so many values, one is cut off at either end
_LEAST_DEVIATION = 1e-6  # of the largest magnitude: float32 hardly holds less
_SMALLEST_DEVIATION = 1e-30


class NumberScale(Config):
    """Scale of a number, or of `log_magnitude` of it if its feature's transform is `log`.

    Attributes:
        mean, deviation: over what training has seen, clipped; 0 and 1 if it has seen nothing, and a deviation of 1 if
            it has seen one value.
        boundaries: of the quantiles, ascending; empty unless the transform is `buckets`.
        low, high: the range that a number is clipped to before it is transformed, see `scale_of`; `None` in rankers
            that were made before there was one: they clip nothing.
        seen: how many values training has seen.
        missing: how many of them are no numbers, see `as_numbers`.
        clipped: how many of them are outside the range.
    """

    mean: float
    deviation: float = Field(gt=0)
    boundaries: tuple[float, ...] = ()
    low: float | None = None
    high: float | None = None
    seen: NonNegativeInt = 0
    missing: NonNegativeInt = 0
    clipped: NonNegativeInt = 0

    @model_validator(mode="after")
    def _is_ordered(self) -> "NumberScale":
        if (self.low is None) != (self.high is None) or self.range.low > self.range.high:
            raise ValueError(f"low must be at most high. Received: {self.low} and {self.high}")
        if (np.diff(self.boundaries) < 0).any():
            raise ValueError(f"boundaries must be ascending. Received: {self.boundaries}")
        return self

    @property
    def range(self) -> "NumberRange":
        """The range to clip to: that of all float32 numbers if there is none."""
        largest = float(np.finfo(np.float32).max)
        return NumberRange(-largest if self.low is None else self.low, largest if self.high is None else self.high)


class NumberRange(NamedTuple):
    """The smallest and the largest number."""

    low: float
    high: float


def scale_of(values: np.ndarray, feature: NumberFeature) -> NumberScale:
    """The scale of a number: of what training has seen of it, without what is far away from all the rest.

    Left out are values farther from the quartiles of the distinct values than 100 times the distance of these, so that
    a mark such as 9999999 does not count as a measurement however often it is there; and of 1000 values that are left,
    the smallest and the largest. What is left is the range to which numbers are clipped; mean and deviation are those
    of the clipped values. If they differ by no more than rounding, all are one value, and the deviation is 1.

    Args:
        values: float `(n,)`, as training has seen them; what is no number is missing, see `as_numbers`.
        feature: the declaration.
    """
    numbers = as_numbers(values)
    numbers = np.sort(numbers[~np.isnan(numbers)])
    counted = {"seen": len(values), "missing": len(values) - len(numbers)}
    if not len(numbers):
        boundaries = (0.0,) * (feature.buckets - 1) if feature.transform == "buckets" else ()
        return NumberScale(mean=0.0, deviation=1.0, boundaries=boundaries, low=0.0, high=0.0, **counted)
    low, high = _usual_range(numbers)
    clipped = _transformed(np.clip(numbers, low, high), feature)
    mean, deviation = float(clipped.mean()), float(clipped.std())
    if deviation <= max(_LEAST_DEVIATION * float(np.abs(clipped).max()), _SMALLEST_DEVIATION):
        low = high = float(numbers[len(numbers) // 2])
        mean, deviation = float(_transformed(np.array([low]), feature)[0]), 1.0
    boundaries = ()
    if feature.transform == "buckets":
        # Equal boundaries leave the buckets between them empty.
        quantiles = np.quantile(np.clip(numbers, low, high), np.arange(1, feature.buckets) / feature.buckets)
        boundaries = tuple(np.maximum.accumulate(quantiles).tolist())
    outside = int(((numbers < low) | (numbers > high)).sum())
    return NumberScale(
        mean=mean, deviation=deviation, boundaries=boundaries, low=low, high=high, clipped=outside, **counted
    )


def as_numbers(values: np.ndarray) -> np.ndarray:
    """Values as float32 holds them, which requests and graphs do: what it does not hold is no number.

    Args:
        values: float or integer, any shape.

    Returns:
        float64 of that shape: NaN for what is not finite in float32 or is as large as `LARGEST`, 0 for what float32
        holds imprecisely only because it is so small (subnormal).
    """
    with np.errstate(over="ignore"):
        numbers = np.asarray(values).astype(np.float32).astype(np.float64)
    magnitudes = np.abs(numbers)
    return np.where(magnitudes < _SMALLEST, 0.0, np.where(magnitudes < LARGEST, numbers, np.nan))


def present_numbers(values: tf.Tensor, largest: float | tf.Tensor = LARGEST) -> tuple[tf.Tensor, tf.Tensor]:
    """`as_numbers` in a graph.

    Args:
        values: float32, any shape.
        largest: the magnitude from which on nothing is a number; broadcastable to the shape.

    Returns:
        The numbers, 0 for what is none, and which are.
    """
    magnitudes = tf.abs(values)
    present = magnitudes < largest  # NaN is not
    return tf.where(present & (magnitudes >= _SMALLEST), values, 0.0), present


def encode_numbers(values: tf.Tensor, scale: NumberScale, feature: NumberFeature) -> tf.Tensor:
    """Numbers as a table holds them.

    Args:
        values: float32, any shape; NaN and whatever is no number is missing.
        scale: what training has seen of the number.
        feature: the declaration.

    Returns:
        Of that shape: float32 transformed, 0 = missing; or int32 buckets from 1 on, 0 = missing. Always finite.
    """
    numbers, present = present_numbers(values)
    numbers = tf.clip_by_value(numbers, *scale.range)
    if feature.transform == "buckets":
        flat = tf.searchsorted(tf.constant(scale.boundaries, tf.float32), tf.reshape(numbers, (-1,)), side="right")
        return tf.where(present, tf.reshape(flat, tf.shape(numbers)) + 1, 0)
    numbers = tf.cast(numbers, tf.float64)
    if feature.transform == "log":
        numbers = log_magnitude(numbers)
    standard = tf.cast((numbers - scale.mean) / scale.deviation, tf.float32)
    return tf.where(present & tf.math.is_finite(standard), standard, 0.0)


def log_magnitude(values: np.ndarray | tf.Tensor) -> tf.Tensor:
    """`sign(x) log(1 + |x|)`, of any shape."""
    return tf.sign(values) * tf.math.log1p(tf.abs(values))


def _usual_range(numbers: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest of sorted numbers that are no outliers; see `scale_of`."""
    distinct = np.unique(numbers)
    quarter = len(distinct) // 4
    lower, upper = distinct[quarter], distinct[-1 - quarter]
    reach = _FAR * (upper - lower)
    usual = numbers[(numbers >= lower - reach) & (numbers <= upper + reach)]
    cut = len(usual) // _CUT
    return float(usual[cut]), float(usual[-1 - cut])


def _transformed(numbers: np.ndarray, feature: NumberFeature) -> np.ndarray:
    return log_magnitude(numbers).numpy() if feature.transform == "log" else numbers
