"""The ablation of user-intention reconstruction: what a user's clicks say without having seen the candidate."""

from typing import Any

import keras
from keras import ops

from models.pretraining.reconstruction import UserIntentionReconstruction


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
