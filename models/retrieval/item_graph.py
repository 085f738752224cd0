"""Graphs of items that look alike: each item's nearest by cosine."""

from typing import NamedTuple

import numpy as np
import scipy.sparse
import tensorflow as tf

from models.embeddings.vectors import l2_normalize
from models.retrieval.propagation import normalized

_VALUES_TOGETHER = 1 << 24


class Neighbours(NamedTuple):
    """The items nearest to each item, itself among them.

    Attributes:
        items: item rows, int32 `(items, k)`, the nearest first.
        cosines: float32 `(items, k)`.
    """

    items: np.ndarray
    cosines: np.ndarray


def nearest_items(vectors: np.ndarray, k: int) -> Neighbours:
    """Finds the `k` items of highest cosine to each item, exactly, by blocks of items.

    Args:
        vectors: `(items, dim)`; a row of zeros is similar to nothing, itself included: its cosines are 0.
        k: how many, at most all.
    """
    unit = tf.constant(l2_normalize(vectors))
    k = min(k, len(vectors))
    step = max(1, _VALUES_TOGETHER // len(vectors))
    blocks = [
        tf.math.top_k(tf.matmul(unit[first : first + step], unit, transpose_b=True), k)
        for first in range(0, len(vectors), step)
    ]
    return Neighbours(
        np.concatenate([block.indices.numpy() for block in blocks]),
        np.concatenate([block.values.numpy() for block in blocks]),
    )


def item_graph(vectors: np.ndarray, k: int) -> scipy.sparse.csr_array:
    """The graph of an item's `k` nearest, weighted by cosine, symmetrically normalised: `(items, items)`.

    Edges lead from an item to its nearest, which need not have it among theirs. Negative cosines are no edges, and
    items without a vector (zeros) have none.

    Reference: Zhang et al., Mining Latent Structures for Multimedia Recommendation (MM 2021).
    """
    near = nearest_items(vectors, k)
    return normalized(as_matrix(near.items, np.maximum(near.cosines, 0)))


def as_matrix(items: np.ndarray, weights: np.ndarray) -> scipy.sparse.csr_array:
    """A matrix whose row `i` has `weights[i]` in the columns `items[i]`, both `(items, k)`; zeros are left out."""
    count, k = items.shape
    rows = np.repeat(np.arange(count), k)
    matrix = scipy.sparse.csr_array((weights.ravel(), (rows, items.ravel())), shape=(count, count))
    matrix.eliminate_zeros()
    return matrix
