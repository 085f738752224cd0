"""EfficientNet-Lite: an ImageNet network made for small processors."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
from keras import ops

from models.vision.backbone import Backbone

EPSILON = 1e-3  # of every batch normalisation
MOMENTUM = 0.99  # of their moving averages
_STEM, _HEAD = 32, 1280  # channels, the same in every variant


class _Stage(NamedTuple):
    """Blocks of one resolution; `depth` and `width` are those of Lite0."""

    depth: int
    kernel: int
    strides: int
    expansion: int
    width: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))
"""By variant: how much wider and deeper it is than Lite0."""


@keras.saving.register_keras_serializable(package="courier")
class NormalizedConvolution(keras.layers.Layer):
    """A convolution without a bias, batch normalisation, and ReLU6 if asked for.

    Without statistics of the batch, normalisation is a scale and an offset per channel, and the scale is multiplied
    into the kernel: no pass over the map is spent on it, and no map is kept for its gradient.

    Args:
        filters: channels of the result; `None` convolves each channel by itself.
        kernel_size: side of the kernel.
        strides: step between its places; padding is "same" as TensorFlow has it.
        relu6: whether ReLU6 follows.
        batch_statistics: whether training normalises by the statistics of its batches, those of all replicas together,
            and keeps moving averages of them; otherwise the averages stay as they are. Scale and offset learn either
            way.

    Shapes:
        `(batch, height, width, channels)` to `(batch, height / strides, width / strides, filters or channels)`;
        `valid` is bool `(batch,)`: which of them statistics are of.
    """

    def __init__(
        self,
        filters: int | None,
        kernel_size: int = 1,
        strides: int = 1,
        relu6: bool = True,
        batch_statistics: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.relu6 = relu6
        self.batch_statistics = batch_statistics

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the weights."""
        channels, side = input_shape[-1], self.kernel_size
        last = (channels, 1) if self.filters is None else (channels, self.filters)
        fan_out = side * side * (1 if self.filters is None else self.filters)
        filters = self.filters or channels
        # All are read in float32, as they are multiplied before they are used.
        self.kernel = self.add_weight(
            name="kernel",
            shape=(side, side, *last),
            initializer=keras.initializers.RandomNormal(stddev=math.sqrt(2 / fan_out)),
            autocast=False,
        )
        self.gamma = self.add_weight(name="gamma", shape=(filters,), initializer="ones", autocast=False)
        self.beta = self.add_weight(name="beta", shape=(filters,), initializer="zeros", autocast=False)
        # Every replica computes the same averages.
        averages: dict[str, Any] = {"trainable": False, "autocast": False, "aggregation": "only_first_replica"}
        self.moving_mean = self.add_weight(name="moving_mean", shape=(filters,), initializer="zeros", **averages)
        self.moving_variance = self.add_weight(name="moving_variance", shape=(filters,), initializer="ones", **averages)

    def call(self, x: Any, training: bool = False, valid: Any = None) -> Any:
        """See the class."""
        if training and self.batch_statistics:
            x = self._convolve(x, self.kernel)
            mean, variance = self._statistics(ops.cast(x, "float32"), valid)
            scale = self.gamma * ops.rsqrt(variance + EPSILON)
            x = x * ops.cast(scale, x.dtype) + ops.cast(self.beta - mean * scale, x.dtype)
        else:
            scale = self.gamma * ops.rsqrt(self.moving_variance + EPSILON)
            by_filter = scale[:, None] if self.filters is None else scale
            x = self._convolve(x, self.kernel * by_filter)
            x = x + ops.cast(self.beta - self.moving_mean * scale, x.dtype)
        return ops.relu6(x) if self.relu6 else x

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "relu6": self.relu6,
            "batch_statistics": self.batch_statistics,
        }

    def _convolve(self, x: Any, kernel: Any) -> Any:
        convolve = ops.depthwise_conv if self.filters is None else ops.conv
        return convolve(x, ops.cast(kernel, x.dtype), strides=self.strides, padding="same")

    def _statistics(self, x: Any, valid: Any) -> tuple[Any, Any]:
        """Mean and variance of each channel over the valid pictures of all replicas; keeps moving averages."""
        weight = ops.ones_like(x[:, 0, 0, 0]) if valid is None else ops.cast(valid, "float32")
        places = ops.cast(ops.shape(x)[1] * ops.shape(x)[2], "float32")
        count = ops.maximum(_sum_over_replicas(ops.sum(weight)) * places, 1.0)
        mean = _sum_over_replicas(ops.einsum("n,nhwc->c", weight, x)) / count
        variance = _sum_over_replicas(ops.einsum("n,nhwc->c", weight, ops.square(x - mean))) / count
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average * MOMENTUM + ops.stop_gradient(value) * (1 - MOMENTUM))
        return mean, variance


@keras.saving.register_keras_serializable(package="courier")
class InvertedResidual(keras.layers.Layer):
    """A pointwise expansion, a depthwise convolution and a linear pointwise projection, beside a residual path.

    Args:
        filters: channels of the result. There is a residual path if the input has as many and `strides` is 1.
        kernel_size, strides: of the depthwise convolution.
        expansion: how many times more channels it has than the input; 1 leaves the expansion out.
        drop_path: probability that a picture skips the branch in training (stochastic depth).
        batch_statistics: see `NormalizedConvolution`.

    Shapes:
        `(batch, height, width, channels)` to `(batch, height / strides, width / strides, filters)`.

    Reference: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int = 3,
        strides: int = 1,
        expansion: int = 6,
        drop_path: float = 0.0,
        batch_statistics: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.expansion = expansion
        self.drop_path = drop_path
        self.batch_statistics = batch_statistics

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the weights."""
        channels = input_shape[-1]
        inner = channels * self.expansion
        options: dict[str, Any] = {"batch_statistics": self.batch_statistics, "dtype": self.dtype_policy}
        self.expand = NormalizedConvolution(inner, name="expand", **options) if self.expansion > 1 else None
        self.depthwise = NormalizedConvolution(None, self.kernel_size, self.strides, name="depthwise", **options)
        self.project = NormalizedConvolution(self.filters, relu6=False, name="project", **options)
        # One draw per picture: the whole branch is kept or left out.
        self.skip = keras.layers.Dropout(
            self.drop_path, noise_shape=(None, 1, 1, 1), dtype=self.dtype_policy, name="skip"
        )
        self.residual = self.strides == 1 and channels == self.filters
        if self.expand is not None:
            self.expand.build(input_shape)
        for layer in (self.depthwise, self.project):
            layer.build((*input_shape[:-1], inner))
        self.skip.build((*input_shape[:-1], self.filters))

    def call(self, x: Any, training: bool = False, valid: Any = None) -> Any:
        """See the class."""
        hidden = x if self.expand is None else self.expand(x, training=training, valid=valid)
        hidden = self.depthwise(hidden, training=training, valid=valid)
        hidden = self.project(hidden, training=training, valid=valid)
        return x + self.skip(hidden, training=training) if self.residual else hidden

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "expansion": self.expansion,
            "drop_path": self.drop_path,
            "batch_statistics": self.batch_statistics,
        }


@keras.saving.register_keras_serializable(package="courier")
class EfficientNetLite(Backbone):
    """EfficientNet without squeeze-and-excitation and with ReLU6: small, and published with ImageNet weights.

    The features are the averages over the maps of the chosen stages, early ones included as in `ConvNet`. Layers behind
    the last chosen stage do not exist.

    Args:
        variant: 0, 1 or 2, for Lite0 to Lite2.
        stages: whose averages are the features, ascending: 1 to 7 are the stages of blocks, 8 is the last convolution,
            whose average ImageNet's classes are told by.
        drop_path: stochastic depth of the last block; it rises linearly from 0 at the first.
        batch_statistics: whether training normalises by the statistics of its batches instead of the moving averages,
            those of ImageNet in published weights. They are taken over the distinct pictures of a batch, without its
            padding, on all replicas; a picture that several replicas show counts once for each.
        frozen_stages: the first so many stages, and the stem before them, keep their weights and the moving averages
            and drop no block: no gradient is computed for them, and they may encode each picture once, see
            `ThawedEncoder`.

    Shapes:
        `(batch, height, width, 3)`, normalised pictures, to `(batch, channels of the chosen stages)`.

    Example:
        >>> EfficientNetLite(stages=[5, 8])(np.zeros((2, 64, 48, 3))).shape
        TensorShape([2, 1392])

    Reference: Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, table 1; the Lite
    variants: github.com/tensorflow/tpu, models/official/efficientnet/lite.
    """

    mean: ClassVar[tuple[float, float, float]] = (127.0, 127.0, 127.0)
    stddev: ClassVar[tuple[float, float, float]] = (128.0, 128.0, 128.0)

    def __init__(
        self,
        variant: int = 0,
        stages: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 8),
        drop_path: float = 0.0,
        batch_statistics: bool = False,
        frozen_stages: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if variant not in range(len(_SCALES)):
            raise ValueError(f"`variant` must be 0, 1 or 2. Received: {variant}")
        if not stages or list(stages) != sorted(set(stages) & set(range(1, 9))):
            raise ValueError(f"`stages` must be ascending numbers from 1 to 8. Received: {tuple(stages)}")
        if frozen_stages not in range(stages[-1] + 1):
            raise ValueError(f"`frozen_stages` must be 0 to the last stage, {stages[-1]}. Received: {frozen_stages}")
        self.variant = variant
        self.stages = tuple(stages)
        self.drop_path = drop_path
        self.batch_statistics = batch_statistics
        self.frozen_stages = frozen_stages

        def options(stage: int) -> dict[str, Any]:
            return {"batch_statistics": batch_statistics and stage > frozen_stages, "dtype": self.dtype_policy}

        self.stem = NormalizedConvolution(_STEM, 3, 2, name="stem", **options(1))
        widths, depths = _scaled(variant)
        drop_paths = iter(np.linspace(0.0, drop_path, sum(depths)).tolist())
        self.blocks = [
            [
                InvertedResidual(
                    width,
                    stage.kernel,
                    1 if block else stage.strides,
                    stage.expansion,
                    next(drop_paths),
                    name=f"stage_{number}_block_{block}",
                    **options(number),
                )
                for block in range(depth)
            ]
            for number, stage, width, depth in zip(range(1, self.stages[-1] + 1), _STAGES, widths, depths, strict=False)
        ]
        last = self.stages[-1]
        self.head = NormalizedConvolution(_HEAD, name="head", **options(last)) if last > len(_STAGES) else None
        channels = (*widths, _HEAD)
        self.features = sum(channels[stage - 1] for stage in self.stages)

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the weights."""
        self.stem.build((None, None, None, input_shape[-1]))
        channels = _STEM
        for block in (block for blocks in self.blocks for block in blocks):
            block.build((None, None, None, channels))
            channels = block.filters
        if self.head is not None:
            self.head.build((None, None, None, channels))
        for stage in range(1, self.frozen_stages + 1):
            for layer in self._layers_of(stage):
                layer.trainable = False

    def call(self, x: Any, training: bool = False, valid: Any = None) -> Any:
        """See the class."""
        return self.thawed(*self.frozen(x), training=training, valid=valid)

    def frozen(self, x: Any) -> tuple[Any, list[Any]]:
        """What the frozen stages make of pictures: the map of the last one, and the averages of all of them."""
        averages = []
        for stage in range(1, self.frozen_stages + 1):
            x = self._stage(stage, x, training=False, valid=None)
            averages.append(ops.mean(x, axis=(1, 2)))
        return x, averages

    def thawed(self, x: Any, averages: list[Any], training: bool = False, valid: Any = None) -> Any:
        """What the other stages make of that: the features."""
        for stage in range(self.frozen_stages + 1, self.stages[-1] + 1):
            x = self._stage(stage, x, training=training, valid=valid)
            averages = [*averages, ops.mean(x, axis=(1, 2))]
        return ops.concatenate([averages[stage - 1] for stage in self.stages], axis=-1)

    def _stage(self, number: int, x: Any, training: bool, valid: Any) -> Any:
        for layer in self._layers_of(number):
            x = layer(x, training=training, valid=valid)
        return x

    def _layers_of(self, stage: int) -> list[keras.layers.Layer]:
        if stage > len(_STAGES):
            return [self.head]
        return [self.stem, *self.blocks[0]] if stage == 1 else self.blocks[stage - 1]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "variant": self.variant,
            "stages": self.stages,
            "drop_path": self.drop_path,
            "batch_statistics": self.batch_statistics,
            "frozen_stages": self.frozen_stages,
        }


def _scaled(variant: int) -> tuple[list[int], list[int]]:
    """Channels and blocks of each stage: channels are multiples of 8, the first and last stage keep their depth."""
    wider, deeper = _SCALES[variant]
    widths = [max(8, int(stage.width * wider + 4) // 8 * 8) for stage in _STAGES]
    depths = [math.ceil(stage.depth * deeper) for stage in _STAGES]
    depths[0], depths[-1] = _STAGES[0].depth, _STAGES[-1].depth
    return widths, depths


def _sum_over_replicas(value: Any) -> Any:
    """Adds up the replicas' values, in every replica; differentiable."""
    if keras.backend.backend() != "tensorflow":
        return value
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce("SUM", value)
