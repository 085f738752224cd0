"""Light random changes of training pictures that leave alone what shoppers see: no colour, no blur."""

from collections.abc import Callable

import keras_cv
import tensorflow as tf

_LARGEST_SHIFT = 0.125  # of the side


def flip_crop(seed: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Mirrors half of the pictures and moves the crop of each by up to an eighth of its side (edges are reflected).

    Args:
        seed: of the random draws.

    Returns:
        A function for `tf.data` pipelines: uint8 `(n, height, width, 3)` to the same.
    """
    flip = keras_cv.layers.RandomFlip("horizontal", seed=seed)
    shift = keras_cv.layers.RandomTranslation(_LARGEST_SHIFT, _LARGEST_SHIFT, fill_mode="reflect", seed=seed)

    def augment(pictures: tf.Tensor) -> tf.Tensor:
        return tf.saturate_cast(tf.round(shift(flip(pictures, training=True), training=True)), tf.uint8)

    return augment
