"""The base of all picture features: the places where pictures enter a ranker."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import keras
import tensorflow as tf

from models.features.spec import FeatureSizes
from models.ranker.pictures.picture_din import PictureDin
from models.ranker.pictures.similarities import Similarities

Tables = Mapping[str, tf.Tensor]


class Table(NamedTuple):
    """What a feature reads, one of `models.features.adapt.AdaptedFeatures.pictures`."""

    shape: tuple[int, ...]
    dtype: str = "float32"


class PictureFeature:
    """One way in which pictures enter a ranker; this one does nothing: `none`.

    A feature says what the pictures tell of an item, of a candidate and a history step, and of a candidate and a whole
    history. It holds no values itself: `Pictures` holds the tables that several features may read, and each member of a
    ranker an `item_encoder` of its own. A new one is a file in this folder, a line in `PICTURE_FEATURES` and a name in
    `ImageFeature`.

    Args:
        sizes: sizes of the tables.
        embedding: number of the embeddings that it reads, if there are several.
        embed_clusters, compare_clusters: whether IDs are embedded, and compared; see `RankerConfig`.
        prefix_buckets: rows of an embedding of prefixes; see `RankerConfig`.

    Attributes:
        reads: what it needs: embeddings, of which each gets a feature of its own, or clusters.
        tables: name to form, of those that it reads.
        compares: the table of unit vectors whose cosines it reads; `None` without any. Their scale,
            `similarity_of` it, is a table, too.
        tower: a layer that has learned of pictures before the ranker learns, which does not change it; `None` without.
            `Pictures` holds it.
        id_count: int. Number of its `ids`.
        pair_features, pooled_dim: int. Number of tensors and sum of the last sizes that `compare` gives.
    """

    reads: ClassVar[Literal["embeddings", "clusters"] | None] = None
    compares: str | None = None
    tower: PictureDin | None = None
    id_count = 0
    pair_features = 0
    pooled_dim = 0

    def __init__(
        self,
        sizes: FeatureSizes,
        embedding: int = 0,
        *,
        embed_clusters: bool = True,
        compare_clusters: bool = True,
        prefix_buckets: int = 10_000,
    ) -> None:
        self.sizes = sizes
        self.embedding = embedding
        self.embed_clusters = embed_clusters
        self.compare_clusters = compare_clusters
        self.prefix_buckets = prefix_buckets
        self.tables: dict[str, Table] = {}

    def item_encoder(self, dim: int, dtype: Any = None) -> keras.layers.Layer | None:
        """A new layer, built, from `item` to `(n, dim)`: a part of item vectors.

        Args:
            dim: length of its output.
            dtype: its policy. The tables, and what is compared, are float32 whatever it is.
        """
        return None

    def item(self, tables: Tables, rows: tf.Tensor, new_picture_ids: tf.Tensor | None) -> tf.Tensor | None:
        """The input of the `item_encoder`, `(n,)` or `(n, dim)`; `None` without.

        Args:
            tables: name to values, those of `Pictures`.
            rows: item rows, shape `(n,)`; row `items` has no picture.
            new_picture_ids: `NewItems.picture_id` of new items, that rows beyond refer to; see `look_up`.
        """
        return None

    def ids(self, tables: Tables, rows: tf.Tensor, new_picture_ids: tf.Tensor | None) -> list[tf.Tensor]:
        """Integers `(n,)`, 0 = none. A candidate and a step match if theirs are equal: `ItemMatcher` says so of each
        pair, and of each history as of categories. Arguments as of `item`."""
        return []

    def vectors(self, tables: Tables, rows: tf.Tensor, new_picture_ids: tf.Tensor | None) -> tf.Tensor | None:
        """Rows of the table that it `compares`, zeros without picture, `(n, dim)`. Arguments as of `item`."""
        return None

    def compare(self, similarities: Similarities) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """What the cosines say of each pair, `(batch, candidates, steps)` each, and of each history, `(batch,
        candidates, any)` each."""
        return [], []
