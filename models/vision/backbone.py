"""What every backbone of an image encoder has."""

from typing import ClassVar

import keras

# Channel statistics of ImageNet for pictures in [0, 255]; most published weights expect them.
MEAN = (123.675, 116.28, 103.53)
STDDEV = (58.395, 57.12, 57.375)


class Backbone(keras.layers.Layer):
    """A network from normalised pictures to features: the base of all backbones of `ImageEncoder`.

    Attributes:
        mean, stddev: what its pictures, in [0, 255], are normalised by, one number per channel.
        features: length of the features.
        batch_statistics: whether it normalises by statistics of the batch in training. Then `call` takes `valid`,
            bool `(batch,)`: which pictures are not padding.

    Shapes:
        `(batch, height, width, 3)`, normalised pictures, to `(batch, features)`.
    """

    mean: ClassVar[tuple[float, float, float]] = MEAN
    stddev: ClassVar[tuple[float, float, float]] = STDDEV
    features: int
    batch_statistics: bool = False
