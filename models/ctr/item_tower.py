"""The item embedding network: one vector per item, for candidates and histories alike."""

from typing import Any

import keras
import tensorflow as tf

from models.ctr.config import ImageFeature, RankerConfig
from models.ctr.feature_config import FeatureSizes
from models.ctr.id_embedding import IdEmbedding
from models.ctr.new_items import NewItems, look_up
from models.ctr.table_features import TableFeatures
from models.ctr.text_embedding import TextEmbedding


class ItemTower(keras.layers.Layer):
    """Turns item rows into item vectors: the features of the row, and of its picture, through one dense layer.

    Row `items`, one beyond the dataset's table, is an item that nothing is known of.

    Args:
        config: the architecture, its features resolved.
        sizes: sizes of the tables.
        image_feature: how pictures enter.
        text: the token embedding, shared with queries; `None` if there are no texts.

    Attributes:
        features: of the item table.
        image: float32 `(items + 1, image_dim)`, unit length or zeros; only for `vector` and `simscore`.
        cluster: int32 `(items + 1,)`, 0 = unknown; only for `cluster_id`.

    Call arguments:
        rows: item rows, shape `(n,)`.
        training: whether IDs are dropped.
        new_items: what rows beyond the unknown one refer to. Pictures of new items are known by their cluster ID alone.

    Output: the features by column, each `(n, length)`, and the item vectors `(n, item_dim)`.

    Reference: the paper's appendix A, item embedding network.
    """

    def __init__(
        self,
        config: RankerConfig,
        sizes: FeatureSizes,
        image_feature: ImageFeature,
        text: TextEmbedding | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        rows, dim = sizes.items + 1, config.embedding_dim
        self.features = TableFeatures(config.features.item, sizes.item, rows, dim, text, name="features")
        width = self.features.output_dim
        self.image = self.cluster = self.image_projection = self.cluster_embedding = None
        if image_feature in ("vector", "simscore"):
            self.image = self._table("image", (rows, sizes.image_dim), "float32")
        if image_feature == "vector":
            self.image_projection = keras.layers.Dense(dim, name="image_projection")
            self.image_projection.build((None, sizes.image_dim))
            width += dim
        if image_feature == "cluster_id":
            self.cluster = self._table("cluster", (rows,), "int32")
            self.cluster_embedding = IdEmbedding(sizes.clusters, dim, name="cluster_embedding")
            self.cluster_embedding.build()
            width += dim
        self.projection = keras.layers.Dense(config.item_dim, name="projection")
        self.projection.build((None, width))
        self.built = True

    def _table(self, name: str, shape: tuple[int, ...], dtype: str) -> keras.Variable:
        return self.add_weight(name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False)

    def call(
        self, rows: tf.Tensor, training: bool = False, new_items: NewItems | None = None
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Embeds items; see the class."""
        of_new, cluster_of_new = (None, None) if new_items is None else new_items
        features = self.features(rows, training=training, new=of_new)
        together = [*features.values()]
        if self.image_projection is not None:
            together.append(self.image_projection(look_up(self.image.value, rows)))
        if self.cluster_embedding is not None:
            together.append(self.cluster_embedding(look_up(self.cluster.value, rows, cluster_of_new)))
        return features, self.projection(tf.concat(together, axis=-1))
