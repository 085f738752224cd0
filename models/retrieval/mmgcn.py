"""MMGCN: a graph network of users and items for each kind of features."""

from typing import Any, ClassVar

import keras
import tensorflow as tf
from pydantic import NonNegativeFloat, PositiveInt

from models.retrieval.losses import bpr_loss, squared_penalty
from models.retrieval.propagation import Propagation, bipartite, mean_weighted
from models.retrieval.recommender import Reading, Recommender, RecommenderConfig


class MmgcnConfig(RecommenderConfig):
    """`RecommenderConfig` and what MMGCN adds.

    Attributes:
        layers: of each graph network.
    """

    regularization: NonNegativeFloat = 1e-4
    layers: PositiveInt = 3


@keras.saving.register_keras_serializable(package="courier")
class Mmgcn(Recommender):
    """Users have a preference for each kind of features; messages between users and items stay within the kind.

    A layer takes the mean of the neighbours, `h = leaky(W1 mean)`, keeps what a node is itself, with its ID embedding,
    `s = leaky(W2 z) + id`, and puts both together, `z' = leaky(W3 [h, s])`. Vectors are the means over the kinds.
    Preferences and ID embeddings are trained.

    Args:
        num_users, num_items, feature_dims, config: see `Recommender`.

    Reference: Wei et al., MMGCN: Multi-modal Graph Convolution Network for Personalized Recommendation of Micro-video
    (MM 2019), with the concatenating combination.
    """

    Config: ClassVar[type[RecommenderConfig]] = MmgcnConfig
    config: MmgcnConfig
    reads_features: ClassVar[Reading] = "always"

    def __init__(self, num_users: int, num_items: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_users, num_items, *args, **kwargs)
        dim = self.config.dim
        self.id_embeddings = self.add_table("id_embeddings", num_users + num_items)
        self.preferences = []
        self.projections = []
        self.networks = []
        for kind, length in enumerate(self.feature_dims):
            self.preferences.append(self.add_table(f"preferences_{kind}", num_users))
            self.projections.append(self.add_dense(f"projection_{kind}", length, dim))
            self.networks.append(
                [
                    [
                        self.add_dense(f"{name}_{kind}_{layer}", inputs, dim)
                        for name, inputs in (("neighbours", dim), ("self", dim), ("both", 2 * dim))
                    ]
                    for layer in range(self.config.layers)
                ]
            )

    def prepare(self) -> None:
        """Makes the graph of users and items, in which a node gets the mean of its neighbours."""
        assert self.seen is not None
        graph = bipartite(self.seen.users, self.seen.items, self.num_users, self.num_items)
        self.propagate = Propagation(mean_weighted(graph))

    def representations(self, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """The means of what the networks make of the kinds of features."""
        kinds = zip(self.preferences, self.projections, self.networks, self.features, strict=True)
        nodes = [
            self._network(network, tf.concat([preference.value, projection(features)], axis=0))
            for preference, projection, network, features in kinds
        ]
        return self.split(tf.add_n(nodes) / len(nodes))

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """BPR, and the penalty on the batch's ID embeddings and preferences."""
        loss = bpr_loss(*self.scores_of(x, *self.representations(training=training)))
        penalised = [*self.rows_of(x, *self.split(self.id_embeddings.value))]
        penalised += [tf.gather(preference.value, x["user"]) for preference in self.preferences]
        return loss + self.config.regularization * squared_penalty(*penalised)

    def _network(self, network: list[list[keras.layers.Dense]], nodes: tf.Tensor) -> tf.Tensor:
        nodes = tf.math.l2_normalize(nodes, axis=1)
        for of_neighbours, of_itself, of_both in network:
            passed = tf.nn.leaky_relu(of_neighbours(self.propagate(nodes)), 0.01)
            own = tf.nn.leaky_relu(of_itself(nodes), 0.01) + self.id_embeddings.value
            nodes = tf.nn.leaky_relu(of_both(tf.concat([passed, own], axis=1)), 0.01)
        return nodes
