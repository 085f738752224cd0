"""The base of all ways to pre-train an image encoder on pages."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from models.data.pretraining_pages import divide_batches
from models.training.distributed_fit import DistributedFit
from models.training.replicas import gather_over_replicas, rows_over_replicas


class PretrainingMethod(DistributedFit, keras.Model):
    """A model that holds an image encoder and teaches it from batches of `PretrainingPages`.

    A method implements `call` and `compute_loss`; fitting, checkpoints, validation and the run directory are the same
    for all. Its metrics have the pictures that it has seen, `pictures`.

    Under a strategy of several replicas, a plain `tf.data.Dataset` is divided by pages, so that each replica gets the
    distinct pictures of its own pages; `distribute_datasets_from_function` with the batches of a `context` saves the
    work of reading them on every worker.

    Args:
        encoder: pictures uint8 `(n, height, width, 3)` to embeddings float32 `(n, dim)`, built.

    Inputs (a dictionary):
        pictures: uint8 `(distinct, height, width, 3)`, may end with padding.
        picture_id: int32 `(distinct,)`, the store's number of each picture, -1 = padding.
        candidate_picture: int32 `(batch, candidates)`, rows of `pictures`, -1 = padding.
        click_picture: int32 `(batch, clicks)`, newest first, padding at the end.
        clicked: bool `(batch, candidates)`.
    """

    shapes_vary = True  # no two batches have as many distinct pictures

    def __init__(self, encoder: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder = encoder
        self.pictures_seen = keras.metrics.Sum(name="pictures")

    def fit(self, x: Any = None, *args: Any, validation_data: Any = None, **options: Any) -> keras.callbacks.History:
        """Keras' `fit`."""
        if isinstance(x, tf.data.Dataset):
            options.setdefault("shuffle", False)  # Keras would warn that it leaves the order alone
        return super().fit(self._divided(x), *args, validation_data=self._divided(validation_data), **options)

    def evaluate(self, x: Any = None, *args: Any, **options: Any) -> Any:
        """Keras' `evaluate`."""
        return super().evaluate(self._divided(x), *args, **options)

    def predict(self, x: Any, *args: Any, **options: Any) -> Any:
        """Keras' `predict`."""
        return super().predict(self._divided(x), *args, **options)

    def embed(self, x: dict[str, Any], training: bool = False) -> Any:
        """Embeddings of the distinct pictures of a batch, `(distinct, dim)`; those of its padding mean nothing."""
        if getattr(self.encoder, "batch_statistics", False):  # the padding must not enter them
            return self.encoder(x["pictures"], training=training, valid=x["picture_id"] >= 0)
        return self.encoder(x["pictures"], training=training)

    def counted_pictures(self, x: dict[str, Any]) -> Any:
        """Which pictures of a batch this replica answers for: bool `(distinct,)`.

        Padding is not among them, and a picture that several replicas have is the first one's.
        """
        own = x["picture_id"]
        same = gather_over_replicas(own)[None, :] == own[:, None]
        first = ops.argmax(ops.cast(same, "int32"), axis=1)
        return (own >= 0) & (ops.cast(first, "int32") == rows_over_replicas(own))

    def count_pictures(self, x: dict[str, Any]) -> None:
        """Adds the pictures of a batch to those seen."""
        self.pictures_seen.update_state(ops.sum(ops.cast(x["picture_id"] >= 0, "float32")))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "encoder": keras.saving.serialize_keras_object(self.encoder)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "PretrainingMethod":
        """Builds a model from what `get_config` returned."""
        encoder = keras.saving.deserialize_keras_object(config["encoder"], custom_objects=custom_objects)
        return cls(**{**config, "encoder": encoder})

    def _divided(self, batches: Any) -> Any:
        strategy = self.distribute_strategy
        if strategy.num_replicas_in_sync == 1 or not isinstance(batches, tf.data.Dataset):
            return batches
        return strategy.distribute_datasets_from_function(lambda context: divide_batches(batches, context))
