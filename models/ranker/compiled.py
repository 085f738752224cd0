"""The loss and the metrics that a user gives to `Ranker.compile`, called so that padding never counts.

Keras' own losses and metrics know of examples alone, not of pages: they see each candidate as an example, shape
`(n, 1)`, with a weight of 0 for padding. All others see pages, shape `(batch, candidates)`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

PADDED_LABEL = -1.0
"""The label of padded candidates that losses and metrics of pages see."""


class ClickLoss:
    """A loss of log-odds for the task `ctr`, in the place of log loss.

    Args:
        loss: what Keras' `compile(loss=...)` takes. Keras' own losses get labels and log-odds `(n, 1)`. A function or
            a `keras.losses.Loss` of the user's gets them as `(batch, candidates)`, with -1 for the label of padding,
            and returns losses `(batch, candidates)`, or one per page, `(batch,)`. The mean over candidates, or pages,
            is taken over all replicas' batch; a loss' own `reduction` has no effect.

    Raises:
        ValueError: it takes probabilities.
    """

    def __init__(self, loss: Any) -> None:
        self._is_stock = isinstance(loss, str) or _is_stock(loss)
        function = keras.losses.get(loss)
        if isinstance(loss, str) and "from_logits" in inspect.signature(function).parameters:
            function = functools.partial(function, from_logits=True)
        if isinstance(function, keras.losses.Loss):
            if self._is_stock and function.get_config().get("from_logits", True) is False:
                raise ValueError(
                    f"`loss` must take log-odds: {type(function).__name__}(from_logits=True). "
                    "Received: from_logits=False"
                )
            function = function.call
        self._function: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = function

    def __call__(self, clicked: tf.Tensor, logits: tf.Tensor, present: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes losses.

        Args:
            clicked: 0 or 1, shape `(batch, candidates)`.
            logits: log-odds of a click, that shape.
            present: that shape, 0 at padding.

        Returns:
            Losses and what each counts, of the same shape: that of the candidates, or `(batch,)`.
        """
        if self._is_stock:
            losses = self._function(tf.reshape(clicked, (-1, 1)), tf.reshape(logits, (-1, 1)))
            return tf.where(present > 0, tf.reshape(losses, tf.shape(logits)), 0.0), present
        losses = self._function(tf.where(present > 0, clicked, PADDED_LABEL), logits)
        if len(losses.shape) == 1:
            present = tf.reduce_max(present, axis=1)
        return tf.where(present > 0, losses, 0.0), present


class ClickMetric:
    """A metric of click probabilities.

    Args:
        metric: what Keras' `compile(metrics=...)` takes. Keras' own metrics get labels, probabilities and weights
            `(n, 1)`; others get them as `(batch, candidates)`, with -1 for the label of padding.

    Attributes:
        metric: the Keras metric.
    """

    def __init__(self, metric: Any) -> None:
        self._is_stock = isinstance(metric, str) or _is_stock(metric)
        if metric in ("accuracy", "acc"):
            metric = keras.metrics.BinaryAccuracy(name=metric)
        metric = keras.metrics.get(metric)
        if not isinstance(metric, keras.metrics.Metric):
            metric = keras.metrics.MeanMetricWrapper(metric, name=getattr(metric, "__name__", None))
        self.metric: keras.metrics.Metric = metric

    def update(self, clicked: tf.Tensor, ctr: tf.Tensor, present: tf.Tensor) -> None:
        """Adds a batch, shape `(batch, candidates)` each."""
        if self._is_stock:
            clicked, ctr, present = (tf.reshape(values, (-1, 1)) for values in (clicked, ctr, present))
        else:
            clicked = tf.where(present > 0, clicked, PADDED_LABEL)
        self.metric.update_state(clicked, ctr, sample_weight=present)


def _is_stock(loss_or_metric: Any) -> bool:
    defined = loss_or_metric if inspect.isfunction(loss_or_metric) else type(loss_or_metric)
    return defined.__module__.partition(".")[0] == "keras"
