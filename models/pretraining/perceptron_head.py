"""The head that methods put on embeddings to compare views of pictures; dropped after pre-training."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from models.training.replicas import gather_over_replicas

_EPSILON = 1e-5


@keras.saving.register_keras_serializable(package="courier")
class PerceptronHead(keras.layers.Layer):
    """Dense layers with ReLU in between, normalised over the batch where the published heads are.

    The batch is the distinct pictures of all replicas without padding, so that what is padded and how replicas share a
    batch changes nothing. It is the batch's own mean and variance in validation too: no averages are kept for a head
    that nothing uses after pre-training. Normalised layers have no bias; of these, the hidden ones have a learnt scale
    and offset. Computes in float32.

    Args:
        widths: units of each layer.
        normalize: which layers are normalised over the batch: `none`, the `hidden` ones or `all`.

    Call arguments:
        vectors: `(n, length)`.
        counted: bool `(n,)`, which rows the batch's mean and variance are of. All by default.

    Returns:
        float32 `(n, widths[-1])`.
    """

    def __init__(self, widths: Sequence[int], normalize: str = "none", **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        if not widths or min(widths) < 1:
            raise ValueError(f"`widths` must be one positive number or more. Received: {widths}")
        if normalize not in ("none", "hidden", "all"):
            raise ValueError(f"`normalize` must be 'none', 'hidden' or 'all'. Received: {normalize!r}")
        self.widths = tuple(widths)
        self.normalize = normalize
        last = len(self.widths) - 1
        self.normalized = [normalize == "all" or (normalize == "hidden" and i < last) for i in range(last + 1)]
        self.dense = [
            keras.layers.Dense(width, use_bias=not normalized, dtype=self.dtype_policy, name=f"dense_{i}")
            for i, (width, normalized) in enumerate(zip(self.widths, self.normalized, strict=True))
        ]

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights."""
        length = input_shape[-1]
        self.scales, self.offsets = [], []
        for i, (layer, width) in enumerate(zip(self.dense, self.widths, strict=True)):
            layer.build((None, length))
            if self.normalized[i] and i + 1 < len(self.widths):
                self.scales.append(self.add_weight(shape=(width,), initializer="ones", name=f"scale_{i}"))
                self.offsets.append(self.add_weight(shape=(width,), initializer="zeros", name=f"offset_{i}"))
            length = width

    def call(self, vectors: Any, counted: Any = None) -> Any:
        """See the class."""
        vectors = ops.cast(vectors, self.compute_dtype)
        if counted is None:
            counted = ops.ones_like(vectors[:, 0], "bool")
        for i, layer in enumerate(self.dense):
            vectors = layer(vectors)
            if self.normalized[i]:
                vectors = standardize(vectors, counted)
            if i + 1 < len(self.dense):
                if self.normalized[i]:
                    vectors = vectors * self.scales[i] + self.offsets[i]
                vectors = ops.relu(vectors)
        return ops.cast(vectors, "float32")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "widths": self.widths, "normalize": self.normalize}


def standardize(vectors: Any, counted: Any) -> Any:
    """Takes away the mean and divides by the deviation of counted rows of all replicas, column by column.

    Args:
        vectors: `(n, dim)`.
        counted: bool `(n,)`.
    """
    weights = ops.cast(counted, vectors.dtype)[:, None]
    rows = ops.maximum(_sum_over_rows(weights), 1.0)
    centred = vectors - _sum_over_rows(vectors * weights) / rows
    variance = _sum_over_rows(ops.square(centred) * weights) / rows
    return centred * ops.rsqrt(variance + _EPSILON)


def _sum_over_rows(values: Any) -> Any:
    own = ops.sum(values, axis=0, keepdims=True)
    return ops.sum(gather_over_replicas(own), axis=0, keepdims=True)
