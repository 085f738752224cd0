"""A classifier of pictures: an image encoder and a layer of logits."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from models.finetuning.losses import label_cross_entropy
from models.training.distributed_fit import DistributedFit
from models.training.replicas import gather_over_replicas


@keras.saving.register_keras_serializable(package="courier")
class PictureClassifier(DistributedFit, keras.Model):
    """Says which class a picture is of; encoder and logits learn together.

    The loss is the cross-entropy, a mean over the pictures of the batch that have a label; replicas add their parts.
    The metrics `top1` and `top5` are the shares of pictures whose label is among the 1 and the 5 highest logits; a
    class with the same logit counts against the label, so that a classifier that knows nothing gains nothing.

    A loss given to `compile` takes the place of the cross-entropy, and metrics given to it are measured: both compare
    labels, which then all must have, with logits.

    Args:
        encoder: pictures uint8 `(n, height, width, 3)` to embeddings float32 `(n, dim)`, built.
        classes: how many there are.

    Inputs: pictures, uint8 `(n, height, width, 3)`; labels, int `(n,)`, -1 for none.

    Output: logits, float32 `(n, classes)`.

    Example:
        >>> classifier = PictureClassifier(ImageEncoder.from_preset("courier_cpu"), classes=10)
        >>> classifier.compile("adam")
        >>> classifier.fit(pictures, labels, epochs=5)

    Reference: the companion article, Table 5.
    """

    def __init__(self, encoder: keras.Model, classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if classes < 2:
            raise ValueError(f"`classes` must be at least 2. Received: {classes}")
        self.encoder = encoder
        self.classes = classes
        self.logits = keras.layers.Dense(classes, dtype="float32", name="logits")
        self.logits.build((None, encoder.embedding_dim))
        self.top = {k: keras.metrics.Mean(name=f"top{k}") for k in (1, 5)}
        self.built = True

    def call(self, pictures: Any, training: bool = False) -> Any:
        """Classifies; see the class."""
        return self.logits(self.encoder(pictures, training=training))

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """This replica's part of the loss; updates the metrics."""
        labelled = ops.cast(y >= 0, "float32")
        ranks = label_ranks(y_pred, y)
        for k, metric in self.top.items():
            metric.update_state(ops.cast(ranks <= k, "float32"), labelled)
        if self._compile_loss is not None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        count = ops.sum(gather_over_replicas(labelled))
        return label_cross_entropy(y_pred, y) / ops.maximum(count, 1.0)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        encoder = keras.saving.serialize_keras_object(self.encoder)
        return {**super().get_config(), "encoder": encoder, "classes": self.classes}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "PictureClassifier":
        """Builds a model from what `get_config` returned."""
        encoder = keras.saving.deserialize_keras_object(config["encoder"], custom_objects=custom_objects)
        return cls(**{**config, "encoder": encoder})


def label_ranks(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The place of each label among the logits, from 1; behind all classes with the same logit, too.

    Args:
        logits: `(pictures, classes)`.
        labels: int `(pictures,)`; the rank of -1 means nothing.
    """
    own = ops.take_along_axis(logits, ops.cast(ops.maximum(labels, 0), "int32")[:, None], axis=1)
    return ops.sum(ops.cast(logits >= own, "int32"), axis=1)
