"""`semantic_id`: the clusters of a picture at several levels are one ID, whose prefixes are ever finer clusters."""

from typing import Any

import keras
import tensorflow as tf

from beam_pipelines.format.errors import ConfigurationError
from models.features.tables import look_up
from models.layers.id_embedding import IdEmbedding
from models.ranker.pictures.picture_feature import PictureFeature, Table, Tables

_MIX = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of splitmix64


class SemanticIdFeature(PictureFeature):
    """The prefixes of a semantic ID: embedded, all lengths added up, in the item tower, and each length compared with
    that of every history step, so that two pictures are the more alike the longer their common prefix is; see
    `PictureFeature`.

    Raises:
        ConfigurationError: they are neither embedded nor compared, so that pictures would not enter at all.

    Reference: Singh et al., Better Generalization with Semantic IDs (RecSys 2024); Zheng et al., Enhancing Embedding
    Representation Stability in Recommendation Systems with Semantic ID (RecSys 2025), prefix n-grams.
    """

    reads = "clusters"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.embed_clusters and not self.compare_clusters:
            raise ConfigurationError(
                "ranker.embed_clusters, ranker.compare_clusters: one must be true for the image feature semantic_id"
            )
        self.tables = {"semantic": Table((self.sizes.items + 1,), "int64")}
        if self.compare_clusters:
            self.id_count = self.sizes.levels

    def item_encoder(self, dim: int, dtype: Any = None) -> keras.layers.Layer | None:
        """The embedding of prefixes."""
        if not self.embed_clusters:
            return None
        return PrefixEmbedding(
            self.sizes.clusters, self.sizes.levels, self.prefix_buckets, dim, name="prefix_embedding", dtype=dtype
        )

    def item(self, tables: Tables, rows: tf.Tensor, new_picture_ids: tf.Tensor | None) -> tf.Tensor | None:
        """The semantic IDs, from 1."""
        return look_up(tables["semantic"], rows, new_picture_ids) if self.embed_clusters else None

    def ids(self, tables: Tables, rows: tf.Tensor, new_picture_ids: tf.Tensor | None) -> list[tf.Tensor]:
        """The prefixes of each length, from 1."""
        if not self.compare_clusters:
            return []
        numbers = look_up(tables["semantic"], rows, new_picture_ids)
        clusters, levels = self.sizes.clusters, self.sizes.levels
        return [prefix(numbers, clusters, levels, length) for length in range(1, levels + 1)]


def prefix(numbers: tf.Tensor, clusters: int, levels: int, length: int) -> tf.Tensor:
    """The first levels of semantic IDs.

    Args:
        numbers: `Clusters.semantic_ids` + 1, 0 = none, int64, any shape.
        clusters: of each level.
        levels: of the semantic IDs.
        length: number of levels to keep.

    Returns:
        Of that shape, the number that they make + 1, 0 = none; int32 if it holds all.
    """
    # Rounded down, -1 stays -1.
    found = (numbers - 1) // clusters ** (levels - length) + 1
    return tf.cast(found, tf.int32) if clusters**length < 2**31 else found


@keras.saving.register_keras_serializable(package="courier")
class PrefixEmbedding(keras.layers.Layer):
    """Embeds semantic IDs: the sum over all lengths of the embedding of their prefix.

    All prefixes share the rows of one table by hash, so that its size is independent of how many there are: clusters of
    the first level, which are few, are learned from many clicks, and longer prefixes add what they know of their own.

    Args:
        clusters: int. Number of clusters of each level.
        levels: int. Number of levels.
        buckets: int. Rows of the table; one more stands for no picture.
        dim: int. Length of an embedding.

    Call arguments:
        numbers: `Clusters.semantic_ids` + 1, 0 = none, int64, shape `(n,)`.

    Output shape: `(n, dim)`.
    """

    def __init__(self, clusters: int, levels: int, buckets: int, dim: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # IDs
        self.clusters = clusters
        self.levels = levels
        self.buckets = buckets
        self.dim = dim
        self.embedding = IdEmbedding(buckets, dim, name="prefixes", dtype=self.dtype_policy)
        self.embedding.build()
        self.built = True

    def call(self, numbers: tf.Tensor) -> tf.Tensor:
        """Embeds; see the class."""
        return tf.reduce_sum(self.embedding(self.rows(numbers)), axis=-2)

    def rows(self, numbers: tf.Tensor) -> tf.Tensor:
        """The row of the prefix of each length: int64 `(n, levels)`, 0 = none."""
        rows, before = [], 0
        for length in range(1, self.levels + 1):
            found = tf.cast(prefix(numbers, self.clusters, self.levels, length), tf.int64)
            # Mixed: multiples of a power of `clusters` modulo the number of buckets may be few.
            bucket = _mixed(found + before) % self.buckets
            rows.append(tf.where(found > 0, bucket + 1, 0))
            before += self.clusters**length
        return tf.stack(rows, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {"clusters": self.clusters, "levels": self.levels, "buckets": self.buckets, "dim": self.dim}
        return {**super().get_config(), **own}


def _mixed(numbers: tf.Tensor) -> tf.Tensor:
    """splitmix64 of integers, its upper 31 bits: int64."""
    x = tf.cast(numbers, tf.uint64)
    for shift, factor in ((30, _MIX[0]), (27, _MIX[1]), (31, 1)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint64)))
        x *= tf.constant(factor, tf.uint64)
    return tf.cast(tf.bitwise.right_shift(x, tf.constant(33, tf.uint64)), tf.int64)
