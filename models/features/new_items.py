"""Items that the item table does not have: what is said of them instead, as the table would hold it."""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from models.features.spec import NumberFeature, TableFeature
from models.features.vocabulary import FeatureValues, NumberValues, log_magnitude
from models.layers.text_embedding import hash_tokens
from models.ranker.config import RankerConfig

NEW_ITEMS = "new_items"
"""Optional entry of a page: the `NewItems` that item rows beyond the unknown one refer to."""


class NewItems(NamedTuple):
    """New items of a batch of pages: item row `items + 1 + n` is entry `n`, `items` being that of an unknown item.

    Attributes:
        features: column to values as `FeatureTable.tables` holds them, `(n, ...)`.
        cluster: int32 `(n,)`, 0 = unknown; `None` if the ranker has no cluster IDs.
    """

    features: dict[str, tf.Tensor]
    cluster: tf.Tensor | None


class NewItemEncoder(tf.Module):
    """Encodes what is said of new items in the graph, exactly as `models.features.tables` does for the item table.

    A new item is one that training has not seen, so that its ID is unknown.

    Args:
        config: the architecture, its features resolved.
        values: the vocabularies and scales that the ranker was trained with.
        clusters: number of cluster IDs, 0 without.

    Call arguments:
        count: int32, the number n of new items.
        raw: column to what is said of each item, `(n,)` strings ("" = not known) or float32 numbers (NaN = not known),
            for every item feature but the ID.
        cluster_ids: int64 `(n,)`, -1 or any that the ranker does not have = not known; `None` without clusters.

    Output: the `NewItems`.
    """

    def __init__(self, config: RankerConfig, values: FeatureValues, clusters: int) -> None:
        super().__init__()
        self._features = config.features.item
        self._token_buckets = config.token_buckets
        self._scales = {name: scale for name, scale in values.item.items() if isinstance(scale, NumberValues)}
        self._clusters = clusters
        self._vocabularies = {}
        for name, feature in self._features.items():
            if feature.type == "category":
                vocabulary = tf.constant(values.item[name], tf.string, shape=len(values.item[name]))
                ids = tf.range(1, tf.size(vocabulary) + 1)
                initializer = tf.lookup.KeyValueTensorInitializer(vocabulary, ids)
                self._vocabularies[name] = tf.lookup.StaticHashTable(initializer, default_value=0)

    def __call__(self, count: tf.Tensor, raw: Mapping[str, tf.Tensor], cluster_ids: tf.Tensor | None) -> NewItems:
        """Encodes; see the class."""
        features = {}
        for name, feature in self._features.items():
            if feature.type == "id":
                features[name] = tf.zeros([count], tf.int32)
            else:
                features[name] = self._encode(name, feature, raw[name])
        if cluster_ids is None:
            return NewItems(features, None)
        known = (cluster_ids >= 0) & (cluster_ids < self._clusters)
        return NewItems(features, tf.cast(tf.where(known, cluster_ids + 1, 0), tf.int32))

    def _encode(self, name: str, feature: TableFeature, values: tf.Tensor) -> tf.Tensor:
        if feature.type == "category":
            return self._vocabularies[name].lookup(values)
        if feature.type == "hash":
            buckets = tf.strings.to_hash_bucket_fast(values, feature.buckets)
            return tf.cast(tf.where(values == "", tf.zeros_like(buckets), buckets + 1), tf.int32)
        if feature.type == "text":
            return tf.cast(hash_tokens(values, self._token_buckets, feature.tokens), tf.int32)
        return _encode_number(values, self._scales[name], feature)


def _encode_number(values: tf.Tensor, scale: NumberValues, feature: NumberFeature) -> tf.Tensor:
    present = tf.math.is_finite(values)
    if feature.transform == "buckets":
        buckets = tf.searchsorted(tf.constant(scale.boundaries, tf.float32), values, side="right") + 1
        return tf.where(present, buckets, 0)
    numbers = tf.cast(tf.where(present, values, 0.0), tf.float64)  # the item table is made in double precision, too
    if feature.transform == "log":
        numbers = log_magnitude(numbers)
    return tf.where(present, tf.cast((numbers - scale.mean) / scale.deviation, tf.float32), 0.0)


def look_up(table: tf.Tensor, rows: tf.Tensor, new: tf.Tensor | None = None) -> tf.Tensor:
    """The values of rows, of a table or of new items.

    Args:
        table: shape `(items + 1, ...)`; the last row is what holds where nothing is known.
        rows: integers from 0, any shape. Row `items + 1 + n` is entry `n` of `new`.
        new: values of new items, `(n, ...)`; `None`: nothing is known of rows beyond the table.

    Returns:
        The shape of `rows`, then that of a value.
    """
    last = tf.cast(tf.shape(table)[0] - 1, rows.dtype)
    values = tf.gather(table, tf.minimum(rows, last))
    if new is None:
        return values
    # Entry 0 is never chosen: a gather needs one where there are no new items.
    of_new = tf.gather(tf.concat([table[-1:], new], axis=0), tf.maximum(rows - last, 0))
    is_new = rows > last
    for _ in table.shape[1:]:
        is_new = is_new[..., None]
    return tf.where(is_new, of_new, values)
