"""MGCN: features let through by what users have chosen, seen through the items alike, and fused by behaviour."""

from typing import Any, ClassVar

import keras
import scipy.sparse
import tensorflow as tf
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from models.retrieval.item_graph import item_graph
from models.retrieval.losses import bpr_loss, info_nce, squared_penalty
from models.retrieval.propagation import Propagation, mean_of_layers, normalized_bipartite
from models.retrieval.recommender import Reading, Recommender, RecommenderConfig


class MgcnConfig(RecommenderConfig):
    """`RecommenderConfig` and what MGCN adds.

    Attributes:
        layers: of propagation between users and items.
        item_layers: of propagation between items.
        neighbours: nearest items that an item has, itself among them.
        contrast_weight: of the contrastive loss.
        temperature: of the contrastive loss.
    """

    regularization: NonNegativeFloat = 1e-4
    layers: NonNegativeInt = 2
    item_layers: PositiveInt = 1
    neighbours: PositiveInt = 10
    contrast_weight: NonNegativeFloat = 0.001
    temperature: float = Field(0.2, gt=0)


@keras.saving.register_keras_serializable(package="courier")
class Mgcn(Recommender):
    """LightGCN's vectors, plus what the features say of items and, through their items, of users.

    Projected features are multiplied by a gate of the features times the item's ID embedding, so that noise that says
    nothing about behaviour stays out; they pass through the graph of items with similar features, and from items to the
    users who have them. An attention divides the kinds into what they share and what is special to each; the latter
    counts by a gate of LightGCN's vectors. A contrastive loss holds both sides of a node together.

    Args:
        num_users, num_items, feature_dims, config: see `Recommender`.

    Reference: Yu et al., Multi-View Graph Convolutional Network for Multimedia Recommendation (MM 2023).
    """

    Config: ClassVar[type[RecommenderConfig]] = MgcnConfig
    config: MgcnConfig
    reads_features: ClassVar[Reading] = "always"

    def __init__(self, num_users: int, num_items: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_users, num_items, *args, **kwargs)
        dim = self.config.dim
        self.user_embeddings = self.add_table("user_embeddings", num_users)
        self.item_embeddings = self.add_table("item_embeddings", num_items)
        self.projections = []
        self.gates = []
        self.preferences = []
        for kind, length in enumerate(self.feature_dims):
            self.projections.append(self.add_dense(f"projection_{kind}", length, dim))
            self.gates.append(self.add_dense(f"gate_{kind}", dim, dim, activation="sigmoid"))
            self.preferences.append(self.add_dense(f"preference_{kind}", dim, dim, activation="sigmoid"))
        self.attention = self.add_dense("attention", dim, dim, activation="tanh")
        self.query = self.add_dense("query", dim, 1, use_bias=False)

    def prepare(self) -> None:
        """Makes the graph of users and items, the way from items to users, and the graphs of similar items."""
        assert self.seen is not None
        self.propagate = self.interaction_graph()
        graph = normalized_bipartite(self.seen.users, self.seen.items, self.num_users, self.num_items)
        self.to_users = Propagation(scipy.sparse.csr_array(graph[: self.num_users, self.num_users :]))
        self.similar = [Propagation(item_graph(each.numpy(), self.config.neighbours)) for each in self.features]

    def representations(self, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """LightGCN's vectors plus those of the features."""
        behaviour, of_features = self._sides()
        return self.split(behaviour + of_features)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """BPR, the contrast of both sides of the batch's users and items, and the penalty on the batch's vectors."""
        behaviour, of_features = self._sides()
        vectors = self.split(behaviour + of_features)
        loss = bpr_loss(*self.scores_of(x, *vectors))
        loss += self.config.regularization * squared_penalty(*self.rows_of(x, *vectors))
        for name, side, other in zip(("user", "item"), self.split(of_features), self.split(behaviour), strict=True):
            pair = tf.gather(side, x[name]), tf.gather(other, x[name])
            loss += self.config.contrast_weight * info_nce(*pair, self.config.temperature)
        return loss

    def _sides(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Vectors of all nodes by behaviour and by features, `(users + items, dim)` each."""
        start = tf.concat([self.user_embeddings.value, self.item_embeddings.value], axis=0)
        behaviour = mean_of_layers(self.propagate, start, self.config.layers)
        kinds = []
        for projection, gate, similar, features in zip(
            self.projections, self.gates, self.similar, self.features, strict=True
        ):
            items = self.item_embeddings.value * gate(projection(features))
            for _ in range(self.config.item_layers):
                items = similar(items)
            kinds.append(tf.concat([self.to_users(items), items], axis=0))
        attention = tf.nn.softmax(tf.concat([self.query(self.attention(kind)) for kind in kinds], axis=1), axis=1)
        shared = tf.add_n([attention[:, number, None] * kind for number, kind in enumerate(kinds)])
        special = [
            preference(behaviour) * (kind - shared) for preference, kind in zip(self.preferences, kinds, strict=True)
        ]
        return behaviour, (tf.add_n(special) + shared) / (len(kinds) + 1)
