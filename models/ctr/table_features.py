"""The features of a table's rows, items or users: what the row number stands for, embedded."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from models.ctr.feature_config import TableFeature
from models.ctr.id_embedding import IdEmbedding
from models.ctr.new_items import look_up
from models.ctr.text_embedding import TextEmbedding


class TableFeatures(keras.layers.Layer):
    """Turns row numbers into features.

    Every feature's values lie in a non-trainable table by row, so that the row is the only input. The last row stands
    for one that nothing is known of.

    Args:
        features: what the table has, by column.
        sizes: of their embeddings, see `FeatureSizes`.
        rows: number of rows, the unknown one included.
        dim: int. Length of an embedding.
        text: the token embedding of text features; `None` if there are none.

    Attributes:
        tables: column to its values: int32 `(rows,)` for what is embedded, 0 = unknown; int32 `(rows, tokens)` from
            `hash_tokens` for texts; float32 `(rows,)` for plain numbers, transformed, 0 = missing.
        output_dim: sum of the features' lengths.

    Call arguments:
        numbers: of rows, integers, shape `(n,)`.
        training: whether IDs are dropped.
        new: values by column that rows beyond the tables refer to, see `look_up`.

    Output: column to its feature, shape `(n, dim)`, or `(n, 1)` for plain numbers.
    """

    def __init__(
        self,
        features: Mapping[str, TableFeature],
        sizes: Mapping[str, int],
        rows: int,
        dim: int,
        text: TextEmbedding | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.features = dict(features)
        self.text = text
        self.tables: dict[str, keras.Variable] = {}
        self.embeddings: dict[str, IdEmbedding] = {}
        self.output_dim = 0
        for name, feature in features.items():
            plain = feature.type == "number" and feature.transform != "buckets"
            self.tables[name] = self.add_weight(
                name=name,
                shape=(rows, feature.tokens) if feature.type == "text" else (rows,),
                dtype="float32" if plain else "int32",
                initializer="zeros",
                trainable=False,
            )
            if feature.type != "text" and not plain:
                dropout = feature.dropout if feature.type == "id" else 0.0
                self.embeddings[name] = IdEmbedding(sizes[name], dim, dropout, name=f"{name}_embedding")
                self.embeddings[name].build()
            self.output_dim += 1 if plain else dim
        self.built = True

    def call(
        self, numbers: tf.Tensor, training: bool = False, new: Mapping[str, tf.Tensor] | None = None
    ) -> dict[str, tf.Tensor]:
        """Looks up; see the class."""
        found = {}
        for name, feature in self.features.items():
            values = look_up(self.tables[name].value, numbers, None if new is None else new[name])
            if name in self.embeddings:
                found[name] = self.embeddings[name](values, training=training)
            else:
                found[name] = self.text(values) if feature.type == "text" else values[:, None]
        return found
