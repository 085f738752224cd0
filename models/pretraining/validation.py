"""Measures the encoder after each epoch on pages it does not learn from."""

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from models.data.pages import PADDING
from models.metrics.auc import PageAUC
from models.pretraining.similarity_gauc import similarity_gauc
from models.vision.encode import encode_function, encode_pictures

_BATCH = 256  # pictures


class SimilarityValidation(keras.callbacks.Callback):
    """Adds `val_similarity_gauc` (see `similarity_gauc`) to an epoch's logs.

    Put it before callbacks that monitor the value.

    Args:
        pages: `candidate_picture`, `click_picture` and `clicked` of validation pages, by picture number.
        read: picture numbers `(n,)` to pictures uint8 `(n, height, width, 3)`.
        image_size: of the pictures.
    """

    def __init__(
        self, pages: dict[str, np.ndarray], read: Callable[[tf.Tensor], tf.Tensor], image_size: tuple[int, int]
    ) -> None:
        super().__init__()
        numbers, rows = np.unique(
            np.concatenate([pages["candidate_picture"], pages["click_picture"]], axis=1), return_inverse=True
        )
        rows = rows.reshape(len(pages["clicked"]), -1)
        if numbers[0] == PADDING:
            numbers, rows = numbers[1:], rows - 1
        candidates = pages["clicked"].shape[1]
        self._pages = {
            "candidate_picture": rows[:, :candidates],
            "click_picture": rows[:, candidates:],
            "clicked": pages["clicked"],
        }
        self._batches = tf.data.Dataset.from_tensor_slices(numbers).batch(_BATCH).map(read)
        self._pictures = len(numbers)
        self._image_size = image_size

    def set_model(self, model: keras.Model) -> None:
        """Keras' hook: traces the encoder of the model."""
        super().set_model(model)
        self._encode = encode_function(model.encoder, self._image_size)

    def measure(self) -> PageAUC:
        """The measure now."""
        embeddings = encode_pictures(self._encode, self._batches, self._pictures, progress=False)
        return similarity_gauc(embeddings, self._pages)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: completes the logs."""
        logs["val_similarity_gauc"] = self.measure().gauc_page_mean


class Throughput(keras.callbacks.Callback):
    """Adds `images_per_second` (distinct pictures encoded in training) to an epoch's logs."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: starts the clock."""
        self._start = time.monotonic()
        self._seconds = None

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: stops the clock, training is over when validation starts."""
        self._seconds = time.monotonic() - self._start

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: completes the logs."""
        seconds = self._seconds or time.monotonic() - self._start
        logs["images_per_second"] = logs.pop("pictures") / seconds
        logs.pop("val_pictures", None)
