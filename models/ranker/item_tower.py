"""The item embedding network: one vector per item, for candidates and histories alike."""

from typing import Any

import keras
import tensorflow as tf

from models.features.embeddings import FeatureEmbeddings
from models.features.item_table import ItemValues
from models.features.spec import FeatureSizes
from models.layers.id_embedding import IdEmbedding
from models.layers.text_embedding import TextEmbedding
from models.ranker.config import ImageFeature, RankerConfig


class ItemTower(keras.layers.Layer):
    """Turns what is known of items into item vectors: their features and pictures through one dense layer.

    Args:
        config: the architecture, its features resolved.
        sizes: sizes of the tables.
        image_feature: how pictures enter.
        text: the token embedding, shared with queries; `None` if there are no texts.

    Call arguments:
        values: what an `ItemTable` says of n items.
        training: whether IDs are dropped.

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
        dim = config.embedding_dim
        self.features = FeatureEmbeddings(config.features.item, sizes.item, dim, text, name="features")
        width = self.features.output_dim
        self.image_projection = self.cluster_embedding = None
        if image_feature == "vector":
            self.image_projection = keras.layers.Dense(dim, name="image_projection")
            self.image_projection.build((None, sizes.image_dim))
            width += dim
        if image_feature == "cluster_id" and config.embed_clusters:
            self.cluster_embedding = IdEmbedding(sizes.clusters, dim, name="cluster_embedding")
            self.cluster_embedding.build()
            width += dim
        self.projection = keras.layers.Dense(config.item_dim, name="projection")
        self.projection.build((None, width))
        self.built = True

    def call(self, values: ItemValues, training: bool = False) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Embeds items; see the class."""
        features = self.features(values.features, training=training)
        together = [*features.values()]
        if self.image_projection is not None:
            together.append(self.image_projection(values.image))
        if self.cluster_embedding is not None:
            together.append(self.cluster_embedding(values.cluster))
        return features, self.projection(tf.concat(together, axis=-1))
