"""A history as one vector."""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="courier")
class HistoryPooling(keras.layers.Layer):
    """The mean of a history's steps, weighed by what they are and by how many steps came after them.

    `softmax(steps @ query + recency) @ steps`, over the steps and one more that each history begins with, a learned
    vector, which is all there is of an empty history. All weights of steps are equal before training.

    Args:
        length: int. Number of steps at most.
        dim: int. Length of a step's vector.

    Call arguments:
        steps: `(batch, steps, dim)`, newest first; at most `length` steps.
        present: bool `(batch, steps)`, false at padding, whose vectors count for nothing.

    Output shape: `(batch, dim)`.

    Reference: Covington et al., Deep Neural Networks for YouTube Recommendations (RecSys 2016), the mean; Yang et al.,
    Hierarchical Attention Networks for Document Classification (NAACL 2016), the learned query.
    """

    def __init__(self, length: int, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length = length
        self.dim = dim

    def build(self, *shapes: Any) -> None:
        """Makes query, recency and the first step."""
        self.query = self.add_weight(name="query", shape=(self.dim,), initializer="zeros")
        self.recency = self.add_weight(name="recency", shape=(self.length,), initializer="zeros")
        self.beginning = self.add_weight(name="beginning", shape=(1, self.dim), initializer="glorot_uniform")
        self.built = True

    def call(self, steps: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Pools; see the class."""
        batch, count = tf.shape(steps)[0], tf.shape(steps)[1]
        beginning = tf.convert_to_tensor(self.beginning)
        logits = tf.linalg.matvec(steps, self.query) + self.recency[:count]
        logits = tf.where(present, logits, -float("inf"))
        first = tf.broadcast_to(tf.linalg.matvec(beginning, self.query), [batch, 1])
        weights = tf.nn.softmax(tf.concat([first, logits], axis=1))
        steps = tf.where(present[:, :, None], steps, 0.0)
        return weights[:, :1] * beginning + tf.einsum("bs,bsd->bd", weights[:, 1:], steps)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "length": self.length, "dim": self.dim}
