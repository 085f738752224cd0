"""Supervised pre-training: a click model is trained end to end with its image encoder."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops
from pydantic import Field, PositiveInt

from models.config import Config
from models.layers.id_embedding import IdEmbedding
from models.layers.target_attention import TargetAttention
from models.metrics.gauc import GAUC
from models.pretraining.losses import unit
from models.pretraining.method import PretrainingMethod
from models.training.replicas import gather_over_replicas


class SupervisedConfig(Config):
    """How `Supervised` learns; see its arguments."""

    id_dim: int = Field(16, ge=0)
    id_buckets: PositiveInt = 65_536
    attention_units: PositiveInt = 32
    mlp_units: tuple[PositiveInt, ...] = Field((128, 64, 32, 16), min_length=1)


@keras.saving.register_keras_serializable(package="courier")
class Supervised(PretrainingMethod):
    """Pre-trains an image encoder as a part of a click model, from clicks alone.

    An item is its picture's embedding and, beside it, an embedding of the picture's number, which stands for the IDs of
    a whole click model: what a picture does not show, such as how popular an item is, need not be read out of it. A
    candidate looks at the clicked items with DIN's target attention, whose weights are not normalised, and an MLP on
    `[candidate, interest, candidate * interest]` gives the logit of a click.

    The loss is the cross-entropy, a mean over the candidates with a picture. Pages of the pre-training view hold few
    of their unclicked candidates, so that the probabilities are too high. This moves the logits by a constant and does
    not matter to embeddings; do not use the model's probabilities. A view without unclicked candidates (`causal`)
    teaches nothing, for everything is clicked.

    Everything behind the encoder is computed in float32 at any precision. Under a `tf.distribute` strategy the
    replicas' losses add up to the loss of the whole batch. Metrics are those of the whole batch on every replica:
    `gauc`, how well the logits order the candidates of a page; `positive_similarity` and `negative_similarity`, the
    mean cosine of the embeddings of clicked and of other candidates with those of the user's clicks, which is what
    comes of it for later use; and `pictures`, how many were seen.

    Args:
        encoder: pictures uint8 `(n, height, width, 3)` to embeddings float32 `(n, dim)`, built. Its embeddings are what
            is used afterwards, compared by their cosine, which the click model does not see.
        id_dim: length of the embeddings of picture numbers; 0 leaves them out, so that pictures must explain all.
        id_buckets: number of these embeddings. Numbers share them where there are more pictures.
        attention_units: hidden units of the attention.
        mlp_units: hidden layers of the MLP.

    A loss given to `compile` takes the place of the cross-entropy, and metrics given to it are measured. Both compare
    `clicked` with the probability of a click: metrics on `(batch, candidates)` with the Keras mask of the candidates
    that have a picture, which `weighted_metrics` get as weights too; the loss on all of these in one column, `(n, 1)`.

    Inputs: a dictionary, see `PretrainingMethod`.

    Example:
        >>> supervised = Supervised(ImageEncoder.from_preset("supervised_cpu"))
        >>> supervised.compile("adam")
        >>> supervised.fit(Dataset("artifacts/dataset").pretraining(image_size=(48, 32)).batches(64), epochs=8)

    Reference: COURIER, section 4.2.2, "Supervised", which names the model and no more: this one is our reading. Zhou et
    al., Deep Interest Network for Click-Through Rate Prediction (KDD 2018), for the attention.
    """

    def __init__(
        self,
        encoder: keras.Model,
        id_dim: int = 16,
        id_buckets: int = 65_536,
        attention_units: int = 32,
        mlp_units: Sequence[int] = (128, 64, 32, 16),
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, **kwargs)
        if id_dim < 0:
            raise ValueError(f"`id_dim` must be at least 0. Received: {id_dim}")
        if id_buckets < 1:
            raise ValueError(f"`id_buckets` must be at least 1. Received: {id_buckets}")
        if not mlp_units or min(mlp_units) < 1:
            raise ValueError(f"`mlp_units` must be one positive number or more. Received: {mlp_units}")
        self.id_dim = id_dim
        self.id_buckets = id_buckets
        self.mlp_units = tuple(mlp_units)
        self.id_embedding = None
        if id_dim:
            self.id_embedding = IdEmbedding(id_buckets, id_dim, dtype="float32", name="id_embedding")
            self.id_embedding.build((None,))
        dim = encoder.embedding_dim + id_dim
        self.attention = TargetAttention(attention_units, normalization="none", dtype="float32", name="attention")
        self.attention.build((None, None, dim), (None, None, dim))
        self.mlp = [
            keras.layers.Dense(units, activation="relu", dtype="float32", name=f"mlp_{n}")
            for n, units in enumerate(self.mlp_units)
        ]
        self.logit = keras.layers.Dense(1, dtype="float32", name="logit")
        for layer, length in zip((*self.mlp, self.logit), (3 * dim, *self.mlp_units), strict=True):
            layer.build((None, None, length))
        self.gauc = GAUC()
        self.positive_similarity = keras.metrics.Mean(name="positive_similarity")
        self.negative_similarity = keras.metrics.Mean(name="negative_similarity")
        self.built = True

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Judges the candidates.

        Returns:
            `logits` of a click and `similarity`, the mean cosine with the user's clicks: float32 `(batch, candidates)`
            each, 0 for candidates without a picture.
        """
        valid, click_valid = inputs["candidate_picture"] >= 0, inputs["click_picture"] >= 0
        rows = [ops.maximum(inputs[name], 0) for name in ("candidate_picture", "click_picture")]
        embeddings = self.encoder(inputs["pictures"], training=training)
        candidates, clicks = (ops.take(self.items(embeddings, inputs["picture_id"]), row, axis=0) for row in rows)
        interest = self.attention(candidates, clicks, click_valid, training=training)
        hidden = ops.concatenate([candidates, interest, candidates * interest], axis=-1)
        for layer in self.mlp:
            hidden = layer(hidden)
        shown, clicked = (ops.take(unit(embeddings), row, axis=0) for row in rows)
        weights = ops.cast(click_valid, "float32")
        cosines = ops.sum(ops.matmul(shown, ops.swapaxes(clicked, 1, 2)) * weights[:, None], axis=-1)
        similarity = cosines / ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1.0)
        return {
            "logits": ops.where(valid, self.logit(hidden)[..., 0], 0.0),
            "similarity": ops.where(valid, similarity, 0.0),
        }

    def items(self, embeddings: Any, number: Any) -> Any:
        """What stands for items: the embeddings `(n, dim)` of their pictures and those of the pictures' numbers."""
        if self.id_embedding is None:
            return embeddings
        ids = ops.where(number >= 0, 1 + number % self.id_buckets, 0)
        return ops.concatenate([embeddings, self.id_embedding(ids)], axis=-1)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """This replica's part of the loss; the parts of all replicas add up to it."""
        valid, logits = x["candidate_picture"] >= 0, y_pred["logits"]
        clicked = ops.cast(x["clicked"], "float32")
        self.count_pictures(x)
        candidates = self._measure(
            clicked, ops.cast(valid, "float32"), ops.any(x["click_picture"] >= 0, axis=1), y_pred
        )
        if self._compile_loss is None:
            losses = ops.where(valid, ops.softplus(logits) - clicked * logits, 0.0)
            return ops.sum(losses) / ops.maximum(candidates, 1.0)
        # One column, so that losses, which average the last axis, are those of candidates.
        clicked, probability = (tf.boolean_mask(values, valid)[:, None] for values in (clicked, ops.sigmoid(logits)))
        return super().compute_loss(x, clicked, probability, None, training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """The values of all metrics, the compiled ones after this batch too."""
        if self._compile_metrics is not None:
            valid = x["candidate_picture"] >= 0
            probability = ops.sigmoid(y_pred["logits"])
            probability._keras_mask = valid
            clicked = ops.cast(x["clicked"], "float32")
            self._compile_metrics.update_state(clicked, probability, sample_weight=ops.cast(valid, "float32"))
        return self.get_metrics_result()

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "id_dim": self.id_dim,
            "id_buckets": self.id_buckets,
            "attention_units": self.attention.units,
            "mlp_units": self.mlp_units,
        }

    def _measure(self, clicked: Any, valid: Any, any_click: Any, y_pred: dict[str, Any]) -> Any:
        """Updates the metrics with values of the whole batch; returns how many candidates of it have a picture."""
        rows = ops.stack([clicked, valid, y_pred["logits"], y_pred["similarity"]], axis=-1)
        clicked, valid, logits, similarity = ops.unstack(gather_over_replicas(ops.stop_gradient(rows)), 4, axis=-1)
        self.gauc.update_state(clicked, logits, valid)
        compared = valid * ops.cast(gather_over_replicas(any_click), "float32")[:, None]
        self.positive_similarity.update_state(similarity, compared * clicked)
        self.negative_similarity.update_state(similarity, compared * (1.0 - clicked))
        return ops.sum(valid)
