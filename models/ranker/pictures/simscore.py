"""`simscore`: how much a candidate's picture looks like those of each history."""

from typing import Any

import keras
import tensorflow as tf

from models.features.spec import FeatureSizes
from models.features.tables import look_up
from models.ranker.pictures.picture_feature import PictureFeature, PictureValues


@keras.saving.register_keras_serializable(package="courier")
class SimScoreFeature(PictureFeature):
    """The cosine of the candidate's embedding with that of every history step; see `PictureFeature`.

    Reference: the paper's equation 8.
    """

    compares_vectors = True

    def __init__(self, sizes: FeatureSizes, **kwargs: Any) -> None:
        super().__init__(sizes, **kwargs)
        self.add_table("image", (sizes.items + 1, sizes.image_dim))
        self.add_table("similarity", (2,))

    def call(self, rows: tf.Tensor, new_clusters: tf.Tensor | None = None) -> PictureValues:
        """Looks up; see the class."""
        return PictureValues(vectors=look_up(self.tables["image"].value, rows))
