"""What Keras metrics of pages have in common: padding, weights and a state that adds up."""

from typing import Any

import keras
from keras import ops


class PageMetric(keras.Metric):
    """Base of metrics that are a ratio of two sums over candidates or pages.

    Sums add up over batches and over replicas, so the result does not depend on how pages are batched or distributed.
    Subclasses implement `sums`.

    Args:
        name: str. Name in logs.
        dtype: dtype of the sums, the float type of Keras by default: float32 under mixed precision, too.
    """

    def __init__(self, name: str, dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.total = self.add_variable(shape=(), initializer="zeros", dtype=self.dtype, name="total")
        self.count = self.add_variable(shape=(), initializer="zeros", dtype=self.dtype, name="count")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch of pages.

        Padding may hold anything, NaN included. A candidate is padding if its label is negative, if its weight is 0, or
        if `y_pred` has a Keras mask that says so.

        Args:
            y_true: shape `(batch, candidates)`, above 0 = clicked, 0 = not clicked, below 0 = padding.
            y_pred: shape `(batch, candidates)`.
            sample_weight: `None`, or weights of candidates, shape `(batch, candidates)`, 0 = padding, or of pages,
                shape `(batch,)` or `(batch, 1)`.

        Raises:
            ValueError: `y_true` and `y_pred` differ in shape or have no axis of candidates.
        """
        mask = getattr(y_pred, "_keras_mask", None)
        y_true, y_pred = (ops.cast(values, self.dtype) for values in (y_true, y_pred))
        if len(y_pred.shape) != 2 or len(y_true.shape) != 2 or not _agree(y_true.shape, y_pred.shape):
            raise ValueError(
                "`y_true` and `y_pred` must have shape (batch, candidates). "
                f"Received: y_true.shape={tuple(y_true.shape)}, y_pred.shape={tuple(y_pred.shape)}"
            )
        weights = ops.cast(y_true >= 0, self.dtype)
        if mask is not None:
            weights *= ops.cast(mask, self.dtype)
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, self.dtype)
            weights *= ops.expand_dims(sample_weight, 1) if len(sample_weight.shape) == 1 else sample_weight
        total, count = self.sums(y_true > 0, ops.where(weights > 0, y_pred, 0), weights)
        self.total.assign_add(total)
        self.count.assign_add(count)

    def sums(self, clicked: Any, y_pred: Any, weights: Any) -> tuple[Any, Any]:
        """Numerator and denominator of a batch, scalars.

        Args:
            clicked: bool, shape `(batch, candidates)`.
            y_pred: shape `(batch, candidates)`, 0 at padding.
            weights: shape `(batch, candidates)`, 0 at padding.
        """
        raise NotImplementedError

    def result(self) -> Any:
        """The ratio of the sums; NaN while it is undefined."""
        return ops.divide(self.total, self.count)


def _agree(first: Any, second: Any) -> bool:
    return all(a is None or b is None or a == b for a, b in zip(first, second, strict=True))
