"""What is known of a table's rows, items or users: what the row number stands for."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from models.features.new_items import look_up
from models.features.spec import TableFeature, is_plain


class FeatureTable(keras.layers.Layer):
    """Turns row numbers into the values of features, which `FeatureEmbeddings` embed.

    Every feature's values lie in a non-trainable table by row, so that the row is the only input. The last row stands
    for one that nothing is known of.

    Args:
        features: what the table has, by column.
        rows: number of rows, the unknown one included.

    Attributes:
        tables: column to its values: int32 `(rows,)` for what is embedded, 0 = unknown; int32 `(rows, tokens)` from
            `hash_tokens` for texts; float32 `(rows,)` for plain numbers, transformed, 0 = missing.

    Call arguments:
        numbers: of rows, integers, shape `(n,)`.
        new: values by column that rows beyond the tables refer to, see `look_up`.

    Output: column to its values, `(n,)` or `(n, tokens)`.
    """

    def __init__(self, features: Mapping[str, TableFeature], rows: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.features = dict(features)
        self.tables: dict[str, keras.Variable] = {}
        for name, feature in features.items():
            self.tables[name] = self.add_weight(
                name=name,
                shape=(rows, feature.tokens) if feature.type == "text" else (rows,),
                dtype="float32" if is_plain(feature) else "int32",
                initializer="zeros",
                trainable=False,
            )
        self.built = True

    def call(self, numbers: tf.Tensor, new: Mapping[str, tf.Tensor] | None = None) -> dict[str, tf.Tensor]:
        """Looks up; see the class."""
        return {
            name: look_up(table.value, numbers, None if new is None else new[name])
            for name, table in self.tables.items()
        }
