"""GAUC as a Keras metric."""

from typing import Any, Literal

import keras
from keras import ops

from models.metrics.page_metric import PageMetric


@keras.saving.register_keras_serializable(package="courier")
class GAUC(PageMetric):
    """Mean AUC of the pages that have clicked and unclicked candidates; ties count one half.

    A page is a row of the batch. The AUC of each is exact, without thresholds. Pages of one class have none and are
    left out; the result is NaN until a page has one, and NaN if a prediction on such a page is. Only the order of
    predictions counts: logits and probabilities have the same GAUC, up to probabilities that rounding makes equal.

    A candidate of weight `w` counts as `w` of them; a page weighs as the mean of its candidates' weights.

    Args:
        average: `"mean"`, each page has the same weight, or `"impressions"`, each page weighs as its candidates.
        name: str. Name in logs.
        dtype: dtype of the sums.

    Example:

    >>> metric = GAUC()
    >>> metric.update_state([[1, 0, 0, -1], [0, 1, 0, 0]], [[0.9, 0.2, 0.1, 0.0], [0.1, 0.4, 0.4, 0.7]])
    >>> float(metric.result())  # the mean of 1 and 1/2
    0.75

    In training:

    >>> ranker.compile(metrics=[GAUC()])
    >>> stopping = keras.callbacks.EarlyStopping("val_gauc", mode="max", patience=3)
    >>> ranker.fit(train.batches(64), validation_data=later.batches(128), epochs=7, callbacks=[stopping])

    Other Keras models than `Ranker` tell `weighted_metrics` alone which candidates of `Pages.batches` are padding:
    `model.compile("adam", loss, weighted_metrics=[GAUC()])`.

    Reference: Zhou et al., Deep Interest Network for Click-Through Rate Prediction (KDD 2018), section 6.2, by user.
    """

    def __init__(
        self, average: Literal["mean", "impressions"] = "mean", *, name: str = "gauc", dtype: Any = None
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        if average not in ("mean", "impressions"):
            raise ValueError(f'`average` must be "mean" or "impressions". Received: average={average!r}')
        self.average = average

    def sums(self, clicked: Any, y_pred: Any, weights: Any) -> tuple[Any, Any]:
        """The sum of the pages' AUC, and of their weights; see the class."""
        positives = ops.where(clicked, weights, 0)
        # Of equal predictions, sorting leaves the clicked first, so those below a clicked candidate are really smaller.
        order = ops.argsort(ops.where(clicked, 0, 1), axis=1)
        columns = ops.stack([y_pred, positives, weights - positives])
        wins, losses = _pairs_won(ops.take_along_axis(columns, order[None], axis=2))
        pairs = ops.sum(positives, axis=1) * ops.sum(weights - positives, axis=1)
        auc = (1 + ops.divide_no_nan(wins - losses, pairs)) / 2
        auc = ops.where(ops.any(ops.isnan(y_pred), axis=1), float("nan"), auc)  # sorting would hide it
        page_weights = ops.sum(weights, axis=1)
        if self.average == "mean":
            page_weights = ops.divide_no_nan(page_weights, ops.sum(ops.cast(weights > 0, self.dtype), axis=1))
        has_auc = pairs > 0
        return ops.sum(ops.where(has_auc, page_weights * auc, 0)), ops.sum(ops.where(has_auc, page_weights, 0))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "average": self.average}


def _pairs_won(columns: Any) -> list[Any]:
    """Per page, the pairs whose clicked candidate scores higher, and those whose clicked candidate scores lower.

    Args:
        columns: scores, and weights of the clicked and of the unclicked, shape `(3, pages, candidates)`; each page has
            its clicked candidates first.
    """
    scores = columns[0]
    orders = ops.argsort(ops.stack([scores, -scores]), axis=2)
    positives, negatives = ops.unstack(ops.take_along_axis(columns[1:, None], orders[None], axis=3), 2)
    return ops.unstack(ops.sum(positives * (ops.cumsum(negatives, axis=2) - negatives), axis=2), 2)
