"""A light convolutional network."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from models.vision.backbone import Backbone

EPSILON = 1e-6  # of every layer normalisation


@keras.saving.register_keras_serializable(package="courier")
class ConvNetBlock(keras.layers.Layer):
    """A depthwise convolution and a two-layer perceptron beside a residual path.

    Args:
        kernel: side of the depthwise convolution.
        drop_path: probability that a picture skips the branch in training (stochastic depth).

    Shapes:
        `(batch, height, width, channels)` to the same.

    Reference: Liu et al., A ConvNet for the 2020s, figure 4.
    """

    def __init__(self, kernel: int = 5, drop_path: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kernel = kernel
        self.drop_path = drop_path

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the weights."""
        channels = input_shape[-1]
        policy = self.dtype_policy
        self.depthwise = keras.layers.DepthwiseConv2D(self.kernel, padding="same", dtype=policy, name="depthwise")
        self.norm = keras.layers.LayerNormalization(epsilon=EPSILON, dtype=policy, name="norm")
        self.expand = keras.layers.Dense(4 * channels, dtype=policy, name="expand")
        self.reduce = keras.layers.Dense(channels, dtype=policy, name="reduce")
        # One draw per picture: the whole branch is kept or left out.
        self.skip = keras.layers.Dropout(self.drop_path, noise_shape=(None, 1, 1, 1), dtype=policy, name="skip")
        for layer in (self.depthwise, self.norm, self.expand, self.skip):
            layer.build(input_shape)
        self.reduce.build((*input_shape[:-1], 4 * channels))

    def call(self, x: Any, training: bool = False) -> Any:
        """See the class."""
        hidden = ops.gelu(self.expand(self.norm(self.depthwise(x))), approximate=False)
        return x + self.skip(self.reduce(hidden), training=training)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "kernel": self.kernel, "drop_path": self.drop_path}


@keras.saving.register_keras_serializable(package="courier")
class ConvNet(Backbone):
    """A small convolutional network whose features keep what later stages lose: learns from few pages on few CPU cores.

    Stages are ConvNeXt blocks. The features are the averages over the maps of every stage, early ones included (colours
    and textures say much about taste), and a coarse grid of the last map (where on the picture something is).

    Args:
        widths: channels per stage. The map of the first stage has a quarter of the picture's side, that of each later
            stage half of that before.
        depths: blocks per stage.
        kernel: side of the depthwise convolutions.
        grid: rows and columns of the grid that the last map is averaged to.
        drop_path: stochastic depth of the last block; it rises linearly from 0 at the first.

    Shapes:
        `(batch, height, width, 3)`, normalised pictures, to `(batch, sum(widths) + rows * columns * widths[-1])`.

    Example:
        >>> ConvNet(widths=[16, 32], depths=[1, 1], grid=[2, 2])(np.zeros((2, 32, 32, 3))).shape
        TensorShape([2, 176])

    Reference: Liu et al., A ConvNet for the 2020s (the blocks).
    """

    def __init__(
        self,
        widths: Sequence[int] = (48, 96, 192),
        depths: Sequence[int] = (1, 1, 1),
        kernel: int = 5,
        grid: Sequence[int] = (3, 2),
        drop_path: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if len(widths) != len(depths):
            raise ValueError(
                f"`depths` must have one value per stage of `widths`={tuple(widths)}. Received: {tuple(depths)}"
            )
        if len(grid) != 2:
            raise ValueError(f"`grid` must have two values, rows and columns. Received: {tuple(grid)}")
        self.widths = tuple(widths)
        self.depths = tuple(depths)
        self.kernel = kernel
        self.grid = tuple(grid)
        self.drop_path = drop_path
        self.features = sum(self.widths) + self.grid[0] * self.grid[1] * self.widths[-1]

        policy = self.dtype_policy
        drop_paths = iter(np.linspace(0.0, drop_path, sum(depths)).tolist())
        self.reductions = []
        self.reduction_norms = []
        self.blocks = []
        self.feature_norms = []
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            side = 2 if stage else 4
            self.reductions.append(
                keras.layers.Conv2D(width, side, strides=side, padding="same", dtype=policy, name=f"reduction_{stage}")
            )
            # The first map is normalised after its convolution, as the pictures are already; the others before.
            self.reduction_norms.append(_layer_norm(policy, f"reduction_norm_{stage}"))
            names = [f"stage_{stage}_block_{block}" for block in range(depth)]
            self.blocks.append([ConvNetBlock(kernel, next(drop_paths), dtype=policy, name=name) for name in names])
            self.feature_norms.append(_layer_norm(policy, f"feature_norm_{stage}"))
        # Keras' adaptive pooling fails in graphs for one row or column. That is the mean over the axis.
        self.whole_axes = tuple(axis for axis, cells in enumerate(self.grid, start=1) if cells == 1)
        cells = tuple(cells for cells in self.grid if cells != 1)
        if len(cells) == 2:
            self.pool = keras.layers.AdaptiveAveragePooling2D(cells, dtype=policy, name="pool")
        elif cells:
            self.pool = keras.layers.AdaptiveAveragePooling1D(cells, dtype=policy, name="pool")
        else:
            self.pool = None

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the weights."""
        channels = input_shape[-1]
        for stage, width in enumerate(self.widths):
            self.reductions[stage].build((None, None, None, channels))
            self.reduction_norms[stage].build((None, None, None, channels if stage else width))
            for layer in (*self.blocks[stage], self.feature_norms[stage]):
                layer.build((None, None, None, width))
            channels = width
        if self.pool is not None:
            self.pool.build((*[None] * (3 - len(self.whole_axes)), channels))

    def call(self, x: Any, training: bool = False) -> Any:
        """See the class."""
        features = []
        for stage, reduction in enumerate(self.reductions):
            norm = self.reduction_norms[stage]
            x = reduction(norm(x)) if stage else norm(reduction(x))
            for block in self.blocks[stage]:
                x = block(x, training=training)
            features.append(ops.mean(self.feature_norms[stage](x), axis=(1, 2)))
        if self.whole_axes:
            x = ops.mean(x, axis=self.whole_axes)
        if self.pool is not None:
            for axis in range(1, len(x.shape) - 1):
                if x.shape[axis] == 1:  # it fails in graphs for a map of one row or column as well
                    x = ops.repeat(x, 2, axis=axis)
            x = self.pool(x)
        cells = self.grid[0] * self.grid[1]
        return ops.concatenate([*features, ops.reshape(x, (-1, cells * self.widths[-1]))], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "widths": self.widths,
            "depths": self.depths,
            "kernel": self.kernel,
            "grid": self.grid,
            "drop_path": self.drop_path,
        }


def _layer_norm(policy: Any, name: str) -> keras.layers.LayerNormalization:
    return keras.layers.LayerNormalization(epsilon=EPSILON, dtype=policy, name=name)
