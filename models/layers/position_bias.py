"""What the place of a candidate on its page adds to the log-odds of a click."""

from typing import Any

import keras
import tensorflow as tf

from models.layers.table_rows import gather_rows


@keras.saving.register_keras_serializable(package="courier")
class PositionBias(keras.layers.Layer):
    """A number per position of a page, 0 for the first one.

    What stands first is clicked more, whatever it is. A ranker that is not told so takes it for a merit of what the
    logging policy put there. Added to the log-odds in training alone, it explains what the place did, so that what is
    learned of items is what would hold at one place: the first one, which is what is served.

    Args:
        positions: int. Number of positions behind the first that have a number; later ones count as the last of them.

    Call arguments:
        position: integers, any shape. What is below 0 is not known, and counts as the first.

    Output: float32 of that shape.

    Example:

    >>> PositionBias(10)(tf.constant([[0, 3, -1]])).shape
    TensorShape([1, 3])

    Reference: Zhao et al., Recommending What Video to Watch Next (RecSys 2019), the shallow tower; Guo et al., PAL
    (RecSys 2019).
    """

    def __init__(self, positions: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if positions < 1:
            raise ValueError(f"`positions` must be at least 1. Received: positions={positions}")
        self.positions = positions

    def build(self, position_shape: Any = None) -> None:
        """Makes the numbers."""
        self.bias = self.add_weight(
            name="bias", shape=(self.positions,), dtype="float32", initializer="zeros", autocast=False
        )
        self.built = True

    def call(self, position: tf.Tensor) -> tf.Tensor:
        """Looks up; see the class."""
        row = tf.minimum(position, self.positions) - 1
        return tf.where(row < 0, 0.0, gather_rows(self.bias, tf.maximum(row, 0)))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "positions": self.positions}
