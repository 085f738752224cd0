"""Self-attention of a short sequence over itself."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

_MASKED = -1e9


@keras.saving.register_keras_serializable(package="courier")
class SelfAttention(keras.layers.Layer):
    """Scaled dot-product attention of several heads of each position over all valid ones.

    Backend-agnostic. The softmax is computed in float32 at any precision. A sequence without any valid position
    attends to all of its padding: finite values that nobody should read.

    Args:
        heads: int. Number of heads; divides the width.
        dropout: share of the attention weights that training drops.

    Call arguments:
        x: `(batch, length, width)`.
        valid: bool `(batch, length)`, false at padding.
        training: whether weights are dropped.

    Output shape: that of `x`. Padded positions have values, too.

    Example:
        >>> SelfAttention(2)(keras.ops.ones((3, 5, 8)), keras.ops.ones((3, 5), "bool")).shape
        TensorShape([3, 5, 8])

    Reference: Vaswani et al., Attention Is All You Need (NeurIPS 2017), section 3.2.
    """

    def __init__(self, heads: int, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if heads < 1:
            raise ValueError(f"`heads` must be at least 1. Received: {heads}")
        self.heads = heads
        self.dropout = dropout
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="drop")

    def build(self, x_shape: Sequence[Any], valid_shape: Sequence[Any] | None = None) -> None:
        """Makes the weights: queries, keys and values beside each other, and the projection of the heads."""
        width = x_shape[-1]
        if width % self.heads:
            raise ValueError(f"`heads` must divide the width {width}. Received: {self.heads}")
        self.qkv = keras.layers.Dense(3 * width, dtype=self.dtype_policy, name="qkv")
        self.out = keras.layers.Dense(width, dtype=self.dtype_policy, name="out")
        self.qkv.build(x_shape)
        self.out.build(x_shape)
        self.drop.build((None, self.heads, None, None))

    def call(self, x: Any, valid: Any, training: bool = False) -> Any:
        """See the class."""
        width = x.shape[-1]
        length = ops.shape(x)[1]
        parts = ops.reshape(self.qkv(x), (-1, length, 3, self.heads, width // self.heads))
        queries, keys, values = ops.unstack(ops.transpose(parts, (2, 0, 3, 1, 4)), 3)  # batch, heads, length, size
        scores = ops.cast(ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2))), "float32")
        scores = scores / math.sqrt(width // self.heads)
        scores = ops.where(ops.cast(valid, "bool")[:, None, None, :], scores, _MASKED)
        weights = self.drop(ops.cast(ops.softmax(scores, axis=-1), values.dtype), training=training)
        heads = ops.transpose(ops.matmul(weights, values), (0, 2, 1, 3))
        return self.out(ops.reshape(heads, (-1, length, width)))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "heads": self.heads, "dropout": self.dropout}
