"""Runs an encoder over many pictures."""

from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf


def encode_function(
    encoder: keras.Model, pictures: tuple[int, int] | tf.TensorSpec
) -> Callable[[tf.Tensor], tf.Tensor]:
    """The encoder in inference mode as one graph for any number of pictures.

    Args:
        encoder: pictures to embeddings.
        pictures: their height and width, or what else a batch of them is like.
    """
    spec = pictures if isinstance(pictures, tf.TensorSpec) else tf.TensorSpec((None, *pictures, 3), tf.uint8)
    return tf.function(lambda batch: encoder(batch, training=False), input_signature=[spec], autograph=False)


def encode_pictures(encode: Callable[[tf.Tensor], tf.Tensor], batches: Iterable[tf.Tensor]) -> np.ndarray:
    """Encodes batches of pictures that fit into memory together.

    Args:
        encode: from `encode_function`.
        batches: uint8 `(n, height, width, 3)` each, at least one.

    Returns:
        float32 `(pictures, dim)`.
    """
    return np.concatenate([encode(batch).numpy() for batch in batches])
