"""The base of the methods that compare two vectors of each picture."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from models.pretraining.losses import cosine, unit
from models.pretraining.method import PretrainingMethod
from models.training.replicas import gather_over_replicas


class PairMethod(PretrainingMethod):
    """Base of the methods that compare two vectors of each picture: two views of it, or it and its title.

    They use the distinct pictures of a batch of pages, each one once, whatever its users did. Padding counts nowhere,
    and the result does not depend on how replicas share a batch.

    A method implements `embed_pairs` and `loss_part`, and `counted_pictures` if not all pictures have both vectors.

    Metrics are those of the whole batch on every replica: `positive_similarity`, the mean cosine of a picture's two
    vectors, `negative_similarity`, that of vectors of two pictures, and `pictures`. A loss given to `compile` takes the
    place of the method's, and metrics given to it are measured: both compare 1 with the cosine of a picture's two
    vectors.

    Args:
        encoder: see `PretrainingMethod`.
    """

    def __init__(self, encoder: keras.Model, **kwargs: Any) -> None:
        super().__init__(encoder, **kwargs)
        self.positive_similarity = keras.metrics.Mean(name="positive_similarity")
        self.negative_similarity = keras.metrics.Mean(name="negative_similarity")

    def embed_pairs(self, inputs: dict[str, Any], counted: Any, training: bool) -> dict[str, Any]:
        """What the loss compares of a batch.

        Args:
            inputs: see `PretrainingMethod`.
            counted: bool `(n,)`, which pictures this replica answers for.
            training: whether the model learns.

        Returns:
            `view_1` and `view_2`, `(n, dim)`, and what else the loss needs.
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
        """What `embed_pairs` returns, and `counted`, bool `(n,)`: the pictures that this replica answers for."""
        counted = self.counted_pictures(inputs)
        return {**self.embed_pairs(inputs, counted, training), "counted": counted}

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
