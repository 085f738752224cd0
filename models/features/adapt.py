"""Adapts features to a dataset: vocabularies, scales and the content of the feature tables.

Vocabularies and scales come from the training pages alone; the scale of similarity from the pictures of all items.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import tensorflow as tf

from beam_pipelines.shell.progress import warn
from models.embeddings.vectors import check_finite, l2_normalize
from models.features.known import KnownFeatures
from models.features.number_scale import LARGEST, NumberScale, as_numbers, encode_numbers, scale_of
from models.features.spec import FeaturesConfig, FeatureSizes, TableFeature
from models.features.training_counts import TrainingCounts
from models.features.vocabulary import FeatureVocabulary, hash_ids, vocabulary_ids, vocabulary_of
from models.layers.text_embedding import hash_tokens

_BLOCK = 2**16  # vectors
_LEAST_VARIANCE = 1e-9  # of cosines; less is rounding


class AdaptedFeatures(NamedTuple):
    """The content of a ranker's tables, and the vocabularies and scales that it was made with.

    Attributes:
        sizes: sizes of the tables and embeddings.
        vocabulary: vocabularies and scales.
        items, users: column to its values by row, see `FeatureTable.tables`.
        pictures: tables of pictures by name, each with one row more for what has none: `image`, and `image_1` and so on
            of more embeddings, float32 `(items + 1, dim)`, unit vectors or zeros; `cluster`, int32 `(items + 1,)`,
            0 = none, and `center`, float32 `(clusters + 1, dim)`; `semantic`, int64 `(items + 1,)`, 0 = none. Beside
            vectors, `NAME_similarity`, float32 `(2,)`: mean and standard deviation of the cosines of two items.
    """

    sizes: FeatureSizes
    vocabulary: FeatureVocabulary
    items: dict[str, np.ndarray]
    users: dict[str, np.ndarray]
    pictures: dict[str, np.ndarray]


def adapt_features(
    features: FeaturesConfig,
    items: pa.Table,
    users: pa.Table,
    counts: TrainingCounts,
    *,
    token_buckets: int,
    image_embeddings: Sequence[np.ndarray] = (),
    cluster_ids: np.ndarray | None = None,
    centers: np.ndarray | None = None,
    semantic_ids: np.ndarray | None = None,
    levels: int = 1,
    known: KnownFeatures | None = None,
) -> AdaptedFeatures:
    """Turns the dataset's tables into feature tables with one more row, for what is unknown.

    Args:
        features: the feature spec, resolved.
        items, users: the dataset's tables.
        counts: what occurs on the training pages.
        token_buckets: number of token hashes of texts.
        image_embeddings: float32 or float16 `(items, dim)` each, zeros without picture.
        cluster_ids: int32 `(items,)`, -1 without picture.
        centers: float32 `(clusters, dim)`, given with `cluster_ids`.
        semantic_ids: `Clusters.semantic_ids`, int64 `(items,)`, -1 without picture, given with `cluster_ids`.
        levels: of `semantic_ids`.
        known: what stays as an earlier ranker has it: its scales, and its vocabularies, to which the pages only add.

    Raises:
        ArtifactError: an embedding or a center is not finite.
    """
    spec = features.spec()
    item_tables, item_sizes, item_vocabulary = _tables("item", spec.item, items, counts.items, token_buckets, known)
    user_tables, user_sizes, user_vocabulary = _tables("user", spec.user, users, counts.users, token_buckets, known)
    candidate = {
        name: (known and known.scale("candidate", name, feature)) or scale_of(counts.numbers[name], feature)
        for name, feature in spec.candidate.items()
    }
    pictures: dict[str, np.ndarray] = {}
    center_dim = clusters = 0
    for number, vectors in enumerate(image_embeddings):
        check_finite(vectors, np.arange(len(vectors)), "the image embeddings")
        name = image_table(number)
        pictures[name] = _append(l2_normalize(vectors))
        pictures[similarity_of(name)] = similarity_scale(pictures[name], np.ones(len(pictures[name])))
    if cluster_ids is not None and centers is not None:
        clusters, center_dim = centers.shape
        check_finite(centers, np.arange(clusters), "the cluster centers")
        pictures["cluster"] = _append(cluster_ids.astype(np.int32) + 1)
        pictures["center"] = np.concatenate([np.zeros((1, center_dim), np.float32), l2_normalize(centers)])
        members = np.bincount(pictures["cluster"], minlength=len(pictures["center"]))
        pictures[similarity_of("center")] = similarity_scale(pictures["center"], members)
        if semantic_ids is not None:
            pictures["semantic"] = _append(semantic_ids + 1)
    if known is not None:
        pictures |= {name: scale for name, scale in known.similarity.items() if name in pictures}
    sizes = FeatureSizes(
        items=len(items),
        users=len(users),
        item=item_sizes,
        user=user_sizes,
        image_dims=tuple(vectors.shape[1] for vectors in image_embeddings),
        clusters=clusters,
        levels=levels,
        center_dim=center_dim,
    )
    vocabulary = FeatureVocabulary(item=item_vocabulary, user=user_vocabulary, candidate=candidate)
    return AdaptedFeatures(sizes, vocabulary, item_tables, user_tables, pictures)


def image_table(number: int) -> str:
    """Name of the table with the vectors of the embeddings of this number."""
    return "image" if number == 0 else f"image_{number}"


def similarity_of(table: str) -> str:
    """Name of the table with mean and deviation of the cosines of a table's vectors."""
    return f"{table}_similarity"


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
    section: str,
    features: Mapping[str, TableFeature],
    table: pa.Table,
    counts: np.ndarray,
    token_buckets: int,
    known: KnownFeatures | None,
) -> tuple[dict[str, np.ndarray], dict[str, int], dict[str, tuple[str, ...] | NumberScale]]:
    """Values by row, sizes of embeddings, and vocabularies and scales, by column."""
    tables: dict[str, np.ndarray] = {}
    sizes: dict[str, int] = {}
    vocabulary: dict[str, tuple[str, ...] | NumberScale] = {}
    for name, feature in features.items():
        column, size = table[name], 0
        if feature.type == "id":
            rows = _frequent(counts, feature.min_count, known and known.rows(section, name, feature))
            size = int(rows.max(initial=0))
        elif feature.type == "category":
            values = vocabulary_of(column, counts, feature)
            if known is not None:
                values = tuple(sorted({*values, *known.values(section, name, feature)}))
            vocabulary[name] = values
            rows, size = vocabulary_ids(column, values), len(values)
        elif feature.type == "hash":
            rows, size = hash_ids(column, feature), feature.buckets
        elif feature.type == "text":
            texts = tf.constant([text or "" for text in column.to_pylist()] + [""])
            rows = hash_tokens(texts, token_buckets, feature.tokens).numpy()[:-1].astype(np.int32)
        else:
            marked = column.to_numpy().astype(np.float64)
            _tell_of_marks(marked, table, name)
            numbers = as_numbers(marked)
            scale = (known and known.scale(section, name, feature)) or scale_of(numbers[counts > 0], feature)
            vocabulary[name] = scale
            rows = encode_numbers(tf.constant(numbers, tf.float32), scale, feature).numpy()
            size = feature.buckets if feature.transform == "buckets" else 0
        tables[name], sizes[name] = _append(rows, -1 if feature.type == "text" else 0), size
    return tables, sizes, vocabulary


def _tell_of_marks(values: np.ndarray, table: pa.Table, name: str) -> None:
    """Warns of values that are no numbers, such as the largest float64: nobody means them."""
    marks = np.isnan(as_numbers(values)) & ~np.isnan(values)
    if marks.any():
        id_column, first = table.column_names[0], int(marks.argmax())
        first_id = str(table[id_column][first])
        if id_column == "user_id":
            first_id = f"with the SHA-256 {hashlib.sha256(first_id.encode()).hexdigest()[:16]}"
        warn(
            f"{name}: {marks.sum()} of {len(values)} values are infinite or of a magnitude of {LARGEST:g} or more, "
            f"and are taken for missing; the first is {values[first]:g}, of the {id_column} {first_id[:60]}"
        )


def _frequent(counts: np.ndarray, min_count: int, known: np.ndarray | None) -> np.ndarray:
    """Numbers rows seen at least `min_count` times, and those that are known, from 1; 0 for the others."""
    frequent = counts >= min_count
    if known is not None:
        frequent |= known
    return np.where(frequent, np.cumsum(frequent), 0).astype(np.int32)


def _append(rows: np.ndarray, value: float = 0) -> np.ndarray:
    """One more row of `value`."""
    return np.concatenate([rows, np.full((1, *rows.shape[1:]), value, rows.dtype)])
