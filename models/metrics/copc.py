"""COPC as a Keras metric."""

from typing import Any

import keras
from keras import ops

from models.metrics.page_metric import PageMetric


@keras.saving.register_keras_serializable(package="courier")
class COPC(PageMetric):
    """Clicks over predicted clicks: 1 is calibrated, below 1 predictions are too large; NaN while none is predicted.

    Args:
        negative_rate: float. Share of the unclicked candidates that sampling has left on the pages: each one stands for
            `1 / negative_rate` of them.
        from_logits: whether predictions are logits instead of probabilities.
        name: str. Name in logs.
        dtype: dtype of the sums.

    Example:

    >>> metric = COPC()
    >>> metric.update_state([[1, 0, 0, 0], [1, 0, -1, -1]], [[0.1, 0.1, 0.1, 0.1], [0.2, 0.2, 0.0, 0.0]])
    >>> float(metric.result())  # 2 clicks where 0.8 are predicted
    2.5
    """

    def __init__(
        self, negative_rate: float = 1.0, from_logits: bool = False, *, name: str = "copc", dtype: Any = None
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        if not 0 < negative_rate <= 1:
            raise ValueError(f"`negative_rate` must be above 0 and at most 1. Received: negative_rate={negative_rate}")
        self.negative_rate = negative_rate
        self.from_logits = from_logits

    def sums(self, clicked: Any, y_pred: Any, weights: Any) -> tuple[Any, Any]:
        """Clicks and predicted clicks; see the class."""
        probabilities = ops.sigmoid(y_pred) if self.from_logits else y_pred
        weights = ops.where(clicked, self.negative_rate * weights, weights)
        return ops.sum(ops.where(clicked, weights, 0)), ops.sum(weights * probabilities)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "negative_rate": self.negative_rate, "from_logits": self.from_logits}
