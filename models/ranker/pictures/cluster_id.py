"""`cluster_id`: the cluster of an item's picture is an ID like its category."""

from typing import Any

import keras
import tensorflow as tf

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

    Reference: the paper's appendix B, "Cluster IDs".
    """

    compares_ids = True
    compares_vectors = True

    def __init__(self, sizes: FeatureSizes, embed: bool = True, **kwargs: Any) -> None:
        super().__init__(sizes, **kwargs)
        self.embed = embed
        self.add_table("cluster", (sizes.items + 1,), "int32")
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
        return PictureValues(item=cluster, ids=cluster, vectors=tf.gather(self.tables["center"].value, cluster))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "embed": self.embed}
