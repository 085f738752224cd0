"""The paper's encoder of a history: one vector per page, the same for all of its candidates."""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="courier")
class HistoryEncoder(keras.layers.Layer):
    """Summarises a history: `W mean_t(layer_norm(x_t + multi_head_self_attention(x)_t))`.

    Every step attends to every other one, so time and memory are `O(batch * heads * steps ** 2)`: at 1000 steps, 4 MB
    per page and head for each tensor of weights. Target attention needs `candidates / steps` of that.

    Padded steps contribute exactly nothing, to values and to gradients. An empty history gives zeros, for which the
    projection has no bias. The paper does not tell of the residual connection; without it, a step that all others
    outweigh would be lost.

    Args:
        units: int. Size of the output.
        heads: int. Number of heads.
        head_dim: int. Size of a head's queries, keys and values.

    Call arguments:
        history: steps, shape `(batch, steps, dim)`.
        mask: bool, shape `(batch, steps)`, false at padding, where `history` may hold anything.

    Output shape: `(batch, units)`.

    Example:

    >>> encoder = HistoryEncoder(units=8, heads=2, head_dim=4)
    >>> encoder(tf.ones((2, 5, 6)), tf.ones((2, 5), tf.bool)).shape
    TensorShape([2, 8])

    Reference: the paper's appendix A.
    """

    def __init__(self, units: int, heads: int, head_dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, value in (("units", units), ("heads", heads), ("head_dim", head_dim)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {name}={value}")
        self.units = units
        self.heads = heads
        self.head_dim = head_dim
        self.attention = keras.layers.MultiHeadAttention(heads, head_dim, dtype=self.dtype_policy)
        self.norm = keras.layers.LayerNormalization(dtype=self.dtype_policy)
        self.projection = keras.layers.Dense(units, use_bias=False, dtype=self.dtype_policy)

    def build(self, history_shape: Any) -> None:
        """Makes the weights."""
        shape = (None, None, history_shape[-1])
        self.attention.build(shape, shape)
        self.norm.build(shape)
        self.projection.build((None, history_shape[-1]))
        self.built = True

    def call(self, history: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Encodes; see the class."""
        # `where`, not a product: padding may hold anything, NaN included.
        history = tf.where(mask[..., None], history, 0)
        attended = self.attention(history, history, attention_mask=mask[:, None, :])
        steps = self.norm(history + attended)
        present = tf.cast(mask, tf.float32)
        shares = tf.math.divide_no_nan(present, tf.reduce_sum(present, axis=1, keepdims=True))
        return self.projection(tf.einsum("bt,btd->bd", tf.cast(shares, steps.dtype), steps))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "units": self.units, "heads": self.heads, "head_dim": self.head_dim}
