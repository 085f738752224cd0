"""`cluster_id`: the cluster of an item's picture is an ID like its category."""

from typing import Any

import keras
import tensorflow as tf

from beam_pipelines.format.errors import ConfigurationError
from models.features.adapt import similarity_of
from models.features.tables import look_up
from models.layers.id_embedding import IdEmbedding
from models.ranker.pictures.picture_feature import PictureFeature, Table, Tables
from models.ranker.pictures.semantic_id import prefix
from models.ranker.pictures.similarities import Similarities
from models.ranker.pictures.simscore import summary


class ClusterIdFeature(PictureFeature):
    """The cluster ID, embedded in the item tower and compared with that of every history step; see `PictureFeature`.

    What a shop with few clicks cannot learn of its clusters, which of them look alike, their centers tell: they are
    compared as the embeddings of `simscore` are.

    Raises:
        ConfigurationError: they are neither embedded nor compared, so that pictures would not enter at all.

    Reference: the paper's appendix B, "Cluster IDs". The paper's are embedded alone.
    """

    reads = "clusters"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.embed_clusters and not self.compare_clusters:
            raise ConfigurationError(
                "ranker.embed_clusters, ranker.compare_clusters: one must be true for the image feature cluster_id"
            )
        self.tables = {"cluster": Table((self.sizes.items + 1,), "int32")}
        if self.compare_clusters:
            self.compares = "center"
            self.id_count, self.pair_features, self.pooled_dim = 1, 1, 3
            self.tables["center"] = Table((self.sizes.clusters + 1, self.sizes.center_dim))
            self.tables[similarity_of("center")] = Table((2,))

    def item_encoder(self, dim: int, dtype: Any = None) -> keras.layers.Layer | None:
        """The embedding."""
        if not self.embed_clusters:
            return None
        embedding = IdEmbedding(self.sizes.clusters, dim, name="cluster_embedding", dtype=dtype)
        embedding.build()
        return embedding

    def item(self, tables: Tables, rows: tf.Tensor, new_picture_ids: tf.Tensor | None) -> tf.Tensor | None:
        """The cluster IDs, from 1."""
        return self._clusters(tables, rows, new_picture_ids) if self.embed_clusters else None

    def ids(self, tables: Tables, rows: tf.Tensor, new_picture_ids: tf.Tensor | None) -> list[tf.Tensor]:
        """The cluster IDs, from 1."""
        return [self._clusters(tables, rows, new_picture_ids)] if self.compare_clusters else []

    def vectors(self, tables: Tables, rows: tf.Tensor, new_picture_ids: tf.Tensor | None) -> tf.Tensor:
        """The centers of the clusters."""
        return tf.gather(tables["center"], self._clusters(tables, rows, new_picture_ids))

    def compare(self, similarities: Similarities) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """As `simscore`."""
        return [similarities.standard], [summary(similarities)]

    def _clusters(self, tables: Tables, rows: tf.Tensor, new_picture_ids: tf.Tensor | None) -> tf.Tensor:
        if new_picture_ids is not None and self.sizes.levels > 1:  # they are semantic IDs
            new_picture_ids = tf.cast(prefix(new_picture_ids, self.sizes.clusters, self.sizes.levels, 1), tf.int32)
        return look_up(tables["cluster"], rows, new_picture_ids)
