"""Measures the encoder after each epoch on pages that it does not learn from."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from models.data.map_ahead import map_ahead
from models.data.pages import PADDING
from models.metrics.auc import PageAUC
from models.metrics.effective_rank import effective_rank, mean_cosine
from models.pretraining.monitor.similarity_gauc import similarity_gauc
from models.pretraining.monitor.step_means import StepCallback
from models.vision.encode import encode_function, encode_pictures

_BATCH = 256  # pictures


class SimilarityValidation(keras.callbacks.Callback):
    """Adds `val_similarity_gauc`, `val_effective_rank` and `val_mean_cosine` to an epoch's logs.

    The first is `similarity_gauc` of the pages; the others tell whether the embeddings of their pictures collapse, see
    `effective_rank`. Put it before callbacks that read the values.

    Args:
        pages: `candidate_picture`, `click_picture` and `clicked` of validation pages, by picture number.
        read: picture numbers `(n,)` to what the model's encoder takes of pictures.

    Attributes:
        pictures: int `(n,)`, the numbers of the distinct pictures of the pages.
        pages: the pages with rows of `pictures` instead of picture numbers.
    """

    def __init__(self, pages: dict[str, np.ndarray], read: Callable[[tf.Tensor], tf.Tensor]) -> None:
        super().__init__()
        numbers, rows = np.unique(
            np.concatenate([pages["candidate_picture"], pages["click_picture"]], axis=1), return_inverse=True
        )
        rows = rows.reshape(len(pages["clicked"]), -1)
        if numbers[0] == PADDING:
            numbers, rows = numbers[1:], rows - 1
        candidates = pages["clicked"].shape[1]
        self.pages = {
            "candidate_picture": rows[:, :candidates],
            "click_picture": rows[:, candidates:],
            "clicked": pages["clicked"],
        }
        self._batches = map_ahead(tf.data.Dataset.from_tensor_slices(numbers).batch(_BATCH), read)
        self.pictures = numbers

    def set_model(self, model: keras.Model) -> None:
        """Keras' hook: traces the encoder of the model."""
        super().set_model(model)
        self._encode = encode_function(model.encoder, self._batches.element_spec)

    def embed(self) -> np.ndarray:
        """The embeddings of `pictures` now: float32 `(n, dim)`."""
        return encode_pictures(self._encode, self._batches)

    def measure(self) -> PageAUC:
        """The similarity GAUC now."""
        return similarity_gauc(self.embed(), self.pages)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Keras' hook: completes the logs."""
        embeddings = self.embed()
        logs["val_similarity_gauc"] = similarity_gauc(embeddings, self.pages).gauc_page_mean
        logs["val_effective_rank"] = effective_rank(embeddings)
        logs["val_mean_cosine"] = mean_cosine(embeddings)


class Throughput(StepCallback):
    """Adds `images_per_second` (distinct pictures encoded in training) to an epoch's logs, in place of `pictures`.

    It is 0 for an epoch that an earlier process has trained to its end, or but for one step.
    """

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: starts the clock."""
        super().on_epoch_begin(epoch, logs)
        self._images_per_second = 0.0

    def on_step(self, step: int, logs: dict[str, float]) -> None:
        """Takes the time, for validation may follow."""
        self._images_per_second = self.step_means.means(step, logs)["images_per_second"]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Keras' hook: completes the logs."""
        logs["images_per_second"] = self._images_per_second
        logs.pop("pictures")
        logs.pop("val_pictures", None)
