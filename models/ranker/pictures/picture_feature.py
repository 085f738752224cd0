"""The base of all picture features: the three places where pictures enter a ranker."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from models.features.spec import FeatureSizes


class PictureValues(NamedTuple):
    """What the pictures of n items say, for each place where it enters the ranker; `None` where it does not.

    Attributes:
        item: input of the `item_encoder`, whose output becomes a part of item vectors: `(n,)` or `(n, dim)`.
        ids: int32 `(n,)`, 0 = none. A candidate and a history step match if theirs are equal: one more number for the
            attention of each pair, and for each history the share and the number of its steps that match.
        vectors: `(n, dim)`, of unit length, zeros without picture. Their cosine is one more number for the attention of
            each pair, and for each history the largest, the mean of the five largest and the mean of all.
    """

    item: tf.Tensor | None = None
    ids: tf.Tensor | None = None
    vectors: tf.Tensor | None = None


@keras.saving.register_keras_serializable(package="courier")
class PictureFeature(keras.layers.Layer):
    """How pictures enter a ranker; this one does nothing: `none`.

    A subclass says which tables it reads, of those that `models.features.adapt.AdaptedFeatures.pictures` names, by
    `add_table` in its constructor; which of `ids` and `vectors` it compares; and what of its tables each place sees, in
    `call`. A new one is a file in this folder, a line in `PICTURE_FEATURES` and a name in `ImageFeature`.

    Args:
        sizes: sizes of the tables.

    Attributes:
        compares_ids, compares_vectors: which of `PictureValues` it gives.
        tables: name to its non-trainable values.

    Call arguments:
        rows: item rows, shape `(n,)`; row `items` has no picture.
        new_clusters: int32, cluster IDs of new items, that rows beyond refer to; see `look_up`.

    Output: the `PictureValues`.
    """

    compares_ids = False
    compares_vectors = False

    def __init__(self, sizes: FeatureSizes, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.sizes = sizes
        self.tables: dict[str, keras.Variable] = {}
        self.built = True

    def add_table(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> None:
        """Adds a table, which `fill` fills."""
        self.tables[name] = self.add_weight(
            name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False, autocast=False
        )

    def fill(self, pictures: Mapping[str, np.ndarray]) -> None:
        """Writes the tables of `AdaptedFeatures.pictures`."""
        for name, table in self.tables.items():
            table.assign(pictures[name])

    def item_encoder(self, dim: int, dtype: Any = None) -> keras.layers.Layer | None:
        """A new layer, built, from `PictureValues.item` to `(n, dim)`; each member of a ranker has one of its own.

        Args:
            dim: length of its output.
            dtype: its policy. The tables, and what is compared, are float32 whatever it is.
        """
        return None

    def call(self, rows: tf.Tensor, new_clusters: tf.Tensor | None = None) -> PictureValues:
        """Looks up; see the class."""
        return PictureValues()

    def standardize(self, cosines: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Cosines in standard deviations from the mean of two items', 0 where there is none.

        As they are, cosines of clothes lie close together, all far from 0, and are learned from slowly.

        Args:
            cosines: any shape.
            present: bool, broadcastable to it.
        """
        mean, deviation = tf.unstack(self.tables["similarity"].value)
        return tf.where(present, (cosines - mean) / deviation, 0.0)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "sizes": self.sizes.model_dump(mode="json")}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PictureFeature":
        """Makes the layer of a `get_config`."""
        return cls(**{**config, "sizes": FeatureSizes(**config["sizes"])})
