"""Recall and NDCG over all items: exact, with what a user has already left out, and equal scores decided fairly."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import InputError
from models.retrieval.interactions import Pairs

CUTOFFS = (10, 20, 50)
_VALUES_TOGETHER = 1 << 24


class UserMetrics(NamedTuple):
    """Metrics of each user who has something to be found.

    Attributes:
        users: rows, rising, `(n,)`.
        pairs: number of relevant items that are looked for, `(n,)`.
        values: `recall@K` and `ndcg@K` by name, float64 `(n,)` each.
    """

    users: np.ndarray
    pairs: np.ndarray
    values: dict[str, np.ndarray]


def measure_ranking(
    user_vectors: np.ndarray | tf.Tensor,
    item_vectors: np.ndarray | tf.Tensor,
    relevant: Pairs,
    seen: Pairs,
    cutoffs: Sequence[int] = CUTOFFS,
) -> dict[str, float]:
    """The means over users of what `rank_for_users` measures; its arguments.

    Returns:
        `recall@K` and `ndcg@K` of each K, and the numbers of `users` and relevant `pairs` that were measured; metrics
        are NaN without users.

    Raises:
        InputError: a score is not finite.
    """
    users, pairs, values = rank_for_users(user_vectors, item_vectors, relevant, seen, cutoffs)
    means = {name: float(np.mean(of_users)) if len(users) else float("nan") for name, of_users in values.items()}
    return {"users": float(len(users)), "pairs": float(pairs.sum()), **means}


def rank_for_users(
    user_vectors: np.ndarray | tf.Tensor,
    item_vectors: np.ndarray | tf.Tensor,
    relevant: Pairs,
    seen: Pairs,
    cutoffs: Sequence[int] = CUTOFFS,
) -> UserMetrics:
    """Ranks all items for each user by the product of their vectors and measures where the relevant ones are.

    `recall@K` is the share of a user's relevant items among the first K; `ndcg@K` the sum of `1 / log2(rank + 1)` of
    those among the first K, divided by what the best order would give. What a user has in `seen` is no candidate, and
    is not looked for.

    Items with equal scores have no order. Both metrics are then the expected value over all orders of them, so that
    neither numbering of the items is of advantage: constant scores give what chance gives.

    Args:
        user_vectors: float32 `(users, dim)`.
        item_vectors: float32 `(items, dim)`.
        relevant: what should be found. Users without anything in `seen` are left out: their vectors have learned
            nothing.
        seen: the interactions that were learned from.
        cutoffs: the K.

    Raises:
        InputError: a score is not finite.

    Reference: Järvelin & Kekäläinen, Cumulated Gain-based Evaluation of IR Techniques (TOIS 2002); McSherry & Najork,
    Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores (ECIR 2008).
    """
    users, items = tf.convert_to_tensor(user_vectors, tf.float32), tf.convert_to_tensor(item_vectors, tf.float32)
    num_users, num_items = len(users), len(items)
    if not (tf.reduce_all(tf.math.is_finite(users)) and tf.reduce_all(tf.math.is_finite(items))):
        raise InputError("a vector of a user or an item is not finite, so that there is no order of the items")
    relevant = relevant.take(np.isin(relevant.users, seen.users))
    relevant = relevant.take(~np.isin(_keys(relevant, num_items), _keys(seen, num_items)))
    relevant = relevant.take(np.argsort(relevant.users, kind="stable"))
    seen = seen.take(np.argsort(seen.users, kind="stable"))
    measured, counts = np.unique(relevant.users, return_counts=True)
    starts = np.searchsorted(seen.users, np.arange(num_users + 1))
    higher, equal = (np.zeros(len(relevant), np.int64) for _ in range(2))
    ends = np.cumsum(counts)
    first = 0
    while first < len(measured):
        begin = ends[first] - counts[first]
        fit = int(np.searchsorted(ends, begin + max(1, _VALUES_TOGETHER // num_items), side="right"))
        last = max(first + 1, fit)
        block = measured[first:last]
        rows = np.repeat(np.arange(len(block)), counts[first:last])
        chosen = slice(begin, ends[last - 1])
        masked = np.repeat(np.arange(len(block)), starts[block + 1] - starts[block])
        masked_items = np.concatenate([seen.items[starts[user] : starts[user + 1]] for user in block])
        above, level = _positions(
            tf.gather(users, block), items, rows, relevant.items[chosen], np.stack([masked, masked_items], 1)
        )
        higher[chosen], equal[chosen] = above.numpy(), level.numpy()
        first = last
    values: dict[str, np.ndarray] = {}
    user_of_pair = np.repeat(np.arange(len(measured)), counts)
    gains = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, num_items + 2)))])  # of the first r ranks
    for k in cutoffs:
        reached = np.minimum(higher + equal, k)
        before = np.minimum(higher, k)
        found = np.bincount(user_of_pair, (reached - before) / equal)
        gain = np.bincount(user_of_pair, (gains[reached] - gains[before]) / equal)
        values[f"recall@{k}"] = found / counts
        values[f"ndcg@{k}"] = gain / gains[np.minimum(counts, min(k, num_items))]
    return UserMetrics(measured, counts, values)


def _keys(pairs: Pairs, num_items: int) -> np.ndarray:
    return pairs.users.astype(np.int64) * num_items + pairs.items


@tf.function(reduce_retracing=True)
def _positions(
    users: tf.Tensor, items: tf.Tensor, rows: tf.Tensor, chosen: tf.Tensor, masked: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """How many candidates have a higher score than each chosen item, and how many an equal one, itself included."""
    scores = tf.matmul(users, items, transpose_b=True)
    places = tf.stack([tf.cast(rows, tf.int32), tf.cast(chosen, tf.int32)], axis=1)
    own = tf.gather_nd(scores, places)[:, None]
    left_out = tf.fill([tf.shape(masked)[0]], -float("inf"))
    scores = tf.tensor_scatter_nd_update(scores, tf.cast(masked, tf.int32), left_out)
    scores = tf.gather(scores, rows)
    higher = tf.math.count_nonzero(scores > own, axis=1, dtype=tf.int32)
    return higher, tf.math.count_nonzero(scores == own, axis=1, dtype=tf.int32)
