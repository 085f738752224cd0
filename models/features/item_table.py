"""What is known of items: their features and their pictures."""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from models.features.new_items import NewItems, look_up
from models.features.spec import FeatureSizes
from models.features.table import FeatureTable
from models.ranker.config import ImageFeature, RankerConfig


class ItemValues(NamedTuple):
    """What is known of n items.

    Attributes:
        features: column to its values, see `FeatureTable`.
        image: float32 `(n, image_dim)`, of unit length, zeros without picture: the embedding; with `cluster_id`, the
            center of its cluster; `None` without pictures.
        cluster: int32 `(n,)`, 0 = unknown; `None` without `cluster_id`.
    """

    features: dict[str, tf.Tensor]
    image: tf.Tensor | None
    cluster: tf.Tensor | None


class ItemTable(keras.layers.Layer):
    """Turns item rows into what is known of the items.

    Row `items`, one beyond the dataset's table, is an item that nothing is known of.

    Args:
        config: the architecture, its features resolved.
        sizes: sizes of the tables.
        image_feature: how pictures enter.

    Attributes:
        features: of the item table.
        image: float32 `(items + 1, image_dim)`, unit length or zeros; only for `vector` and `simscore`.
        cluster: int32 `(items + 1,)`, 0 = unknown; only for `cluster_id`.
        center: float32 `(clusters + 1, image_dim)`, of each cluster, unit length or zeros; only for `cluster_id`.
        similarity: float32 `(2,)`, mean and standard deviation of the cosines of two items; only for `simscore` and
            `cluster_id`.

    Call arguments:
        rows: item rows, shape `(n,)`.
        new_items: what rows beyond the unknown one refer to. Pictures of new items are known by their cluster ID alone.

    Output: the `ItemValues`.
    """

    def __init__(self, config: RankerConfig, sizes: FeatureSizes, image_feature: ImageFeature, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        rows = sizes.items + 1
        self.features = FeatureTable(config.features.item, rows, name="features")
        self.image = self.cluster = self.center = self.similarity = None
        if image_feature in ("vector", "simscore"):
            self.image = self._table("image", (rows, sizes.image_dim), "float32")
        if image_feature == "cluster_id":
            self.cluster = self._table("cluster", (rows,), "int32")
            self.center = self._table("center", (sizes.clusters + 1, sizes.image_dim), "float32")
        if image_feature in ("simscore", "cluster_id"):
            self.similarity = self._table("similarity", (2,), "float32")
        self.built = True

    def _table(self, name: str, shape: tuple[int, ...], dtype: str) -> keras.Variable:
        return self.add_weight(name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False)

    def call(self, rows: tf.Tensor, new_items: NewItems | None = None) -> ItemValues:
        """Looks up; see the class."""
        of_new, cluster_of_new = (None, None) if new_items is None else new_items
        image = cluster = None
        if self.image is not None:
            image = look_up(self.image.value, rows)
        if self.cluster is not None:
            cluster = look_up(self.cluster.value, rows, cluster_of_new)
            image = tf.gather(self.center.value, cluster)
        return ItemValues(self.features(rows, new=of_new), image, cluster)
