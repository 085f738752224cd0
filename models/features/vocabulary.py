"""What the training pages say of each feature: vocabularies and scales, which a ranker keeps for new items."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from beam_pipelines.format.errors import ConfigurationError
from models.config import Config
from models.features.number_scale import NumberScale
from models.features.spec import CategoryFeature, FeaturesConfig, HashFeature


class FeatureVocabulary(Config):
    """Vocabularies and scales of all features that have one.

    Attributes:
        item, user: column to its vocabulary, in the order of its IDs from 1 on, or to the scale of a number.
        candidate: number to its scale.
    """

    item: dict[str, tuple[str, ...] | NumberScale]
    user: dict[str, tuple[str, ...] | NumberScale]
    candidate: dict[str, NumberScale]

    def check(self, features: FeaturesConfig) -> None:
        """Refuses a feature spec that names a feature without its vocabulary or scale.

        Raises:
            ConfigurationError: naming the feature.
        """
        for section in ("item", "user", "candidate"):
            values = getattr(self, section)
            for name, feature in getattr(features, section).items():
                kind = {"category": tuple, "number": NumberScale}.get(feature.type)
                if kind is not None and not isinstance(values.get(name), kind):
                    missing = "vocabulary" if kind is tuple else "scale"
                    raise ConfigurationError(
                        f"ranker.features.{section}.{name}: the ranker has no {missing} of it; train the ranker again"
                    )


def vocabulary_of(column: pa.ChunkedArray, counts: np.ndarray, feature: CategoryFeature) -> tuple[str, ...]:
    """Values that occur often enough on training pages, sorted.

    Args:
        column: strings, `(rows,)`.
        counts: occurrences of the rows in training, `(rows,)`.
        feature: the declaration.
    """
    encoded = pc.fill_null(column.combine_chunks(), "").dictionary_encode()
    occurrences = np.bincount(encoded.indices.to_numpy(), counts, len(encoded.dictionary))
    values = zip(encoded.dictionary.to_pylist(), occurrences, strict=True)
    return tuple(sorted(value for value, count in values if value and count >= feature.min_count))


def vocabulary_ids(column: pa.ChunkedArray, vocabulary: tuple[str, ...]) -> np.ndarray:
    """IDs of the values from 1 on; 0 for empty and unknown ones: int32 `(rows,)`."""
    found = pc.index_in(column.combine_chunks(), pa.array(vocabulary, column.type))
    return pc.fill_null(found, -1).to_numpy().astype(np.int32) + 1


def hash_ids(column: pa.ChunkedArray, feature: HashFeature) -> np.ndarray:
    """Buckets of the values from 1 on; 0 for empty ones: int32 `(rows,)`. The hash is TensorFlow's, as in a graph."""
    texts = pc.fill_null(column.combine_chunks(), "").to_pylist()
    buckets = tf.strings.to_hash_bucket_fast(tf.constant(texts, tf.string), feature.buckets).numpy()
    return np.where([bool(text) for text in texts], buckets + 1, 0).astype(np.int32)
