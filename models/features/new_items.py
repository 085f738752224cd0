"""Items that the item table does not have: what a request says of them, encoded as the table would hold it."""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from models.features.number_scale import NumberScale, encode_numbers
from models.features.spec import TableFeature
from models.features.vocabulary import FeatureVocabulary
from models.layers.text_embedding import hash_tokens

NEW_ITEMS = "new_items"
"""Optional entry of a page: the `NewItems` that item rows beyond the unknown one refer to."""


class NewItems(NamedTuple):
    """New items of a batch of pages: item row `items + 1 + n` is entry `n`, `items` being that of an unknown item.

    Attributes:
        features: column to values as `FeatureTable.tables` holds them, `(n, ...)`.
        picture_id: `(n,)`, cluster IDs + 1, int32, or semantic IDs + 1, int64, 0 = unknown; `None` if the ranker has
            neither.
    """

    features: dict[str, tf.Tensor]
    picture_id: tf.Tensor | None


class NewItemEncoder(tf.Module):
    """Encodes what is said of new items in the graph, exactly as `models.features.adapt` does for the item table.

    A new item is one that training has not seen, so that its ID is unknown.

    Args:
        config: the architecture, its features resolved.
        values: the vocabularies and scales that the ranker was trained with.
        picture_ids: number of cluster IDs, or of semantic IDs, that there may be; 0 without.
        semantic: whether they are semantic IDs.

    Call arguments:
        count: int32, the number n of new items.
        raw: column to what is said of each item, `(n,)` strings ("" = not known) or float32 numbers (NaN = not known),
            for every item feature but the ID.
        picture_ids: int64 `(n,)`, -1 or any that there cannot be = not known; `None` without.

    Output: the `NewItems`.
    """

    def __init__(
        self,
        features: Mapping[str, TableFeature],
        vocabulary: FeatureVocabulary,
        *,
        token_buckets: int,
        picture_ids: int = 0,
        semantic: bool = False,
    ) -> None:
        super().__init__()
        self._features = dict(features)
        self._token_buckets = token_buckets
        self._scales = {name: scale for name, scale in vocabulary.item.items() if isinstance(scale, NumberScale)}
        self._picture_ids = picture_ids
        self._picture_id_type = tf.int64 if semantic else tf.int32
        self._vocabularies = {}
        for name in self._features:
            known = vocabulary.item.get(name)
            if isinstance(known, tuple):
                values = tf.constant(known, tf.string, shape=len(known))
                ids = tf.range(1, tf.size(values) + 1)
                initializer = tf.lookup.KeyValueTensorInitializer(values, ids)
                self._vocabularies[name] = tf.lookup.StaticHashTable(initializer, default_value=0)

    def __call__(self, count: tf.Tensor, raw: Mapping[str, tf.Tensor], picture_ids: tf.Tensor | None) -> NewItems:
        """Encodes; see the class."""
        features = {}
        for name, feature in self._features.items():
            if feature.type == "id":
                features[name] = tf.zeros([count], tf.int32)
            else:
                features[name] = self._encode(name, feature, raw[name])
        if picture_ids is None:
            return NewItems(features, None)
        known = (picture_ids >= 0) & (picture_ids < self._picture_ids)
        return NewItems(features, tf.cast(tf.where(known, picture_ids + 1, 0), self._picture_id_type))

    def _encode(self, name: str, feature: TableFeature, values: tf.Tensor) -> tf.Tensor:
        if feature.type == "category":
            return self._vocabularies[name].lookup(values)
        if feature.type == "hash":
            buckets = tf.strings.to_hash_bucket_fast(values, feature.buckets)
            return tf.cast(tf.where(values == "", tf.zeros_like(buckets), buckets + 1), tf.int32)
        if feature.type == "text":
            return tf.cast(hash_tokens(values, self._token_buckets, feature.tokens), tf.int32)
        assert feature.type == "number"
        return encode_numbers(values, self._scales[name], feature)
