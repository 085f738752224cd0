"""Feature values by row of a dataset's table, which lie in the model so that the row number is its only input."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from models.features.spec import TableFeature, features_from_json, features_to_json, is_plain


@keras.saving.register_keras_serializable(package="courier")
class FeatureTable(keras.layers.Layer):
    """Turns row numbers into feature values, which `FeatureEmbeddings` embeds.

    Every feature has a non-trainable table by row. The last row stands for one that nothing is known of.

    Args:
        features: the feature spec, by column.
        rows: int. Number of rows, the unknown one included.

    Attributes:
        tables: column to its values: int32 `(rows,)` for what is embedded, 0 = unknown; int32 `(rows, tokens)` from
            `hash_tokens` for texts; float32 `(rows,)` for plain numbers, transformed, 0 = missing.

    Call arguments:
        numbers: row numbers, integers, shape `(n,)`.
        new: values by column that rows beyond the tables refer to, see `look_up`.

    Output: column to its values, `(n,)` or `(n, tokens)`.
    """

    def __init__(self, features: Mapping[str, TableFeature], rows: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.features = dict(features)
        self.rows = rows
        self.tables: dict[str, keras.Variable] = {}
        for name, feature in features.items():
            self.tables[name] = self.add_weight(
                name=name,
                shape=(rows, feature.tokens) if feature.type == "text" else (rows,),
                dtype="float32" if is_plain(feature) else "int32",
                initializer="zeros",
                trainable=False,
                autocast=False,
            )
        self.built = True

    def call(self, numbers: tf.Tensor, new: Mapping[str, tf.Tensor] | None = None) -> dict[str, tf.Tensor]:
        """Looks up; see the class."""
        return {
            name: look_up(table.value, numbers, None if new is None else new[name])
            for name, table in self.tables.items()
        }

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "features": features_to_json(self.features), "rows": self.rows}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FeatureTable":
        """Makes the layer of a `get_config`."""
        return cls(**{**config, "features": features_from_json(config["features"])})


def look_up(table: tf.Tensor, rows: tf.Tensor, new: tf.Tensor | None = None) -> tf.Tensor:
    """The values of rows, of a table or of new items.

    Args:
        table: shape `(items + 1, ...)`; the last row is what holds where nothing is known.
        rows: integers from 0, any shape. Row `items + 1 + n` is entry `n` of `new`.
        new: values of new items, `(n, ...)`; `None`: nothing is known of rows beyond the table.

    Returns:
        The shape of `rows`, then that of a value.
    """
    last = tf.cast(tf.shape(table)[0] - 1, rows.dtype)
    values = tf.gather(table, tf.minimum(rows, last))
    if new is None:
        return values
    # Entry 0 is never chosen: a gather needs one where there are no new items.
    new_values = tf.gather(tf.concat([table[-1:], new], axis=0), tf.maximum(rows - last, 0))
    is_new = rows > last
    for _ in table.shape[1:]:
        is_new = is_new[..., None]
    return tf.where(is_new, new_values, values)
