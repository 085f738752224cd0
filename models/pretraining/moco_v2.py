"""MoCo v2: a view of a picture is told from a queue of earlier pictures, which a slowly moving encoder embeds."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops
from pydantic import Field

from models.pretraining.augmentation import RandomViews
from models.pretraining.losses import unit
from models.pretraining.perceptron_head import PerceptronHead
from models.pretraining.view_method import ViewConfig, ViewMethod
from models.training.replicas import gather_over_replicas

_MASKED = -1e9
_NOBODY = -1  # the number of the picture of a key that was drawn at random


class MoCoV2Config(ViewConfig):
    """How `MoCoV2` learns; see its arguments."""

    temperature: float = Field(0.2, gt=0)
    queue_length: int = Field(65536, gt=0)
    momentum: float = Field(0.999, ge=0, le=1)
    hidden_dim: int = Field(2048, gt=0)
    projection_dim: int = Field(128, gt=0)


@keras.saving.register_keras_serializable(package="courier")
class MoCoV2(ViewMethod):
    """Pre-trains an image encoder without clicks: each query must find its key among those of earlier batches.

    One view of a picture is a query, which the encoder embeds, the other one a key, which the key encoder embeds: a
    copy whose weights follow the encoder's slowly and have no gradient. Keys of earlier batches wait in a queue and
    are the negatives, so that there are many with small batches. The loss is the mean over the pictures; if all
    embeddings are alike it is ln(1 + queue_length).

    Where it differs from the published code: keys of the query's own picture, which come round in the queue of a small
    catalogue, are left out of its softmax. There is no shuffling of batches between devices, because it only hides what
    batch normalisation would give away, and there is none here: the head has none, and encoders that learn with
    statistics of batches are refused. Batches may be of any size and need not divide the queue.

    Args:
        encoder: pictures uint8 `(n, height, width, 3)` to embeddings float32 `(n, dim)`, built. Its embeddings are what
            is used afterwards, without head and key encoder.
        temperature: of the softmax.
        queue_length: keys that wait. They and the numbers of their pictures are weights, saved with the model; at first
            they are drawn at random.
        momentum: share of a key encoder's weight that is kept in a step; the rest comes from the encoder.
        hidden_dim, projection_dim: units of the head's two layers.
        augmentation_strength: how much views differ from their picture; 1 is MoCo v2's.

    Inputs: a dictionary, see `PretrainingMethod`; pages take no part.

    Reference: He et al., Momentum Contrast for Unsupervised Visual Representation Learning (2020); Chen et al.,
    Improved Baselines with Momentum Contrastive Learning (2020): SGD at 0.03 for 256 pictures with a cosine schedule.
    """

    def __init__(
        self,
        encoder: keras.Model,
        temperature: float = 0.2,
        queue_length: int = 65536,
        momentum: float = 0.999,
        hidden_dim: int = 2048,
        projection_dim: int = 128,
        augmentation_strength: float = 1.0,
        **kwargs: Any,
    ) -> None:
        views = RandomViews(augmentation_strength, area=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1))
        super().__init__(encoder, views, **kwargs)
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive. Received: {temperature}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"`momentum` must be between 0 and 1. Received: {momentum}")
        if queue_length < 1:
            raise ValueError(f"`queue_length` must be at least 1. Received: {queue_length}")
        if getattr(encoder, "batch_statistics", False):
            raise ValueError("`encoder` must not normalize over batches, which are not shuffled between devices here")
        self.temperature = temperature
        self.queue_length = queue_length
        self.momentum = momentum
        self.hidden_dim = hidden_dim
        self.projection_dim = projection_dim
        self.head = PerceptronHead((hidden_dim, projection_dim), name="head")
        self.head.build((None, encoder.embedding_dim))
        self.key_encoder = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(encoder))
        self.key_head = PerceptronHead((hidden_dim, projection_dim), name="key_head")
        self.key_head.build((None, encoder.embedding_dim))
        for copy, original in ((self.key_encoder, encoder), (self.key_head, self.head)):
            copy.set_weights(original.get_weights())
            copy.trainable = False
        self.queue = self.add_weight(
            shape=(queue_length, projection_dim), initializer=_random_directions, trainable=False, name="queue"
        )
        self.queue_picture = self.add_weight(
            shape=(queue_length,),
            dtype="int32",
            initializer=keras.initializers.Constant(_NOBODY),
            trainable=False,
            name="queue_picture",
        )
        self.built = True

    def embed_views(self, inputs: dict[str, Any], counted: Any, seed: Any, training: bool) -> dict[str, Any]:
        """The queries, `view_1`, and the keys, `view_2`, which have no gradient: `(n, projection_dim)`."""
        one, other = self.two_views(inputs, seed)
        keys = self.key_head(self.key_encoder(other, training=training))
        return {"view_1": self.head(self.encoder(one, training=training)), "view_2": ops.stop_gradient(keys)}

    def loss_part(self, x: dict[str, Any], y_pred: dict[str, Any], pictures: Any, training: bool) -> Any:
        """See `ViewMethod`; in training, the keys join the queue when the loss has been computed."""
        queries, keys, counted = unit(y_pred["view_1"]), unit(y_pred["view_2"]), y_pred["counted"]
        losses = queue_contrast(
            queries,
            keys,
            ops.stop_gradient(ops.convert_to_tensor(self.queue)),
            possible=ops.convert_to_tensor(self.queue_picture)[None, :] != x["picture_id"][:, None],
            temperature=self.temperature,
        )
        total = ops.sum(ops.where(counted, losses, 0.0))
        if training:
            every = gather_over_replicas(counted)
            for queue, values in ((self.queue, keys), (self.queue_picture, x["picture_id"])):
                values = tf.boolean_mask(gather_over_replicas(values), every)
                queue.assign(enqueue(ops.convert_to_tensor(queue), ops.stop_gradient(values)))
        return total / pictures

    def finish_step(self, begun: Any) -> None:
        """The key encoder follows the encoder."""
        for copy, original in ((self.key_encoder, self.encoder), (self.key_head, self.head)):
            for key, query in zip(copy.weights, original.weights, strict=True):
                if query.trainable:
                    key.assign(self.momentum * key + (1.0 - self.momentum) * query)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "queue_length": self.queue_length,
            "momentum": self.momentum,
            "hidden_dim": self.hidden_dim,
            "projection_dim": self.projection_dim,
        }


def queue_contrast(queries: Any, keys: Any, queue: Any, *, possible: Any, temperature: float) -> Any:
    """How badly each query finds its own key among those of a queue: `-log softmax` of the products over temperature.

    Args:
        queries: `(n, dim)`, of unit length.
        keys: `(n, dim)`, likewise: the key of each query.
        queue: `(length, dim)`, likewise: the negatives of all queries.
        possible: bool `(n, length)`, which negatives are in a query's softmax.
        temperature: of the softmax.

    Returns:
        float32 `(n,)`.

    Reference: He et al., equation 1.
    """
    positive = ops.sum(queries * keys, axis=1) / temperature
    negative = ops.matmul(queries, ops.transpose(queue)) / temperature
    negative = ops.where(possible, negative, _MASKED)
    return ops.logsumexp(ops.concatenate([positive[:, None], negative], axis=1), axis=1) - positive


def enqueue(queue: Any, values: Any) -> Any:
    """The queue when values have come in at its end and as many have left at its beginning: of many, the last ones.

    Args:
        queue: `(length, ...)`.
        values: `(n, ...)`, in the order in which they come.
    """
    return ops.concatenate([queue, values], axis=0)[-queue.shape[0] :]


def _random_directions(shape: Any, dtype: Any = None) -> Any:
    return unit(keras.random.normal(shape, dtype=dtype))
