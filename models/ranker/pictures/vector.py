"""`vector`: the embedding of its picture is a part of an item."""

from typing import Any

import keras
import tensorflow as tf

from models.features.spec import FeatureSizes
from models.features.tables import look_up
from models.ranker.pictures.picture_feature import PictureFeature, PictureValues


@keras.saving.register_keras_serializable(package="courier")
class VectorFeature(PictureFeature):
    """The embedding, projected, in the item tower; see `PictureFeature`."""

    def __init__(self, sizes: FeatureSizes, **kwargs: Any) -> None:
        super().__init__(sizes, **kwargs)
        self.add_table("image", (sizes.items + 1, sizes.image_dim))

    def item_encoder(self, dim: int, dtype: Any = None) -> keras.layers.Layer:
        """The projection."""
        projection = keras.layers.Dense(dim, name="image_projection", dtype=dtype)
        projection.build((None, self.sizes.image_dim))
        return projection

    def call(self, rows: tf.Tensor, new_clusters: tf.Tensor | None = None) -> PictureValues:
        """Looks up; see the class."""
        return PictureValues(item=look_up(self.tables["image"].value, rows))
