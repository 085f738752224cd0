"""Embeddings of IDs whose row 0 stands for all that are unknown."""

from typing import Any

import keras
import tensorflow as tf

from models.layers.table_rows import gather_rows

LARGEST = 0.25
"""Largest initial value, unless told otherwise. Keras starts at 0.05, where the product of two embeddings, by which
attention finds equal IDs, is too small to learn from."""


@keras.saving.register_keras_serializable(package="courier")
class IdEmbedding(keras.layers.Layer):
    """Embeds the IDs `0 ... known`; 0 stands for every unknown one.

    A step reads and changes the rows it looks up alone (the gradient is a `tf.IndexedSlices`), so that its cost does
    not grow with the number of IDs.

    Args:
        known: int. Number of known IDs.
        dim: int. Length of an embedding.
        dropout: float. Share of IDs that training takes for unknown.
        largest: float. Largest initial value, of either sign.

    Call arguments:
        ids: integers in `[0, known]`, any shape.
        training: whether IDs are dropped.

    Output shape: that of `ids`, then `dim`.

    Example:

    >>> IdEmbedding(known=9, dim=4)(tf.constant([[3, 0]])).shape
    TensorShape([1, 2, 4])
    """

    def __init__(self, known: int, dim: int, dropout: float = 0.0, largest: float = LARGEST, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be at least 0 and below 1. Received: {dropout}")
        if largest <= 0:
            raise ValueError(f"`largest` must be above 0. Received: {largest}")
        self.known = known
        self.dim = dim
        self.dropout = dropout
        self.largest = largest
        self.seed_generator = keras.random.SeedGenerator() if dropout else None

    def build(self, ids_shape: Any = None) -> None:
        """Makes the embeddings."""
        uniform = keras.initializers.RandomUniform(-self.largest, self.largest)
        # `autocast` would copy the whole table.
        self.embeddings = self.add_weight(
            name="embeddings", shape=(self.known + 1, self.dim), initializer=uniform, autocast=False
        )
        self.built = True

    def restart(self, largest: float, seed: int) -> None:
        """Lets the embeddings begin anew, with other values between `-largest` and `largest`."""
        uniform = keras.initializers.RandomUniform(-largest, largest, seed=seed)
        self.embeddings.assign(uniform(self.embeddings.shape, self.embeddings.dtype))

    def call(self, ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Embeds; see the class."""
        if training and self.dropout:
            dropped = keras.random.uniform(tf.shape(ids), seed=self.seed_generator) < self.dropout
            ids = tf.where(dropped, tf.zeros_like(ids), ids)
        return tf.cast(gather_rows(self.embeddings, ids), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        arguments = {name: getattr(self, name) for name in ("known", "dim", "dropout", "largest")}
        return {**super().get_config(), **arguments}
