"""Swin Transformer."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from models.vision.backbone import Backbone
from models.vision.window_attention import WindowAttention

EPSILON = 1e-5  # of every layer normalisation


@keras.saving.register_keras_serializable(package="courier")
class SwinBlock(keras.layers.Layer):
    """Window attention and a two-layer perceptron, each behind a layer normalisation and beside a residual path.

    Args:
        num_heads: attention heads.
        window: side of the attention windows.
        shift: shift of the windows.
        mlp_ratio: hidden units of the perceptron per channel.
        drop_path: probability that a picture skips a branch in training (stochastic depth).
        checkpointing: keep only the branches' inputs in training and compute the rest again in the backward pass.

    Shapes:
        `(batch, height, width, channels)` to the same.
    """

    def __init__(
        self,
        num_heads: int,
        window: int,
        shift: int = 0,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.window = window
        self.shift = shift
        self.mlp_ratio = mlp_ratio
        self.drop_path = drop_path
        self.checkpointing = checkpointing

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the weights."""
        channels = input_shape[-1]
        policy = self.dtype_policy
        self.norm1 = keras.layers.LayerNormalization(epsilon=EPSILON, dtype=policy, name="norm1")
        self.attention = WindowAttention(self.num_heads, self.window, self.shift, dtype=policy, name="attention")
        self.norm2 = keras.layers.LayerNormalization(epsilon=EPSILON, dtype=policy, name="norm2")
        self.expand = keras.layers.Dense(int(self.mlp_ratio * channels), dtype=policy, name="expand")
        self.reduce = keras.layers.Dense(channels, dtype=policy, name="reduce")
        # One draw per picture: the whole branch is kept or left out.
        self.skip = keras.layers.Dropout(self.drop_path, noise_shape=(None, 1, 1, 1), dtype=policy, name="skip")
        for layer in (self.norm1, self.attention, self.norm2, self.expand, self.skip):
            layer.build(input_shape)
        self.reduce.build((*input_shape[:-1], self.expand.units))

    def call(self, x: Any, training: bool = False) -> Any:
        """See the class."""
        attend, transform = self._attend, self._transform
        if self.checkpointing and training:
            attend, transform = keras.remat(attend), keras.remat(transform)
        # The draws stay outside of what is computed twice, so that both passes skip the same branches.
        x = x + self.skip(attend(x), training=training)
        return x + self.skip(transform(x), training=training)

    def _attend(self, x: Any) -> Any:
        return self.attention(self.norm1(x))

    def _transform(self, x: Any) -> Any:
        return self.reduce(ops.gelu(self.expand(self.norm2(x)), approximate=False))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "window": self.window,
            "shift": self.shift,
            "mlp_ratio": self.mlp_ratio,
            "drop_path": self.drop_path,
            "checkpointing": self.checkpointing,
        }


@keras.saving.register_keras_serializable(package="courier")
class PatchMerging(keras.layers.Layer):
    """Joins each 2 x 2 neighbourhood into one position of twice the channels; odd maps are padded with zeros.

    Shapes:
        `(batch, height, width, channels)` to `(batch, ceil(height / 2), ceil(width / 2), 2 * channels)`.
    """

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the weights."""
        channels = input_shape[-1]
        self.norm = keras.layers.LayerNormalization(epsilon=EPSILON, dtype=self.dtype_policy, name="norm")
        self.norm.build((None, 4 * channels))
        self.reduction = keras.layers.Dense(2 * channels, use_bias=False, dtype=self.dtype_policy, name="reduction")
        self.reduction.build((None, 4 * channels))

    def call(self, x: Any) -> Any:
        """See the class."""
        height, width, channels = x.shape[1:]
        if height % 2 or width % 2:
            x = ops.pad(x, [[0, 0], [0, height % 2], [0, width % 2], [0, 0]])
        rows, columns = (height + 1) // 2, (width + 1) // 2
        x = ops.reshape(x, (-1, rows, 2, columns, 2, channels))
        # Published weights expect the four neighbours column by column.
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 4, 2, 5)), (-1, rows, columns, 4 * channels))
        return self.reduction(self.norm(x))


@keras.saving.register_keras_serializable(package="courier")
class Swin(Backbone):
    """A Swin Transformer up to its pooled features.

    Defaults are Swin-T. Any input size works: maps are padded to whole windows where needed.

    Args:
        patch_size: side of the square patches that become the first positions.
        dim: channels of the first stage; each later stage has twice as many as the one before.
        depths: blocks per stage. Every second block shifts its windows by half their side.
        num_heads: attention heads per stage.
        window: side of the attention windows.
        mlp_ratio: hidden units of the perceptrons per channel.
        drop_path: stochastic depth of the last block; it rises linearly from 0 at the first.
        checkpointing: save memory in training: the blocks keep only the inputs of their two branches and compute the
            rest again in the backward pass.

    Shapes:
        `(batch, height, width, 3)`, normalised pictures, to `(batch, dim * 2 ** (stages - 1))`.

    Example:
        >>> Swin(patch_size=4, dim=32, depths=[1, 1], num_heads=[2, 4], window=4)(np.zeros((2, 32, 32, 3))).shape
        TensorShape([2, 64])

    Reference: Liu et al., Swin Transformer: Hierarchical Vision Transformer using Shifted Windows.
    """

    def __init__(
        self,
        patch_size: int = 4,
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.2,
        checkpointing: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if len(depths) != len(num_heads):
            raise ValueError(
                f"`num_heads` must have one value per stage of `depths`={tuple(depths)}. Received: {tuple(num_heads)}"
            )
        self.patch_size = patch_size
        self.dim = dim
        self.depths = tuple(depths)
        self.num_heads = tuple(num_heads)
        self.window = window
        self.mlp_ratio = mlp_ratio
        self.drop_path = drop_path
        self.checkpointing = checkpointing
        self.features = dim * 2 ** (len(depths) - 1)

        policy = self.dtype_policy
        self.patches = keras.layers.Conv2D(dim, patch_size, strides=patch_size, dtype=policy, name="patches")
        self.patch_norm = keras.layers.LayerNormalization(epsilon=EPSILON, dtype=policy, name="patch_norm")
        drop_paths = iter(np.linspace(0.0, drop_path, sum(depths)).tolist())
        self.stages = []
        for stage, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            if stage:
                self.stages.append(PatchMerging(dtype=policy, name=f"merge_{stage}"))
            for block in range(depth):
                shift = window // 2 if block % 2 else 0
                name = f"stage_{stage}_block_{block}"
                arguments = (heads, window, shift, mlp_ratio, next(drop_paths), checkpointing)
                self.stages.append(SwinBlock(*arguments, dtype=policy, name=name))
        self.norm = keras.layers.LayerNormalization(epsilon=EPSILON, dtype=policy, name="norm")

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the weights."""
        self.patches.build((None, None, None, input_shape[-1]))
        self.patch_norm.build((None, None, None, self.dim))
        channels = self.dim
        for layer in self.stages:
            layer.build((None, None, None, channels))
            if isinstance(layer, PatchMerging):
                channels *= 2
        self.norm.build((None, None, None, channels))

    def call(self, x: Any, training: bool = False) -> Any:
        """See the class."""
        height, width = x.shape[1:3]
        if height is None or width is None:
            raise ValueError(f"`x` must have a known height and width. Received shape: {tuple(x.shape)}")
        bottom, right = -height % self.patch_size, -width % self.patch_size
        if bottom or right:  # pictures that the patches do not divide keep their right and bottom edge
            x = ops.pad(x, [[0, 0], [0, bottom], [0, right], [0, 0]])
        x = self.patch_norm(self.patches(x))
        for layer in self.stages:
            x = layer(x, training=training) if isinstance(layer, SwinBlock) else layer(x)
        return ops.mean(self.norm(x), axis=(1, 2))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "patch_size": self.patch_size,
            "dim": self.dim,
            "depths": self.depths,
            "num_heads": self.num_heads,
            "window": self.window,
            "mlp_ratio": self.mlp_ratio,
            "drop_path": self.drop_path,
            "checkpointing": self.checkpointing,
        }
