"""Identity Recall@K: how often the one true counterpart of a query is among its nearest neighbours."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RANKS = (1, 5, 10, 15, 20)
"""The article's K."""
NOT_FOUND = 0


class IdentityRecall(NamedTuple):
    """Recall by K.

    Attributes:
        recall: share of the queries whose counterpart is among the K nearest.
        standard_error: of each, over queries.
        queries: how many.
    """

    recall: dict[int, float]
    standard_error: dict[int, float]
    queries: int


def counterparts(groups: np.ndarray) -> np.ndarray:
    """The other item of each group of two.

    Larger groups do not count: a rank is defined only where there is exactly one true counterpart.

    Args:
        groups: int `(items,)`, -1 = in no group.

    Returns:
        int64 `(items,)`: the row of the other item, -1 where the item's group does not have exactly two.
    """
    order = np.argsort(groups, kind="stable")
    _, first, size = np.unique(groups[order], return_index=True, return_counts=True)
    first = first[(size == 2) & (groups[order][first] >= 0)]
    one, other = order[first], order[first + 1]
    result = np.full(len(groups), -1, np.int64)
    result[one], result[other] = other, one
    return result


def counterpart_ranks(neighbours: np.ndarray, counterpart: np.ndarray) -> np.ndarray:
    """The rank of each query's counterpart among its neighbours.

    Args:
        neighbours: item rows `(n, k)`, nearest first.
        counterpart: item rows `(n,)`.

    Returns:
        int64 `(n,)`, from 1 to k; 0 where it is not among them.
    """
    if neighbours.ndim != 2 or counterpart.shape != neighbours.shape[:1]:
        raise ValueError(
            "`neighbours` must have shape (n, k) and `counterpart` (n,). "
            f"Received: {neighbours.shape} and {counterpart.shape}"
        )
    found = neighbours == counterpart[:, None]
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1, NOT_FOUND)


def identity_recall(ranks: np.ndarray, at: Sequence[int] = RANKS) -> IdentityRecall:
    """Recall over all queries.

    Args:
        ranks: int `(queries,)`, of `counterpart_ranks` with at least `max(at)` neighbours.
        at: the K.

    Reference: the companion article's metric learning, "Identity Recall".
    """
    n = len(ranks)
    found = {k: (ranks != NOT_FOUND) & (ranks <= k) for k in at}
    recall = {k: float(hits.mean()) if n else float("nan") for k, hits in found.items()}
    error = {k: float(np.sqrt(p * (1 - p) / n)) if n else float("nan") for k, p in recall.items()}
    return IdentityRecall(recall, error, n)
