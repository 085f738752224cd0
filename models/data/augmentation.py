"""Light random changes of training pictures that leave alone what shoppers see: no colour, no blur."""

from collections.abc import Callable

import keras_cv
import tensorflow as tf

_LARGEST_SHIFT = 0.125  # of the side


def flip_crop(seed: int) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Mirrors half of the pictures and moves the crop of each by up to an eighth of its side (edges are reflected).

    The draws depend on the seed and the batch's number alone, so that batches may be made side by side and a run can
    be repeated.

    Args:
        seed: of the random draws.

    Returns:
        A function for `tf.data` pipelines: pictures uint8 `(n, height, width, 3)` and the number of the batch, an
        integer scalar, to pictures of the same shape.
    """
    flip = keras_cv.layers.RandomFlip("horizontal")
    shift = keras_cv.layers.RandomTranslation(_LARGEST_SHIFT, _LARGEST_SHIFT, fill_mode="reflect")

    def augment(pictures: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        count = tf.shape(pictures)[0]
        draws = tf.random.stateless_uniform((count, 3), tf.stack([tf.constant(seed, tf.int64), number]))
        shifts = (2 * draws[:, 1:] - 1) * _LARGEST_SHIFT
        flips = {"flip_horizontals": draws[:, :1], "flip_verticals": tf.zeros((count, 1))}
        shifts = {"height_translations": shifts[:, :1], "width_translations": shifts[:, 1:]}
        pictures = flip.augment_images(tf.cast(pictures, tf.float32), flips)
        return tf.saturate_cast(tf.round(shift.augment_images(pictures, shifts)), tf.uint8)

    return augment
