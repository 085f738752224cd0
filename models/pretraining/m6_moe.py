"""M6: pictures and titles in one sparse transformer, which must know an item again in another view."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops
from pydantic import Field

from models.pretraining.augmentation import RandomViews
from models.pretraining.simclr import nt_xent
from models.pretraining.view_method import ViewConfig, ViewMethod
from models.training.replicas import gather_over_replicas, rows_over_replicas
from models.vision.m6 import M6

_TABLE = 8192  # rows of random numbers that pictures share


class M6MoEConfig(ViewConfig):
    """How `M6MoE` learns.

    Attributes:
        temperature: of the contrast.
        title_share: how often a view has its title.
        balance_weight: of the loss that evens out the experts.
    """

    temperature: float = Field(0.2, gt=0)
    title_share: float = Field(0.5, ge=0, le=1)
    balance_weight: float = Field(0.01, ge=0)


@keras.saving.register_keras_serializable(package="courier")
class M6MoE(ViewMethod):
    """Pre-trains `M6` by the contrast of two views of an item, each a changed picture with or without the title.

    The article fine-tunes M6 with a contrastive loss on goods and says no more of it; the rest is our reading. The
    contrast is that of `SimCLR`, without a head: the embeddings themselves, 32 numbers in the article, are compared.
    A view loses its title at random, so that the embedding of a picture alone, which is what is used afterwards, has
    learnt what titles say. The balance of the experts, summed over blocks, is added with a weight.

    Metrics are those of `ViewMethod` and, of the whole batch, `balance`, the mean over blocks (`k` when all experts are
    given the same), and `dropped_share`, the share of choices that found their expert full.

    Args:
        encoder: an `ImageEncoder` of the backbone `M6`.
        temperature: of the contrast.
        title_share: how often a view has its title.
        balance_weight: of the balance.
        augmentation_strength: see `RandomViews`.

    Inputs: a dictionary, see `PretrainingMethod`, and:
        tokens: int32 `(distinct, length)`, the tokens of each picture's title, -1 = padding.
    """

    def __init__(
        self,
        encoder: keras.Model,
        temperature: float = 0.2,
        title_share: float = 0.5,
        balance_weight: float = 0.01,
        augmentation_strength: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, RandomViews(augmentation_strength), **kwargs)
        if not isinstance(encoder.backbone, M6):
            raise ValueError(f"`encoder` must have the backbone M6. Received: {type(encoder.backbone).__name__}")
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive. Received: {temperature}")
        self.temperature = temperature
        self.title_share = title_share
        self.balance_weight = balance_weight
        self.balance = keras.metrics.Mean(name="balance")
        self.dropped_share = keras.metrics.Mean(name="dropped_share")
        self.built = True

    def embed_views(self, inputs: dict[str, Any], counted: Any, seed: Any, training: bool) -> dict[str, Any]:
        """The embeddings of two views of each item, and what became of their tokens, `(1,)` each."""
        draws = tf.random.stateless_uniform((_TABLE, 2), seed + ops.convert_to_tensor([2, 0], "int64"))
        kept = tf.gather(draws, inputs["picture_id"] % _TABLE) < self.title_share
        tokens = ops.concatenate([ops.where(kept[:, view, None], inputs["tokens"], -1) for view in range(2)], axis=0)
        pictures = self.encoder.normalize(ops.concatenate(self.two_views(inputs, seed), axis=0))
        attended = self.encoder.backbone.attend(
            pictures, tokens, valid=ops.concatenate([counted, counted], axis=0), training=training
        )
        one, other = ops.split(self.encoder.project(attended.features), 2, axis=0)
        parts = {"balance": attended.balance, "choices": attended.choices, "dropped": attended.dropped}
        return {"view_1": one, "view_2": other, **{name: part[None] for name, part in parts.items()}}

    def loss_part(self, x: dict[str, Any], y_pred: dict[str, Any], pictures: Any, training: bool) -> Any:
        """See `ViewMethod`."""
        parts = [gather_over_replicas(ops.stop_gradient(y_pred[name])) for name in ("balance", "choices", "dropped")]
        balance, choices, dropped = (ops.sum(part) for part in parts)
        self.balance.update_state(balance / len(self.encoder.backbone.blocks))
        self.dropped_share.update_state(dropped / ops.maximum(choices, 1.0))
        views, counted = (y_pred["view_1"], y_pred["view_2"]), y_pred["counted"]
        contrast = nt_xent(
            *views,
            counted,
            every=tuple(gather_over_replicas(view) for view in views),
            every_counted=gather_over_replicas(counted),
            rows=rows_over_replicas(counted),
            temperature=self.temperature,
        )
        return contrast / (2.0 * pictures) + self.balance_weight * y_pred["balance"][0]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "title_share": self.title_share,
            "balance_weight": self.balance_weight,
        }
