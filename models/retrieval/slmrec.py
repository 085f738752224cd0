"""SLMRec: contrasts users with their items, and each view of an item with its other views."""

import itertools
from typing import Any, ClassVar

import keras
import tensorflow as tf
from pydantic import Field, NonNegativeFloat, NonNegativeInt

from models.retrieval.losses import info_nce, squared_penalty
from models.retrieval.propagation import mean_of_layers
from models.retrieval.recommender import Reading, Recommender, RecommenderConfig


class SlmRecConfig(RecommenderConfig):
    """`RecommenderConfig` and what SLMRec adds.

    Attributes:
        layers: of propagation between users and items, in each view.
        temperature: of the contrast of users and items.
        view_temperature: of the contrast of views.
        view_weight: of the contrast of views.
    """

    regularization: NonNegativeFloat = 1e-4
    layers: NonNegativeInt = 3
    temperature: float = Field(0.2, gt=0)
    view_temperature: float = Field(0.5, gt=0)
    view_weight: NonNegativeFloat = 0.01


@keras.saving.register_keras_serializable(package="courier")
class SlmRec(Recommender):
    """LightGCN in several views of the items: their ID embeddings, and each kind of features, projected.

    The views' vectors, one behind the other, are projected to the vectors of users and items. These learn to find a
    user's item among the items of the batch, by cosine; products rank, in which lengths count, which tell how popular
    an item is. Self-supervision holds the views of an item together: for each pair of views there is a space of its
    own, in which an item's two are to be found among those of the batch.

    Without features there is one view, and LightGCN with in-batch contrast remains.

    Args:
        num_users, num_items, feature_dims, config: see `Recommender`.

    Reference: Tao et al., Self-supervised Learning for Multimedia Recommendation (IEEE Trans. Multimedia, 2022); of its
    tasks, the one of fine and coarse spaces.
    """

    Config: ClassVar[type[RecommenderConfig]] = SlmRecConfig
    config: SlmRecConfig
    reads_features: ClassVar[Reading] = "optional"

    def __init__(self, num_users: int, num_items: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_users, num_items, *args, **kwargs)
        dim = self.config.dim
        views = 1 + len(self.feature_dims)
        self.user_embeddings = self.add_table("user_embeddings", num_users)
        self.item_embeddings = self.add_table("item_embeddings", num_items)
        self.projections = [
            self.add_dense(f"projection_{kind}", length, dim) for kind, length in enumerate(self.feature_dims)
        ]
        self.of_users = self.add_dense("of_users", views * dim, dim)
        self.of_items = self.add_dense("of_items", views * dim, dim)
        self.pairs = [*itertools.combinations(range(views), 2)]
        self.spaces = [
            [self.add_dense(f"space_{one}_{other}_{side}", dim, dim) for side in ("one", "other")]
            for one, other in self.pairs
        ]

    def prepare(self) -> None:
        """Makes the graph of users and items."""
        self.propagate = self.interaction_graph()

    def representations(self, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """The vectors projected from all views."""
        return self._vectors_of(self._views())

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """The contrast of users and items, that of views, and the penalty on the batch's embeddings."""
        views = self._views()
        users, items = self._vectors_of(views)
        loss = info_nce(tf.gather(users, x["user"]), tf.gather(items, x["item"]), self.config.temperature)
        for (one, other), (first, second) in zip(self.pairs, self.spaces, strict=True):
            queries, keys = (
                space(tf.gather(views[view][1], x["item"])) for view, space in ((one, first), (other, second))
            )
            loss += self.config.view_weight * info_nce(queries, keys, self.config.view_temperature)
        user, item, _ = self.rows_of(x, self.user_embeddings.value, self.item_embeddings.value)
        return loss + self.config.regularization * squared_penalty(user, item)

    def _views(self) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """Users and items of each view after propagation."""
        items = [self.item_embeddings.value]
        items += [projection(each) for projection, each in zip(self.projections, self.features, strict=True)]
        # Side by side through one propagation: the graph is read once for all views.
        users = tf.tile(self.user_embeddings.value, [1, len(items)])
        passed = mean_of_layers(self.propagate, tf.concat([users, tf.concat(items, 1)], 0), self.config.layers)
        return [self.split(each) for each in tf.split(passed, len(items), axis=1)]

    def _vectors_of(self, views: list[tuple[tf.Tensor, tf.Tensor]]) -> tuple[tf.Tensor, tf.Tensor]:
        users, items = (tf.concat([view[side] for view in views], axis=1) for side in range(2))
        return self.of_users(users), self.of_items(items)
