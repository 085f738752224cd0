"""A click model of pictures alone: DIN on a candidate and one history."""

from typing import Any

import keras
import tensorflow as tf

from models.layers.target_attention import TargetAttention

_DIM = 16
_ATTENTION_UNITS = 32
_HIDDEN_UNITS = 32

VECTOR_DIM = 8
"""Length of what its last hidden layer says."""


@keras.saving.register_keras_serializable(package="courier")
class PictureDin(keras.layers.Layer):
    """DIN on pictures alone: what a history's pictures say of whether a candidate is clicked.

    Candidate and steps are projected; the steps are weighed by DIN's activation unit, which is told their cosine; and
    an MLP reads the candidate, what it has found in the history, and the product of both. All of it is float32,
    whatever the policy: half precision would round log-odds.

    Args:
        input_dim: int. Length of an embedding.

    Call arguments:
        candidates: embeddings, zeros without picture, `(batch, candidates, input_dim)`.
        steps: the same of a history, `(batch, steps, input_dim)`.
        mask: bool `(batch, steps)`, false at padding and at steps without a picture.
        cosines: of both, standardised, `(batch, candidates, steps)`.

    Output: what the last hidden layer says, `(batch, candidates, 8)`, and its part of the log-odds of a click,
    `(batch, candidates)`: those of all histories add up, and are 0 until it is trained.
    """

    def __init__(self, input_dim: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.input_dim = input_dim
        # Without a bias: no picture is zeros.
        self.projection = keras.layers.Dense(_DIM, use_bias=False, name="projection", dtype="float32")
        self.projection.build((None, None, input_dim))
        self.attention = TargetAttention(_ATTENTION_UNITS, "none", pair_features=1, name="attention", dtype="float32")
        self.attention.build((None, None, _DIM), (None, None, _DIM))
        self.hidden = keras.layers.Dense(_HIDDEN_UNITS, activation="relu", name="hidden", dtype="float32")
        self.hidden.build((None, None, 3 * _DIM))
        self.vector = keras.layers.Dense(VECTOR_DIM, activation="relu", name="vector", dtype="float32")
        self.vector.build((None, None, _HIDDEN_UNITS))
        self.logit = keras.layers.Dense(1, kernel_initializer="zeros", name="logit", dtype="float32")
        self.logit.build((None, None, VECTOR_DIM))
        self.built = True

    def call(
        self, candidates: tf.Tensor, steps: tf.Tensor, mask: tf.Tensor, cosines: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores; see the class."""
        query = self.projection(candidates)
        found = self.attention(query, self.projection(steps), mask, [cosines])
        vector = self.vector(self.hidden(tf.concat([query, found, query * found], axis=-1)))
        return vector, self.logit(vector)[..., 0]

    def is_trained(self) -> bool:
        """Whether it has learned anything."""
        return bool(tf.reduce_any(self.logit.kernel.value != 0))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "input_dim": self.input_dim}
