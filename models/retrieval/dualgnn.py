"""DualGNN: a graph of users and items for each kind of features, and one of users who have the same items."""

from typing import Any, ClassVar

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from models.retrieval.interactions import Pairs
from models.retrieval.losses import bpr_loss, squared_penalty
from models.retrieval.propagation import Propagation
from models.retrieval.recommender import Reading, Recommender, RecommenderConfig

_USERS_TOGETHER = 1024


class DualGnnConfig(RecommenderConfig):
    """`RecommenderConfig` and what DualGNN adds.

    Attributes:
        layers: of propagation between users and items.
        user_neighbours: users with most items in common that a user looks at.
    """

    regularization: NonNegativeFloat = 1e-3
    layers: NonNegativeInt = 2
    user_neighbours: PositiveInt = 40


@keras.saving.register_keras_serializable(package="courier")
class DualGnn(Recommender):
    """Users have a preference for each kind of features and weigh the kinds; then they listen to users like them.

    For each kind, preferences and projected features pass through the graph of users and items, layers added up. A
    user's vector is the sum over the kinds by weights of their own, plus the mean of the nearest users' vectors,
    weighted by the softmax of the number of items in common. An item's is the sum over the kinds. The loss is BPR with
    a logarithm of base 2.

    Args:
        num_users, num_items, feature_dims, config: see `Recommender`.

    Reference: Wang et al., DualGNN: Dual Graph Neural Network for Multimedia Recommendation (IEEE Trans. Multimedia,
    2021).
    """

    Config: ClassVar[type[RecommenderConfig]] = DualGnnConfig
    config: DualGnnConfig
    reads_features: ClassVar[Reading] = "always"

    def __init__(self, num_users: int, num_items: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_users, num_items, *args, **kwargs)
        kinds = len(self.feature_dims)
        self.preferences = [self.add_table(f"preferences_{kind}", num_users) for kind in range(kinds)]
        self.projections = [
            self.add_dense(f"projection_{kind}", length, self.config.dim)
            for kind, length in enumerate(self.feature_dims)
        ]
        equal = keras.initializers.Constant(1 / kinds)
        self.kind_weights = self.add_weight((num_users, kinds), equal, name="kind_weights", autocast=False)

    def prepare(self) -> None:
        """Makes both graphs."""
        assert self.seen is not None
        self.propagate = self.interaction_graph()
        graph = co_interaction_graph(self.seen, self.num_users, self.num_items, self.config.user_neighbours)
        self.listen = Propagation(graph)

    def representations(self, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """The vectors; see the class."""
        kinds = [
            self.split(self._propagated(tf.concat([preference.value, projection(features)], axis=0)))
            for preference, projection, features in zip(self.preferences, self.projections, self.features, strict=True)
        ]
        weights = self.kind_weights.value
        users = tf.add_n([weights[:, kind, None] * of_users for kind, (of_users, _) in enumerate(kinds)])
        return users + self.listen(users), tf.add_n([of_items for _, of_items in kinds])

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """BPR in bits, and the penalty on the batch's preferences and on all weights of kinds."""
        loss = bpr_loss(*self.scores_of(x, *self.representations(training=training))) / np.log(2)
        penalty = squared_penalty(*(tf.gather(preference.value, x["user"]) for preference in self.preferences))
        return loss + self.config.regularization * (penalty + tf.reduce_mean(tf.square(self.kind_weights.value)))

    def _propagated(self, nodes: tf.Tensor) -> tf.Tensor:
        total = passed = tf.math.l2_normalize(nodes, axis=1)
        for _ in range(self.config.layers):
            passed = self.propagate(passed)
            total += passed
        return total


def co_interaction_graph(seen: Pairs, num_users: int, num_items: int, neighbours: int) -> scipy.sparse.csr_array:
    """For each user, the others with most items in common: `(users, users)`, the softmax of the numbers as weights.

    Users with nobody in common have no neighbours. Among equal numbers at the end of the list, lower rows come first.

    Args:
        seen: interactions, each once.
        num_users, num_items: how many there are.
        neighbours: how many others at most.
    """
    has = scipy.sparse.csr_array(
        (np.ones(len(seen), np.float32), (seen.users, seen.items)), shape=(num_users, num_items)
    )
    parts = []
    for first in range(0, num_users, _USERS_TOGETHER):
        common = (has[first : first + _USERS_TOGETHER] @ has.T).tocoo()
        others = common.row + first != common.col
        rows, columns, counts = (values[others] for values in (common.row, common.col, common.data))
        order = np.lexsort((columns, -counts, rows))
        rows, columns, counts = rows[order], columns[order], counts[order]
        place = np.arange(len(rows)) - np.searchsorted(rows, rows)
        kept = place < neighbours
        parts.append((rows[kept] + first, columns[kept], counts[kept]))
    rows, columns, counts = (np.concatenate(values) for values in zip(*parts, strict=True))
    highest = np.zeros(num_users, np.float32)
    np.maximum.at(highest, rows, counts)
    weights = np.exp(counts - highest[rows])
    weights /= np.bincount(rows, weights, num_users)[rows]
    return scipy.sparse.csr_array((weights, (rows, columns)), shape=(num_users, num_users))
