"""Light random changes of training pictures that leave alone what shoppers see: no colour, no blur."""

from collections.abc import Callable

import tensorflow as tf

_LARGEST_SHIFT = 0.125  # of the side


def flip_crop(seed: int) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Mirrors half of the pictures and moves each by whole pixels, up to an eighth of its side (edges are reflected).

    The draws depend on the seed and the batch's number alone, so that batches may be made side by side and a run can
    be repeated.

    Args:
        seed: of the random draws.

    Returns:
        A function for `tf.data` pipelines: pictures uint8 `(n, height, width, 3)`, height and width known, and the
        number of the batch, an integer scalar, to pictures of the same shape.
    """
    import keras_cv  # takes seconds, which trainings without augmentation save

    flip = keras_cv.layers.RandomFlip("horizontal")

    def augment(pictures: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        _, height, width, _ = pictures.shape
        draws = tf.random.stateless_uniform((tf.shape(pictures)[0], 3), tf.stack([tf.constant(seed, tf.int64), number]))
        rows, columns = _moved(height, draws[:, 0]), _moved(width, draws[:, 1])
        # Whole pixels: interpolating them takes ten times as long.
        moved = tf.gather(tf.gather(pictures, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)
        flips = {"flip_horizontals": draws[:, 2:], "flip_verticals": tf.zeros_like(draws[:, 2:])}
        return flip.augment_images(moved, flips)

    return augment


def _moved(size: int, draw: tf.Tensor) -> tf.Tensor:
    """Where the pixels of a side come from, `(n, size)`, for draws in [0, 1)."""
    largest = int(_LARGEST_SHIFT * size)
    shift = tf.cast(draw * (2 * largest + 1), tf.int32) - largest
    source = tf.range(size) + shift[:, None]
    source = tf.where(source < 0, -1 - source, source)
    return tf.where(source >= size, 2 * size - 1 - source, source)
