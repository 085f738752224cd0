"""The projection head of COURIER's appendix D."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="courier")
class ProjectionHead(keras.layers.Layer):
    """Four dense layers with normalisation and tanh in between and one residual path; used in training alone.

    The published code normalises over the batch. Here each vector is normalised by itself (layer normalisation): what
    a picture becomes depends neither on the padding of its batch nor on how many replicas share the batch.

    Args:
        dim: length of the hidden and of the resulting vectors.

    Shapes:
        `(batch, length)` to float32 `(batch, dim)`.

    Reference: COURIER, appendix D.
    """

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        if dim < 1:
            raise ValueError(f"`dim` must be at least 1. Received: {dim}")
        self.dim = dim
        policy = self.dtype_policy
        self.dense = [keras.layers.Dense(dim, dtype=policy, name=f"dense_{i}") for i in range(1, 5)]
        self.norm = [keras.layers.LayerNormalization(dtype=policy, name=f"norm_{i}") for i in range(1, 4)]

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights."""
        self.dense[0].build(input_shape)
        for layer in (*self.dense[1:], *self.norm):
            layer.build((*input_shape[:-1], self.dim))

    def call(self, embeddings: Any) -> Any:
        """See the class."""
        first = self.dense[0](embeddings)
        hidden = ops.tanh(self.norm[0](first))
        hidden = ops.tanh(self.norm[1](self.dense[1](hidden)))
        hidden = ops.tanh(self.norm[2]((self.dense[2](hidden) + first) / 2))
        return self.dense[3](hidden)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "dim": self.dim}
