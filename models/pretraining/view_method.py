"""The base of the methods that learn from views of pictures, without pages."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops
from pydantic import Field

from models.config import Config
from models.pretraining.augmentation import RandomViews
from models.pretraining.losses import cosine, unit
from models.pretraining.method import PretrainingMethod
from models.training.replicas import gather_over_replicas

_VALIDATION_SEED = (0, 0)  # views of validation are the same each time


class ViewConfig(Config):
    """What the methods that compare views have in common.

    Attributes:
        augmentation_strength: how much views differ from their picture; 1 is as published, 0 not at all.
    """

    augmentation_strength: float = Field(1.0, ge=0, le=1)


class ViewMethod(PretrainingMethod):
    """Base of the methods that compare random views of the same picture.

    They use the distinct pictures of a batch of pages, each one once, whatever its users did. Padding counts nowhere,
    and the result does not depend on how replicas share a batch. The random state of the views is a variable of the
    model, which checkpoints hold.

    A method implements `embed_views` and `loss_part`.

    Metrics are those of the whole batch on every replica: `positive_similarity`, the mean cosine of a picture's two
    views, `negative_similarity`, that of views of two pictures, and `pictures`. A loss given to `compile` takes the
    place of the method's, and metrics given to it are measured: both compare 1 with the cosine of a picture's views.

    Args:
        encoder: see `PretrainingMethod`.
        views: how views are drawn.
    """

    def __init__(self, encoder: keras.Model, views: RandomViews, **kwargs: Any) -> None:
        super().__init__(encoder, **kwargs)
        self.views = views
        # Replicas draw the same numbers; those of a picture are told by its own number.
        self.view_seed = keras.random.SeedGenerator()
        self.positive_similarity = keras.metrics.Mean(name="positive_similarity")
        self.negative_similarity = keras.metrics.Mean(name="negative_similarity")

    def embed_views(self, inputs: dict[str, Any], counted: Any, seed: Any, training: bool) -> dict[str, Any]:
        """What the loss compares of a batch.

        Args:
            inputs: see `PretrainingMethod`.
            counted: bool `(n,)`, which pictures this replica answers for.
            seed: int64 `(2,)`; for a step's further views, add to its first number.
            training: whether the model learns.

        Returns:
            `view_1` and `view_2`, `(n, dim)`, and what else the loss needs, `n` rows each.
        """
        raise NotImplementedError

    def loss_part(self, x: dict[str, Any], y_pred: dict[str, Any], pictures: Any, training: bool) -> Any:
        """This replica's part of the loss.

        Args:
            x: the batch.
            y_pred: of `call`.
            pictures: float scalar, how many pictures count over all replicas, at least 1.
            training: whether the model learns.
        """
        raise NotImplementedError

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """What `embed_views` returns, and `counted`, bool `(n,)`: the pictures that this replica answers for."""
        counted = self.counted_pictures(inputs)
        seed = self.view_seed.next() if training else ops.convert_to_tensor(_VALIDATION_SEED, "int64")
        return {**self.embed_views(inputs, counted, ops.cast(seed, "int64"), training), "counted": counted}

    def two_views(self, inputs: dict[str, Any], seed: Any) -> tuple[Any, Any]:
        """Two views of each picture, uint8."""
        pictures, number = inputs["pictures"], inputs["picture_id"]
        return tuple(self.views(pictures, number, seed + ops.convert_to_tensor([i, 0], "int64")) for i in range(2))

    def encode_two(self, inputs: dict[str, Any], seed: Any, training: bool) -> tuple[Any, Any]:
        """The encoder's embeddings of two views of each picture, `(n, dim)` each, in one pass."""
        shown = {
            "pictures": ops.concatenate(self.two_views(inputs, seed), axis=0),
            "picture_id": ops.tile(inputs["picture_id"], 2),
        }
        return tuple(ops.split(self.embed(shown, training=training), 2, axis=0))

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """This replica's part of the loss; the parts of all replicas add up to it."""
        counted = y_pred["counted"]
        pictures = ops.sum(gather_over_replicas(ops.sum(ops.cast(counted, "float32"))[None]))
        self.count_pictures(x)
        self._measure(y_pred)
        loss = self.loss_part(x, y_pred, ops.maximum(pictures, 1.0), training)
        if self._compile_loss is None:
            return loss
        similarity = tf.boolean_mask(cosine(y_pred["view_1"], y_pred["view_2"]), counted)[:, None]
        return super().compute_loss(x, ops.ones_like(similarity), similarity, None, training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """The values of all metrics, the compiled ones after this batch too."""
        if self._compile_metrics is not None:
            similarity = cosine(y_pred["view_1"], y_pred["view_2"])[:, None]
            weights = ops.cast(y_pred["counted"], "float32")[:, None]
            similarity._keras_mask = y_pred["counted"][:, None]
            self._compile_metrics.update_state(ops.ones_like(similarity), similarity, sample_weight=weights)
        return self.get_metrics_result()

    def train_step(self, data: Any) -> dict[str, Any]:
        """Keras' training step between `begin_step` and `finish_step`."""
        begun = self.begin_step()
        logs = super().train_step(data)
        self.finish_step(begun)
        return logs

    def begin_step(self) -> Any:
        """What a method remembers for `finish_step`, before the weights change."""

    def finish_step(self, begun: Any) -> None:
        """What a method does when the optimizer has changed the weights.

        Args:
            begun: of `begin_step`.
        """

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments that all methods have."""
        return {**super().get_config(), "augmentation_strength": self.views.strength}

    def _measure(self, y_pred: dict[str, Any]) -> None:
        """Updates the metrics with values of the whole batch: cosines of all pairs from sums of unit vectors."""
        weights = ops.cast(y_pred["counted"], "float32")[:, None]
        one, other = (unit(y_pred[name]) * weights for name in ("view_1", "view_2"))
        scalars = ops.stack([ops.sum(one * other), ops.sum(weights)])
        sums = ops.concatenate([ops.sum(one, axis=0), ops.sum(other, axis=0), scalars])
        sums = ops.sum(gather_over_replicas(ops.stop_gradient(sums)[None]), axis=0)
        dim = one.shape[-1]
        own, pictures = sums[-2], sums[-1]
        pairs = pictures * (pictures - 1.0)
        every = ops.sum(sums[:dim] * sums[dim : 2 * dim])
        self.positive_similarity.update_state(own / ops.maximum(pictures, 1.0), ops.minimum(pictures, 1.0))
        self.negative_similarity.update_state((every - own) / ops.maximum(pairs, 1.0), ops.clip(pairs, 0.0, 1.0))
