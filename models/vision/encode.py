"""Runs an encoder over many pictures."""

from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm


def encode_function(encoder: keras.Model, image_size: tuple[int, int]) -> Callable[[tf.Tensor], tf.Tensor]:
    """The encoder in inference mode as one graph for any number of pictures of one size."""
    signature = [tf.TensorSpec((None, *image_size, 3), tf.uint8)]
    return tf.function(lambda pictures: encoder(pictures, training=False), input_signature=signature, autograph=False)


def encode_pictures(
    encode: Callable[[tf.Tensor], tf.Tensor], batches: Iterable[tf.Tensor], pictures: int, *, progress: bool = True
) -> np.ndarray:
    """Encodes batches of pictures.

    Args:
        encode: from `encode_function`.
        batches: uint8 `(n, height, width, 3)` each.
        pictures: how many there are in all.
        progress: whether to show a progress bar.

    Returns:
        float32 `(pictures, dim)`.
    """
    parts = []
    with tqdm(total=pictures, desc="encoding pictures", unit="picture", disable=not progress) as bar:
        for batch in batches:
            parts.append(encode(batch).numpy())
            bar.update(len(parts[-1]))
    return np.concatenate(parts)
