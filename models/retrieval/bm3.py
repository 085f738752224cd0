"""BM3: learns from what users have alone, without negative items, by predicting one view from another."""

from typing import Any, ClassVar

import keras
import tensorflow as tf
from pydantic import Field, NonNegativeFloat, NonNegativeInt

from models.retrieval.losses import norm_penalty
from models.retrieval.propagation import mean_of_layers
from models.retrieval.recommender import Reading, Recommender, RecommenderConfig


class Bm3Config(RecommenderConfig):
    """`RecommenderConfig` and what BM3 adds.

    Attributes:
        layers: of propagation between users and items.
        dropout: share of the numbers of a target that is left out.
        feature_weight: of the losses on the features.
    """

    regularization: NonNegativeFloat = 0.1
    layers: NonNegativeInt = 1
    dropout: float = Field(0.3, ge=0, lt=1)
    feature_weight: NonNegativeFloat = 2.0


@keras.saving.register_keras_serializable(package="courier")
class Bm3(Recommender):
    """Bootstraps: what a linear predictor makes of a user must look like the user's items, and the other way round.

    Vectors are LightGCN's, with an item's own embedding added. A target is the vector of the other side, with dropout
    and without gradient, so that nothing can collapse it at once; no negative item is needed. Projected features must
    predict the item's vector, and themselves with dropout. Scores are products of the predictor's outputs.

    Args:
        num_users, num_items, feature_dims, config: see `Recommender`.

    Reference: Zhou et al., Bootstrap Latent Representations for Multi-modal Recommendation (WWW 2023).
    """

    Config: ClassVar[type[RecommenderConfig]] = Bm3Config
    config: Bm3Config
    reads_features: ClassVar[Reading] = "always"

    def __init__(self, num_users: int, num_items: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_users, num_items, *args, **kwargs)
        dim = self.config.dim
        self.user_embeddings = self.add_table("user_embeddings", num_users)
        self.item_embeddings = self.add_table("item_embeddings", num_items)
        self.predictor = self.add_dense("predictor", dim, dim)
        self.projections = [
            self.add_dense(f"projection_{number}", length, dim) for number, length in enumerate(self.feature_dims)
        ]
        self.dropout_seed = keras.random.SeedGenerator()

    def prepare(self) -> None:
        """Makes the graph of users and items."""
        self.propagate = self.interaction_graph()

    def representations(self, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """What the predictor makes of the vectors."""
        users, items = self._online()
        return self.predictor(users), self.predictor(items)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """The losses of users and items, of the features, and the penalty."""
        users, items = self._online()
        user, item = tf.gather(users, x["user"]), tf.gather(items, x["item"])
        item_target = self._target(item, training)
        loss = _distance(self.predictor(user), item_target)
        loss += _distance(self.predictor(item), self._target(user, training))
        for projection, features in zip(self.projections, self.features, strict=True):
            feature = projection(tf.gather(features, x["item"]))
            predicted = self.predictor(feature)
            of_features = _distance(predicted, item_target) + _distance(predicted, self._target(feature, training))
            loss += self.config.feature_weight * of_features
        return loss + self.config.regularization * norm_penalty(items, users)

    def _online(self) -> tuple[tf.Tensor, tf.Tensor]:
        start = tf.concat([self.user_embeddings.value, self.item_embeddings.value], axis=0)
        users, items = self.split(mean_of_layers(self.propagate, start, self.config.layers))
        return users, items + self.item_embeddings.value

    def _target(self, vectors: tf.Tensor, training: bool) -> tf.Tensor:
        vectors = tf.stop_gradient(vectors)
        if not training or not self.config.dropout:
            return vectors
        return keras.random.dropout(vectors, self.config.dropout, seed=self.dropout_seed)


def _distance(predicted: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """The mean of `1 - cosine`, `(batch, dim)` to a scalar."""
    cosines = tf.reduce_sum(tf.math.l2_normalize(predicted, axis=1) * tf.math.l2_normalize(target, axis=1), axis=1)
    return 1 - tf.reduce_mean(cosines)
