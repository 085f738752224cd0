"""Runs an encoder over many pictures."""

from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf


def encode_function(encoder: keras.Model, image_size: tuple[int, int]) -> Callable[[tf.Tensor], tf.Tensor]:
    """The encoder in inference mode as one graph for any number of pictures of one size."""
    signature = [tf.TensorSpec((None, *image_size, 3), tf.uint8)]
    return tf.function(lambda pictures: encoder(pictures, training=False), input_signature=signature, autograph=False)


def encode_pictures(encode: Callable[[tf.Tensor], tf.Tensor], batches: Iterable[tf.Tensor]) -> np.ndarray:
    """Encodes batches of pictures that fit into memory together.

    Args:
        encode: from `encode_function`.
        batches: uint8 `(n, height, width, 3)` each, at least one.

    Returns:
        float32 `(pictures, dim)`.
    """
    return np.concatenate([encode(batch).numpy() for batch in batches])
