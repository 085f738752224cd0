"""`vector`: the embedding of its picture is a part of an item."""

from typing import Any

import keras
import tensorflow as tf

from models.features.adapt import image_table
from models.features.tables import look_up
from models.ranker.pictures.picture_feature import PictureFeature, Table, Tables


class VectorFeature(PictureFeature):
    """The embedding, projected, in the item tower; see `PictureFeature`."""

    reads = "embeddings"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table, self._dim = image_table(self.embedding), self.sizes.image_dims[self.embedding]
        self.tables = {self._table: Table((self.sizes.items + 1, self._dim))}

    def item_encoder(self, dim: int, dtype: Any = None) -> keras.layers.Layer:
        """The projection."""
        projection = keras.layers.Dense(dim, name="image_projection", dtype=dtype)
        projection.build((None, self._dim))
        return projection

    def item(self, tables: Tables, rows: tf.Tensor, new_picture_ids: tf.Tensor | None) -> tf.Tensor:
        """The embeddings."""
        return look_up(tables[self._table], rows)
