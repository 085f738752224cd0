"""What pictures say of items and histories, by all picture features of a ranker."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from models.features.adapt import similarity_of
from models.features.spec import FeatureSizes
from models.ranker.config import ImageFeature, image_features_of
from models.ranker.pictures.cluster_id import ClusterIdFeature
from models.ranker.pictures.make import MakeFeature
from models.ranker.pictures.picture_feature import PictureFeature
from models.ranker.pictures.semantic_id import SemanticIdFeature
from models.ranker.pictures.similarities import Similarities
from models.ranker.pictures.simscore import SimScoreFeature
from models.ranker.pictures.simtier import SimTierFeature
from models.ranker.pictures.vector import VectorFeature

PICTURE_FEATURES: dict[ImageFeature, type[PictureFeature]] = {
    "none": PictureFeature,
    "vector": VectorFeature,
    "simscore": SimScoreFeature,
    "simtier": SimTierFeature,
    "cluster_id": ClusterIdFeature,
    "semantic_id": SemanticIdFeature,
    "make": MakeFeature,
}


class PictureValues(NamedTuple):
    """What the pictures of n items say.

    Attributes:
        item: input of the `Pictures.item_encoder`, or several inputs, whose output becomes a part of item vectors;
            `None` if there is none.
        ids: integers `(n,)`, 0 = none, that a candidate and a history step match by.
        vectors: `(n, dim)` each, of unit length, zeros without picture, whose cosines are compared.
    """

    item: tf.Tensor | tuple[tf.Tensor, ...] | None = None
    ids: tuple[tf.Tensor, ...] = ()
    vectors: tuple[tf.Tensor, ...] = ()


class PictureComparison(NamedTuple):
    """How the pictures of candidates compare with those of a history.

    Attributes:
        pairs: `(batch, candidates, steps)` each, `Pictures.pair_features` of them.
        pooled: `(batch, candidates, any)` each, whose last sizes add up to `Pictures.pooled_dim`.
        similarity: standardised cosines of the first vectors that are compared, `(batch, candidates, steps)`; `None` if
            none are.
    """

    pairs: list[tf.Tensor]
    pooled: list[tf.Tensor]
    similarity: tf.Tensor | None


@keras.saving.register_keras_serializable(package="courier")
class Pictures(keras.layers.Layer):
    """Looks up what pictures say, and compares.

    Args:
        image_features: names of the picture features.
        sizes: sizes of the tables. Each of several embeddings gets the features that read embeddings.
        embed_clusters, compare_clusters, prefix_buckets: see `RankerConfig`.

    Attributes:
        features: the picture features.
        tables: name to its non-trainable values. Features share them.
        towers: what features have learned before the ranker learns, see `PictureRanker`; the ranker does not change it.
        compared: names of the tables whose vectors are compared.
        id_count, pair_features, pooled_dim: of all features together.

    Call arguments:
        rows: item rows, shape `(n,)`; row `items` has no picture.
        new_picture_ids: `NewItems.picture_id` of new items, that rows beyond refer to; see `look_up`.

    Output: the `PictureValues`.
    """

    def __init__(
        self,
        image_features: str | Sequence[str],
        sizes: FeatureSizes,
        embed_clusters: bool = True,
        compare_clusters: bool = True,
        prefix_buckets: int = 10_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.image_features = image_features_of(image_features)
        self.sizes = sizes
        self.embed_clusters = embed_clusters
        self.compare_clusters = compare_clusters
        self.prefix_buckets = prefix_buckets
        options: dict[str, Any] = {
            "embed_clusters": embed_clusters,
            "compare_clusters": compare_clusters,
            "prefix_buckets": prefix_buckets,
        }
        kinds = [PICTURE_FEATURES[name] for name in self.image_features]
        self.features: list[PictureFeature] = [
            kind(sizes, embedding, **options)
            for kind in kinds
            for embedding in range(len(sizes.image_dims) if kind.reads == "embeddings" else 1)
        ]
        self.tables: dict[str, keras.Variable] = {}
        for feature in self.features:
            for name, (shape, dtype) in feature.tables.items():
                if name not in self.tables:
                    self.tables[name] = self.add_weight(
                        name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False, autocast=False
                    )
        self.towers = [feature.tower for feature in self.features if feature.tower is not None]
        for tower in self.towers:
            tower.trainable = False
        self.compared = [*dict.fromkeys(feature.compares for feature in self.features if feature.compares)]
        self.id_count = sum(feature.id_count for feature in self.features)
        self.pair_features = sum(feature.pair_features for feature in self.features)
        self.pooled_dim = sum(feature.pooled_dim for feature in self.features)
        self.built = True

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
        encoders = [feature.item_encoder(dim, dtype) for feature in self.features]
        encoders = [encoder for encoder in encoders if encoder is not None]
        return SummedEncoders(encoders, dtype=dtype) if len(encoders) > 1 else encoders[0] if encoders else None

    def call(self, rows: tf.Tensor, new_picture_ids: tf.Tensor | None = None) -> PictureValues:
        """Looks up; see the class."""
        arguments = {name: table.value for name, table in self.tables.items()}, rows, new_picture_ids
        found = [feature.item(*arguments) for feature in self.features]
        items = tuple(item for item in found if item is not None)
        comparing = {feature.compares: feature for feature in self.features}
        return PictureValues(
            items if len(items) > 1 else items[0] if items else None,
            tuple(ids for feature in self.features for ids in feature.ids(*arguments)),
            tuple(comparing[table].vectors(*arguments) for table in self.compared),
        )

    def compare(
        self, candidates: Sequence[tf.Tensor], steps: Sequence[tf.Tensor], mask: tf.Tensor
    ) -> PictureComparison:
        """Compares the candidates of pages with the steps of a history.

        Args:
            candidates: `PictureValues.vectors` of them, `(batch, candidates, dim)`.
            steps: of the steps, `(batch, steps, dim)`.
            mask: bool `(batch, steps)`, false at padding.
        """
        similarities = {
            table: Similarities(candidate_vectors, step_vectors, mask, self.tables[similarity_of(table)].value)
            for table, candidate_vectors, step_vectors in zip(self.compared, candidates, steps, strict=True)
        }
        pairs, pooled = [], []
        for feature in self.features:
            if feature.compares:
                of_pairs, of_history = feature.compare(similarities[feature.compares])
                pairs += of_pairs
                pooled += of_history
        first = next(iter(similarities.values())).standard if similarities else None
        return PictureComparison(pairs, pooled, first)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "image_features": [*self.image_features],
            "sizes": self.sizes.model_dump(mode="json"),
            "embed_clusters": self.embed_clusters,
            "compare_clusters": self.compare_clusters,
            "prefix_buckets": self.prefix_buckets,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Pictures":
        """Makes the layer of a `get_config`."""
        return cls(**{**config, "sizes": FeatureSizes(**config["sizes"])})


@keras.saving.register_keras_serializable(package="courier")
class SummedEncoders(keras.layers.Layer):
    """The sum of what several layers say, each of an input of its own: as one layer that reads all of them.

    Args:
        encoders: the layers, built.

    Call arguments:
        inputs: one for each layer.
    """

    def __init__(self, encoders: Sequence[keras.layers.Layer], **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # IDs
        self.encoders = [*encoders]
        self.built = True

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Adds up; see the class."""
        return tf.add_n([encoder(each) for encoder, each in zip(self.encoders, inputs, strict=True)])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "encoders": [keras.saving.serialize_keras_object(e) for e in self.encoders]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SummedEncoders":
        """Makes the layer of a `get_config`."""
        return cls(**{**config, "encoders": [keras.saving.deserialize_keras_object(e) for e in config["encoders"]]})
