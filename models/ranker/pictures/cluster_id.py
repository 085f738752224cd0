"""`cluster_id`: the cluster of an item's picture is an ID like its category."""

from typing import Any

import keras
import tensorflow as tf

from beam_pipelines.format.errors import ConfigurationError
from models.features.spec import FeatureSizes
from models.features.tables import look_up
from models.layers.id_embedding import IdEmbedding
from models.ranker.pictures.picture_feature import PictureFeature, PictureValues


@keras.saving.register_keras_serializable(package="courier")
class ClusterIdFeature(PictureFeature):
    """The cluster ID, embedded in the item tower and compared with that of every history step; see `PictureFeature`.

    What a shop with few clicks cannot learn of its clusters, which of them look alike, their centers tell: they are
    compared as the embeddings of `simscore` are.

    Args:
        sizes: sizes of the tables.
        embed: whether an embedding of each cluster is learned.
        compare: whether clusters and their centers are compared with those of the history; the paper's are not.

    Raises:
        ConfigurationError: neither, so that pictures would not enter at all.

    Reference: the paper's appendix B, "Cluster IDs".
    """

    def __init__(self, sizes: FeatureSizes, embed: bool = True, compare: bool = True, **kwargs: Any) -> None:
        super().__init__(sizes, **kwargs)
        if not embed and not compare:
            raise ConfigurationError(
                "ranker.embed_clusters, ranker.compare_clusters: one must be true for the image feature cluster_id"
            )
        self.embed = embed
        self.compares_ids = self.compares_vectors = compare
        self.add_table("cluster", (sizes.items + 1,), "int32")
        if compare:
            self.add_table("center", (sizes.clusters + 1, sizes.image_dim))
            self.add_table("similarity", (2,))

    def item_encoder(self, dim: int, dtype: Any = None) -> keras.layers.Layer | None:
        """The embedding."""
        if not self.embed:
            return None
        embedding = IdEmbedding(self.sizes.clusters, dim, name="cluster_embedding", dtype=dtype)
        embedding.build()
        return embedding

    def call(self, rows: tf.Tensor, new_clusters: tf.Tensor | None = None) -> PictureValues:
        """Looks up; see the class."""
        cluster = look_up(self.tables["cluster"].value, rows, new_clusters)
        if not self.compares_ids:
            return PictureValues(item=cluster)
        return PictureValues(item=cluster, ids=cluster, vectors=tf.gather(self.tables["center"].value, cluster))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "embed": self.embed, "compare": self.compares_ids}
