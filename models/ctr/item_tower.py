"""The item embedding network: one vector per item, for candidates and histories alike."""

from typing import Any

import keras
import tensorflow as tf

from models.ctr.config import FeatureSizes, RankerConfig
from models.ctr.text_embedding import TextEmbedding


class ItemTower(keras.layers.Layer):
    """Turns item rows into item vectors.

    It holds every item's features in non-trainable tables by item row, so that its only input is the row. Row `items`,
    one beyond the dataset's table, is an item that nothing is known of.

    Args:
        config: the architecture.
        sizes: sizes of the tables.
        text: the token embedding, shared with queries.

    Attributes:
        item_id, category: int32 `(items + 1,)`, 0 = unknown.
        title: int32 `(items + 1, title_tokens)` from `hash_tokens`.
        stats: float32 `(items + 1, item_stats)`, normalised, 0 = missing.
        image: float32 `(items + 1, image_dim)`, unit length or zeros; only with `sizes.image_dim`.
        cluster: int32 `(items + 1,)`, 0 = unknown; only with `sizes.clusters`.

    Call arguments:
        rows: item rows in `[0, items]`, shape `(n,)`.
        training: whether IDs are dropped.

    Output: the title embeddings `(n, embedding_dim)` and the item vectors `(n, item_dim)`.

    Reference: the paper's appendix A, item embedding network.
    """

    def __init__(
        self, config: RankerConfig, sizes: FeatureSizes, text: TextEmbedding, *, use_vector: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.id_dropout = config.id_dropout
        self.text = text
        rows = sizes.items + 1
        self.item_id = self._table("item_id", (rows,), "int32")
        self.category = self._table("category", (rows,), "int32")
        self.title = self._table("title", (rows, config.title_tokens), "int32")
        self.stats = self._table("stats", (rows, sizes.item_stats), "float32")
        self.image = self._table("image", (rows, sizes.image_dim), "float32") if sizes.image_dim else None
        self.cluster = self._table("cluster", (rows,), "int32") if sizes.clusters else None
        dim = config.embedding_dim
        self.item_id_embedding = _id_embedding(sizes.item_ids, dim)
        self.category_embedding = _id_embedding(sizes.categories, dim)
        self.cluster_embedding = _id_embedding(sizes.clusters, dim) if sizes.clusters else None
        self.image_projection = keras.layers.Dense(dim) if use_vector else None
        self.projection = keras.layers.Dense(config.item_dim)

        self.item_id_embedding.build(None)
        self.category_embedding.build(None)
        if self.cluster_embedding is not None:
            self.cluster_embedding.build(None)
        if self.image_projection is not None:
            self.image_projection.build((None, sizes.image_dim))
        embedded = 3 + (self.cluster_embedding is not None) + (self.image_projection is not None)
        self.projection.build((None, embedded * dim + sizes.item_stats))
        self.built = True

    def _table(self, name: str, shape: tuple[int, ...], dtype: str) -> keras.Variable:
        return self.add_weight(name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False)

    def call(self, rows: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Embeds items; see the class."""
        item_id = drop_ids(tf.gather(self.item_id.value, rows), self.id_dropout if training else 0.0)
        title = self.text(tf.gather(self.title.value, rows))
        features = [
            self.item_id_embedding(item_id),
            self.category_embedding(tf.gather(self.category.value, rows)),
            title,
            tf.gather(self.stats.value, rows),
        ]
        if self.image_projection is not None:
            features.append(self.image_projection(tf.gather(self.image.value, rows)))
        if self.cluster_embedding is not None:
            features.append(self.cluster_embedding(tf.gather(self.cluster.value, rows)))
        return title, self.projection(tf.concat(features, axis=-1))


def _id_embedding(ids: int, dim: int) -> keras.layers.Embedding:
    # Keras starts at +-0.05, where the product of two embeddings, by which attention finds equal IDs, is too small to
    # learn from: with +-0.25 the ranker with cluster IDs needs 3 epochs of the sample instead of 6.
    return keras.layers.Embedding(ids + 1, dim, embeddings_initializer=keras.initializers.RandomUniform(-0.25, 0.25))


def drop_ids(ids: tf.Tensor, share: float) -> tf.Tensor:
    """Replaces a random `share` of the IDs by 0, the unknown ID."""
    if not share:
        return ids
    return tf.where(tf.random.uniform(tf.shape(ids)) < share, tf.zeros_like(ids), ids)
