"""Fills a ranker's feature tables from a dataset.

Vocabularies and scales come from the training pages alone; the scale of similarity from the pictures of all items.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import tensorflow as tf

from models.embeddings.vectors import l2_normalize
from models.features.spec import FeatureSizes, TableFeature
from models.features.table import FeatureTable
from models.features.training_counts import TrainingCounts
from models.features.vocabulary import (
    FeatureValues,
    NumberValues,
    hash_ids,
    number_rows,
    scale_of,
    vocabulary_ids,
    vocabulary_of,
)
from models.layers.text_embedding import hash_tokens
from models.ranker.config import RankerConfig
from models.ranker.ranker import Ranker

_BLOCK = 2**16  # vectors
_LEAST_VARIANCE = 1e-9  # of cosines; less is rounding


class FeatureTables(NamedTuple):
    """The content of a ranker's tables, and what it was made with.

    Attributes:
        sizes: of the embeddings.
        values: vocabularies and scales.
        items, users: column to its values by row, see `FeatureTable.tables`.
        images: `image`, or `cluster` and `center`, see `ItemTable`; or nothing.
    """

    sizes: FeatureSizes
    values: FeatureValues
    items: dict[str, np.ndarray]
    users: dict[str, np.ndarray]
    images: dict[str, np.ndarray]

    def fill(self, ranker: Ranker) -> None:
        """Writes the tables into a ranker of these sizes."""
        for table, values in ((ranker.items.features, self.items), (ranker.users, self.users)):
            _fill(table, values)
        for name, rows in self.images.items():
            getattr(ranker.items, name).assign(rows)
        if ranker.items.similarity is not None:
            ranker.items.similarity.assign(self._similarity_scale())
        ranker.numbers.fill(self.values.candidate)

    def _similarity_scale(self) -> np.ndarray:
        if "center" not in self.images:
            return similarity_scale(self.images["image"], np.ones(len(self.images["image"])))
        items_of = np.bincount(self.images["cluster"], minlength=len(self.images["center"]))
        return similarity_scale(self.images["center"], items_of)


def make_feature_tables(
    config: RankerConfig,
    items: pa.Table,
    users: pa.Table,
    counts: TrainingCounts,
    *,
    image_embeddings: np.ndarray | None = None,
    cluster_ids: np.ndarray | None = None,
    centers: np.ndarray | None = None,
) -> FeatureTables:
    """Turns the dataset's tables into feature tables with one more row, for what is unknown.

    Args:
        config: the architecture, its features resolved.
        items, users: the dataset's tables.
        counts: what occurs on the training pages.
        image_embeddings: float32 or float16 `(items, dim)`, zeros without picture, for `vector` and `simscore`.
        cluster_ids: int32 `(items,)`, -1 without picture, for `cluster_id`.
        centers: float32 `(clusters, dim)`, given with `cluster_ids`.
    """
    features = config.features
    item_tables, item_sizes, item_values = _tables(features.item, items, counts.items, config.token_buckets)
    user_tables, user_sizes, user_values = _tables(features.user, users, counts.users, config.token_buckets)
    candidate = {name: scale_of(counts.numbers[name], feature) for name, feature in features.candidate.items()}
    images, image_dim, clusters = {}, 0, 0
    if image_embeddings is not None:
        image_dim = image_embeddings.shape[1]
        images["image"] = _append(l2_normalize(image_embeddings))
    if cluster_ids is not None:
        clusters, image_dim = centers.shape
        images["cluster"] = _append(cluster_ids.astype(np.int32) + 1)
        images["center"] = np.concatenate([np.zeros((1, image_dim), np.float32), l2_normalize(centers)])
    sizes = FeatureSizes(
        items=len(items),
        users=len(users),
        item=item_sizes,
        user=user_sizes,
        image_dim=image_dim,
        clusters=clusters,
    )
    values = FeatureValues(item=item_values, user=user_values, candidate=candidate)
    return FeatureTables(sizes, values, item_tables, user_tables, images)


def similarity_scale(vectors: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of the cosines of all pairs of two items that have a picture.

    Sums over pairs are those of the items' moments: the mean is that of the vectors' sum, the mean square that of their
    second moments.

    Args:
        vectors: float32 `(n, dim)`, of unit length; zeros have no picture.
        counts: `(n,)`, how many items have each.

    Returns:
        float32 `(2,)`; 0 and 1 if fewer than two items have a picture, or all have the same.
    """
    counts = np.where(vectors.any(axis=1), counts, 0).astype(np.float64)
    items = counts.sum()
    total, moments = counts @ vectors, np.zeros((vectors.shape[1],) * 2)
    for first in range(0, len(vectors), _BLOCK):
        block = vectors[first : first + _BLOCK].astype(np.float64)
        moments += block.T @ (block * counts[first : first + _BLOCK, None])
    pairs = items * (items - 1)
    if not pairs:
        return np.array([0, 1], np.float32)
    mean = (total @ total - items) / pairs
    variance = ((moments**2).sum() - items) / pairs - mean**2
    deviation = np.sqrt(variance) if variance > _LEAST_VARIANCE else 1.0
    return np.array([mean, deviation], np.float32)


def _tables(
    features: Mapping[str, TableFeature], table: pa.Table, counts: np.ndarray, token_buckets: int
) -> tuple[dict[str, np.ndarray], dict[str, int], dict[str, tuple[str, ...] | NumberValues]]:
    """Values by row, sizes of embeddings, and vocabularies and scales, by column."""
    tables, sizes, values = {}, {}, {}
    for name, feature in features.items():
        column, size = table[name], 0
        if feature.type == "id":
            rows = _frequent(counts, feature.min_count)
            size = int(rows.max(initial=0))
        elif feature.type == "category":
            values[name] = vocabulary_of(column, counts, feature)
            rows, size = vocabulary_ids(column, values[name]), len(values[name])
        elif feature.type == "hash":
            rows, size = hash_ids(column, feature), feature.buckets
        elif feature.type == "text":
            texts = tf.constant([text or "" for text in column.to_pylist()] + [""])
            rows = hash_tokens(texts, token_buckets, feature.tokens).numpy()[:-1].astype(np.int32)
        else:
            values[name] = scale_of(column.to_numpy().astype(np.float64)[counts > 0], feature)
            rows = number_rows(column, values[name], feature)
            size = feature.buckets if feature.transform == "buckets" else 0
        tables[name], sizes[name] = _append(rows, -1 if feature.type == "text" else 0), size
    return tables, sizes, values


def _frequent(counts: np.ndarray, min_count: int) -> np.ndarray:
    """Numbers rows seen at least `min_count` times from 1; 0 for the others."""
    known = counts >= min_count
    return np.where(known, np.cumsum(known), 0).astype(np.int32)


def _append(rows: np.ndarray, value: float = 0) -> np.ndarray:
    """One more row of `value`."""
    return np.concatenate([rows, np.full((1, *rows.shape[1:]), value, rows.dtype)])


def _fill(table: FeatureTable, tables: Mapping[str, np.ndarray]) -> None:
    for name, rows in tables.items():
        table.tables[name].assign(rows)
