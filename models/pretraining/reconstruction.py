"""User-intention reconstruction: what a user's clicks say about a candidate, and its ablation."""

from typing import Any

import keras
from keras import ops

_MASKED = -1e9


@keras.saving.register_keras_serializable(package="courier")
class UserIntentionReconstruction(keras.layers.Layer):
    """Attention of candidates over clicks without any projection, so that results stay in the simplex of the clicks.

    Computes in float32. Clicks that are not valid get a weight of exactly 0; without any valid click the result is 0.

    Args:
        scores: `scaled` divides the dot products by the square root of the embeddings' length as the paper's equation
            1 does, `raw` leaves them alone as the text of its equation 3 does.

    Call arguments:
        candidates: `(batch, candidates, dim)`.
        clicks: `(batch, clicks, dim)`.
        click_valid: bool `(batch, clicks)`.

    Returns:
        `(batch, candidates, dim)`.

    Reference: COURIER, equations 1-3.
    """

    def __init__(self, scores: str = "scaled", **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        if scores not in ("scaled", "raw"):
            raise ValueError(f"`scores` must be 'scaled' or 'raw'. Received: {scores!r}")
        self.scores = scores
        self.built = True

    def call(self, candidates: Any, clicks: Any, click_valid: Any) -> Any:
        """See the class."""
        return ops.matmul(self.attention_weights(candidates, clicks, click_valid), clicks)

    def attention_weights(self, candidates: Any, clicks: Any, click_valid: Any) -> Any:
        """How much of each click a reconstruction takes: float32 `(batch, candidates, clicks)`, rows add up to 1."""
        return self._attend(candidates, clicks, click_valid)

    def _attend(self, queries: Any, clicks: Any, click_valid: Any) -> Any:
        queries, clicks = ops.cast(queries, "float32"), ops.cast(clicks, "float32")
        valid = ops.cast(click_valid, "float32")[:, None, :]
        scores = ops.matmul(queries, ops.swapaxes(clicks, 1, 2))
        if self.scores == "scaled":
            scores = scores * clicks.shape[-1] ** -0.5
        # The second factor only matters where every click is masked and the softmax is uniform.
        return ops.softmax(ops.where(valid > 0, scores, _MASKED), axis=-1) * valid

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "scores": self.scores}


@keras.saving.register_keras_serializable(package="courier")
class SelfAttentionReconstruction(UserIntentionReconstruction):
    """Attention of the clicks over themselves, averaged over the valid clicks: one vector per user.

    Takes and returns what `UserIntentionReconstruction` does. All candidates of a page get the same result, which
    depends on none of them. As there, nothing is projected and results stay in the simplex of the clicks.

    Args:
        scores: `scaled` or `raw`, see `UserIntentionReconstruction`.

    Reference: COURIER, section 4.3.2, "w/o Reconstruction".
    """

    def attention_weights(self, candidates: Any, clicks: Any, click_valid: Any) -> Any:
        """How much of each click the reconstruction takes: float32 `(batch, candidates, clicks)`, rows are equal."""
        valid = ops.cast(click_valid, "float32")
        by_click = self._attend(clicks, clicks, click_valid) * valid[:, :, None]  # padding does not ask
        pooled = ops.sum(by_click, axis=1, keepdims=True) / ops.maximum(ops.sum(valid, axis=1)[:, None, None], 1.0)
        return ops.repeat(pooled, candidates.shape[1], axis=1)
