"""The features of a table's rows, items or users, embedded."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from models.features.spec import TableFeature, is_plain
from models.layers.id_embedding import IdEmbedding
from models.layers.text_embedding import TextEmbedding


class FeatureEmbeddings(keras.layers.Layer):
    """Turns the values of a `FeatureTable` into features.

    Args:
        features: what the table has, by column.
        sizes: of their embeddings, see `FeatureSizes`.
        dim: int. Length of an embedding.
        text: the token embedding of text features; `None` if there are none.

    Attributes:
        embeddings: column to its `IdEmbedding`, for what is embedded besides texts.
        output_dim: sum of the features' lengths.

    Call arguments:
        values: by column, of n rows.
        training: whether IDs are dropped.

    Output: column to its feature, shape `(n, dim)`, or `(n, 1)` for plain numbers.
    """

    def __init__(
        self,
        features: Mapping[str, TableFeature],
        sizes: Mapping[str, int],
        dim: int,
        text: TextEmbedding | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.features = dict(features)
        self.text = text
        self.embeddings: dict[str, IdEmbedding] = {}
        self.output_dim = 0
        for name, feature in features.items():
            if feature.type != "text" and not is_plain(feature):
                dropout = feature.dropout if feature.type == "id" else 0.0
                self.embeddings[name] = IdEmbedding(sizes[name], dim, dropout, name=f"{name}_embedding")
                self.embeddings[name].build()
            self.output_dim += 1 if is_plain(feature) else dim
        self.built = True

    def call(self, values: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Embeds; see the class."""
        found = {}
        for name, feature in self.features.items():
            if name in self.embeddings:
                found[name] = self.embeddings[name](values[name], training=training)
            else:
                found[name] = self.text(values[name]) if feature.type == "text" else values[name][:, None]
        return found
