"""What is known of an item, as one vector: the same one for a candidate and for a step of a history."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from models.layers.id_embedding import IdEmbedding


@keras.saving.register_keras_serializable(package="courier")
class ItemEncoder(keras.layers.Layer):
    """The sum of embeddings of an item's ID and category and of its features, each projected.

    Training takes a share of the IDs for unknown, so that the other parts learn to stand for an item on their own: that
    is how items enter which training has not seen. Features of zeros, of an item without a picture, add nothing.

    Args:
        items: int. Number of IDs; 0 stands for unknown ones.
        categories: int. Number of categories.
        feature_dims: lengths of the features.
        dim: int. Length of the vector.
        id_dropout: float. Share of IDs that training takes for unknown.

    Call arguments:
        ids, categories: integers `(n,)`.
        features: `(n, feature_dim)` each.
        training: whether IDs are dropped.

    Output shape: `(n, dim)`.
    """

    def __init__(
        self, items: int, categories: int, feature_dims: Sequence[int], dim: int, id_dropout: float, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.items = items
        self.categories = categories
        self.feature_dims = tuple(feature_dims)
        self.dim = dim
        self.id_dropout = id_dropout
        self.id_embedding = IdEmbedding(items, dim, id_dropout, name="ids")
        self.category_embedding = IdEmbedding(categories - 1, dim, name="categories")
        self.projections = [
            keras.layers.Dense(dim, use_bias=False, name=f"features_{number}") for number in range(len(feature_dims))
        ]

    def build(self, *shapes: Any) -> None:
        """Makes the embeddings and projections."""
        self.id_embedding.build()
        self.category_embedding.build()
        for projection, length in zip(self.projections, self.feature_dims, strict=True):
            projection.build((None, length))
        self.built = True

    def call(
        self, ids: tf.Tensor, categories: tf.Tensor, features: Sequence[tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Encodes items; see the class."""
        parts = [self.id_embedding(ids, training=training), self.category_embedding(categories)]
        parts += [projection(each) for projection, each in zip(self.projections, features, strict=True)]
        return tf.add_n(parts)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "items": self.items,
            "categories": self.categories,
            "feature_dims": self.feature_dims,
            "dim": self.dim,
            "id_dropout": self.id_dropout,
        }
