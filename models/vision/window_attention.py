"""Multi-head self-attention inside windows of a feature map, with a learnt bias per relative position."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

MASKED = -100.0
"""Added to the scores of pairs that must not meet; finite, so that float16 stays safe."""


@keras.saving.register_keras_serializable(package="courier")
class WindowAttention(keras.layers.Layer):
    """Self-attention among the positions of each window of a feature map, plain or shifted.

    The map is padded at the bottom and right to whole windows first and rolled by the shift afterwards. Where the roll
    puts positions from opposite edges into one window, they are kept apart. Along a side that one window covers there
    is nothing to shift. Padded positions take part in the attention, with zeros as input (torchvision semantics, so
    that published weights mean the same here at every input size).

    Args:
        num_heads: attention heads; divides the channels.
        window: side of the square windows.
        shift: how far the windows are shifted; 0 for plain windows.

    Shapes:
        `(batch, height, width, channels)` to the same; height and width may differ from call to call but must be known.

    Reference: Liu et al., Swin Transformer, section 3.2.
    """

    def __init__(self, num_heads: int, window: int, shift: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= shift < window:
            raise ValueError(f"`shift` must be at least 0 and below `window`={window}. Received: {shift}")
        self.num_heads = num_heads
        self.window = window
        self.shift = shift
        offsets = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij"), -1).reshape(-1, 2)
        relative = offsets[:, None] - offsets[None] + window - 1
        self._relative_position_index = relative[..., 0] * (2 * window - 1) + relative[..., 1]

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the weights."""
        channels = input_shape[-1]
        if channels % self.num_heads:
            raise ValueError(f"`num_heads` must divide the channels ({channels}). Received: {self.num_heads}")
        self.qkv = keras.layers.Dense(3 * channels, dtype=self.dtype_policy, name="qkv")
        self.qkv.build((None, channels))
        self.proj = keras.layers.Dense(channels, dtype=self.dtype_policy, name="proj")
        self.proj.build((None, channels))
        self.relative_position_bias_table = self.add_weight(
            shape=((2 * self.window - 1) ** 2, self.num_heads),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            name="relative_position_bias_table",
        )

    def call(self, x: Any) -> Any:
        """See the class."""
        height, width, channels = x.shape[1:]
        window = self.window
        rows, columns = -(-height // window), -(-width // window)
        shift = (self.shift if rows > 1 else 0, self.shift if columns > 1 else 0)
        bottom, right = rows * window - height, columns * window - width
        if bottom or right:
            x = ops.pad(x, [[0, 0], [0, bottom], [0, right], [0, 0]])
        if any(shift):
            x = ops.roll(x, (-shift[0], -shift[1]), axis=(1, 2))
        x = ops.reshape(x, (-1, rows, window, columns, window, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # batch, rows, columns, window, window, channels

        tokens = window * window
        qkv = ops.reshape(self.qkv(x), (-1, tokens, 3, self.num_heads, channels // self.num_heads))
        query, key, value = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), axis=0)  # windows, heads, tokens, head dim
        query = query * (channels // self.num_heads) ** -0.5
        # The softmax stays in float32 under mixed precision.
        scores = ops.cast(ops.matmul(query, ops.swapaxes(key, -1, -2)), "float32") + self._position_bias()
        if any(shift):
            apart = self._kept_apart(rows, columns, shift)[:, None]  # windows of one map, 1, tokens, tokens
            scores = ops.reshape(scores, (-1, rows * columns, self.num_heads, tokens, tokens)) + apart
            scores = ops.reshape(scores, (-1, self.num_heads, tokens, tokens))
        attention = ops.cast(ops.softmax(scores, axis=-1), self.compute_dtype)
        x = ops.transpose(ops.matmul(attention, value), (0, 2, 1, 3))
        x = self.proj(ops.reshape(x, (-1, rows, columns, window, window, channels)))

        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        x = ops.reshape(x, (-1, rows * window, columns * window, channels))
        if any(shift):
            x = ops.roll(x, shift, axis=(1, 2))
        return x[:, :height, :width] if bottom or right else x

    def _position_bias(self) -> Any:
        table = ops.cast(self.relative_position_bias_table, "float32")
        bias = ops.take(table, self._relative_position_index, axis=0)  # tokens, tokens, heads
        return ops.transpose(bias, (2, 0, 1))

    def _kept_apart(self, rows: int, columns: int, shift: tuple[int, int]) -> np.ndarray:
        """`MASKED` for pairs of one rolled window that come from different regions of the map, else 0."""
        regions = []
        for windows, step in zip((rows, columns), shift, strict=True):
            position = np.arange(windows * self.window)
            # Only the last window mixes the far edge (after the wrap) with its own positions.
            regions.append((position >= len(position) - step).astype(np.int64))
        region = 2 * regions[0][:, None] + regions[1]
        region = region.reshape(rows, self.window, columns, self.window).transpose(0, 2, 1, 3)
        region = region.reshape(rows * columns, -1)
        return np.where(region[:, :, None] == region[:, None], 0.0, MASKED).astype(np.float32)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of `call`'s result."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_heads": self.num_heads, "window": self.window, "shift": self.shift}
