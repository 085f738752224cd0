"""Finds the items whose vectors have the highest products with a user's: among all, or by ScaNN."""

import math
from typing import Literal, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import InputError

IndexKind = Literal["brute_force", "scann"]

_FEWEST_FOR_SCANN = 16
_MOST_SCORES = 2**28
"""Scores of a request: 1 GB."""


class ItemIndex(Protocol):
    """An index of items."""

    def __call__(self, users: tf.Tensor, excluded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The best items.

        Args:
            users: vectors `(batch, dim)`.
            excluded: pairs of a row of `users` and an item that is left out, int64 `(n, 2)`.

        Returns:
            Scores `(batch, k)`, best first, and item rows int32; minus infinity where there is no further item.
        """


class BruteForce(tf.Module):
    """All items are compared: exact, by standard operations.

    Args:
        items: vectors float32 `(items, dim)`.
        k: how many items are found.
    """

    def __init__(self, items: np.ndarray, k: int) -> None:
        super().__init__()
        self._items = tf.Variable(items, trainable=False)
        self._k = min(k, len(items))

    def __call__(self, users: tf.Tensor, excluded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The best items; see `ItemIndex`."""
        count = tf.size(users, tf.int64) // users.shape[1] * self._items.shape[0]
        fits = tf.debugging.Assert(count <= _MOST_SCORES, [f"a request may have {_MOST_SCORES} scores, not", count])
        with tf.control_dependencies([fits]):
            scores = tf.matmul(users, self._items, transpose_b=True)
        left_out = tf.fill([tf.shape(excluded)[0]], -float("inf"))
        found = tf.math.top_k(tf.tensor_scatter_nd_update(scores, excluded, left_out), self._k)
        return found.values, found.indices


class ScannSettings(NamedTuple):
    """How ScaNN divides the items and how thoroughly it searches.

    Attributes:
        leaves: parts that items are divided into.
        leaves_to_search: parts that are searched for a user.
        reordered: items whose exact score is computed; at least as many as are found.
    """

    leaves: int
    leaves_to_search: int
    reordered: int

    @classmethod
    def of(cls, items: int, k: int) -> "ScannSettings":
        """As many leaves as the square root of the number of items.

        A fifth of them is searched, and as many as hold four times the items that are found.
        """
        leaves = max(1, round(items**0.5))
        share = min(1.0, max(0.2, 4 * k / items))
        return cls(leaves, math.ceil(share * leaves), min(items, 4 * k))


class Scann(tf.Module):
    """A part of the items is compared, those that quantized vectors say are near; needs ScaNN's operations.

    `settings.reordered` items are found and excluded ones taken out of them, whoever else is in the batch. A user who
    has more of them than are left over gets fewer candidates.

    Args:
        items: vectors float32 `(items, dim)`.
        k: how many items are found.
        settings: see `ScannSettings`.

    Raises:
        InputError: there are too few items for ScaNN to learn from.

    Reference: Guo et al., Accelerating Large-Scale Inference with Anisotropic Vector Quantization (ICML 2020).
    """

    def __init__(self, items: np.ndarray, k: int, settings: ScannSettings) -> None:
        from tensorflow_recommenders.layers.factorized_top_k import ScaNN

        super().__init__()
        if len(items) < _FEWEST_FOR_SCANN:
            raise InputError(f"`index` scann needs at least {_FEWEST_FOR_SCANN} items; brute_force is fast for few")
        self._count = len(items)
        self._k = min(k, len(items))
        self._most = max(settings.reordered, self._k)
        self._layer = ScaNN(
            k=self._k,
            num_leaves=settings.leaves,
            num_leaves_to_search=settings.leaves_to_search,
            num_reordering_candidates=settings.reordered,
        ).index(tf.constant(items))

    def __call__(self, users: tf.Tensor, excluded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The best items; see `ItemIndex`."""
        # One after the other: a batch is searched in another way, with slightly other results.
        scores, rows = tf.map_fn(self._search, users, fn_output_signature=(tf.float32, tf.int32))
        keys = tf.sort(excluded[:, 0] * self._count + excluded[:, 1])
        keys = tf.concat([keys, [tf.int64.max]], axis=0)
        found = tf.range(tf.shape(rows, tf.int64)[0])[:, None] * self._count + tf.cast(rows, tf.int64)
        place = tf.searchsorted(keys, tf.reshape(found, [-1]))
        is_excluded = tf.reshape(tf.gather(keys, place), tf.shape(found)) == found
        best = tf.math.top_k(tf.where(is_excluded, -float("inf"), scores), self._k)
        return best.values, tf.gather(rows, best.indices, batch_dims=1)

    def _search(self, user: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        scores, rows = self._layer(user, k=self._most)
        missing = [[0, self._most - tf.size(scores)]]  # the leaves that are searched may hold fewer items
        return tf.pad(scores, missing, constant_values=-float("inf")), tf.pad(rows, missing)
