"""Matrix factorisation that learns by BPR: the recommender that knows nothing but who has what."""

from typing import Any, ClassVar

import keras
import tensorflow as tf
from pydantic import NonNegativeFloat

from models.layers.table_rows import gather_rows
from models.retrieval.losses import bpr_loss, norm_penalty
from models.retrieval.recommender import Recommender, RecommenderConfig


class BprConfig(RecommenderConfig):
    """`RecommenderConfig` with a penalty of its own."""

    regularization: NonNegativeFloat = 0.1


@keras.saving.register_keras_serializable(package="courier")
class Bpr(Recommender):
    """A vector per user and item, whose product says how well they suit each other.

    Args:
        num_users, num_items, config: see `Recommender`.

    Reference: Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback (UAI 2009).
    """

    Config: ClassVar[type[RecommenderConfig]] = BprConfig

    def __init__(self, num_users: int, num_items: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_users, num_items, *args, **kwargs)
        self.user_embeddings = self.add_table("user_embeddings", num_users)
        self.item_embeddings = self.add_table("item_embeddings", num_items)

    def representations(self, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """The tables."""
        return self.user_embeddings.value, self.item_embeddings.value

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """BPR and the penalty; no other row than the batch's is read."""
        user = gather_rows(self.user_embeddings, x["user"])
        item, negative = (gather_rows(self.item_embeddings, x[name]) for name in ("item", "negative"))
        loss = bpr_loss(tf.reduce_sum(user * item, axis=1), tf.reduce_sum(user * negative, axis=1))
        return loss + self.config.regularization * norm_penalty(user, item, negative)
