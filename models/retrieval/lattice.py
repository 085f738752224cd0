"""LATTICE: learns which items look alike in what way, and adds what follows from it to collaborative filtering."""

from typing import Any, ClassVar

import keras
import tensorflow as tf
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from models.retrieval.item_graph import item_graph, nearest_items
from models.retrieval.losses import bpr_loss, squared_penalty
from models.retrieval.propagation import Propagation, mean_of_layers
from models.retrieval.recommender import Reading, Recommender, RecommenderConfig

_LEAST_DEGREE = 1e-6


class LatticeConfig(RecommenderConfig):
    """`RecommenderConfig` and what LATTICE adds.

    Attributes:
        layers: of propagation between users and items.
        item_layers: of propagation between items.
        neighbours: nearest items that an item has, itself among them.
        fixed_share: weight of the graph of the features as they are; the rest is that of the learned one.
    """

    regularization: NonNegativeFloat = 1e-4
    layers: NonNegativeInt = 2
    item_layers: PositiveInt = 1
    neighbours: PositiveInt = 10
    fixed_share: float = Field(0.9, ge=0, le=1)


@keras.saving.register_keras_serializable(package="courier")
class Lattice(Recommender):
    """LightGCN, whose item vectors get what passes through a graph of similar items, scaled to unit length.

    That graph is a mixture over the kinds of features, whose weights are learned, of the nearest items by the features
    as they are, and of the nearest by projected features. Which items are nearest by these is found anew at the
    beginning of each epoch; how near they are is part of every step and has a gradient. The paper finds both anew in
    every step, in dense matrices of all pairs of items; here memory is linear in the edges.

    Args:
        num_users, num_items, feature_dims, config: see `Recommender`.

    Reference: Zhang et al., Mining Latent Structures for Multimedia Recommendation (MM 2021).
    """

    Config: ClassVar[type[RecommenderConfig]] = LatticeConfig
    config: LatticeConfig
    reads_features: ClassVar[Reading] = "always"

    def __init__(self, num_users: int, num_items: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_users, num_items, *args, **kwargs)
        kinds = range(len(self.feature_dims))
        shape = (num_items, min(self.config.neighbours, num_items))
        self.user_embeddings = self.add_table("user_embeddings", num_users)
        self.item_embeddings = self.add_table("item_embeddings", num_items)
        self.projections = [
            self.add_dense(f"projection_{kind}", self.feature_dims[kind], self.config.dim) for kind in kinds
        ]
        self.kind_logits = self.add_weight((len(kinds),), "zeros", name="kind_logits", autocast=False)
        self.nearest = [
            self.add_weight(name=f"nearest_{kind}", shape=shape, dtype="int32", initializer="zeros", trainable=False)
            for kind in kinds
        ]

    def prepare(self) -> None:
        """Makes the graph of users and items, and those of the features as they are."""
        self.propagate = self.interaction_graph()
        self.fixed = [Propagation(item_graph(each.numpy(), self.config.neighbours)) for each in self.features]
        self.known = [tf.cast(tf.reduce_any(each != 0, axis=1), tf.float32) for each in self.features]

    def begin_epoch(self) -> None:
        """Finds the items that are nearest by projected features."""
        for projection, features, nearest in zip(self.projections, self.features, self.nearest, strict=True):
            nearest.assign(nearest_items(projection(features).numpy(), self.config.neighbours).items)

    def representations(self, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """LightGCN's vectors, those of items with what similar items add."""
        start = tf.concat([self.user_embeddings.value, self.item_embeddings.value], axis=0)
        users, items = self.split(mean_of_layers(self.propagate, start, self.config.layers))
        similar, weights = self.item_embeddings.value, self._learned_weights()
        for _ in range(self.config.item_layers):
            similar = self._through_item_graph(similar, weights)
        return users, items + tf.math.l2_normalize(similar, axis=1)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """BPR, and the penalty on the batch's vectors."""
        vectors = self.representations(training=training)
        penalty = squared_penalty(*self.rows_of(x, *vectors))
        return bpr_loss(*self.scores_of(x, *vectors)) + self.config.regularization * penalty

    def _learned_weights(self) -> list[tf.Tensor]:
        """Of each kind, cosines of the projected features of each item and its nearest, `(items, k)`."""
        weights = []
        for projection, features, known, nearest in zip(
            self.projections, self.features, self.known, self.nearest, strict=True
        ):
            unit = tf.math.l2_normalize(projection(features), axis=1)
            cosines = tf.reduce_sum(unit[:, None, :] * tf.gather(unit, nearest.value), axis=2)
            weights.append(tf.nn.relu(cosines) * known[:, None] * tf.gather(known, nearest.value))
        return weights

    def _through_item_graph(self, vectors: tf.Tensor, weights: list[tf.Tensor]) -> tf.Tensor:
        shares = tf.unstack(tf.nn.softmax(self.kind_logits.value), len(weights))
        degree = tf.add_n([share * tf.reduce_sum(each, axis=1) for share, each in zip(shares, weights, strict=True)])
        root = tf.where(degree > 0, tf.math.rsqrt(tf.maximum(degree, _LEAST_DEGREE)), 0)[:, None]
        scaled = vectors * root
        learned = tf.add_n(
            [
                share * tf.reduce_sum(each[:, :, None] * tf.gather(scaled, nearest.value), axis=1)
                for share, each, nearest in zip(shares, weights, self.nearest, strict=True)
            ]
        )
        fixed = tf.add_n([share * propagate(vectors) for share, propagate in zip(shares, self.fixed, strict=True)])
        return self.config.fixed_share * fixed + (1 - self.config.fixed_share) * root * learned
