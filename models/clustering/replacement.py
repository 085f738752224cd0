"""When all IDs are replaced: which new cluster takes the place of which old one."""

from typing import NamedTuple

import numpy as np
import pydantic


class ReplacedClusters(pydantic.BaseModel):
    """The clusters whose place new ones take; `replaced.npy` says which.

    Attributes:
        centers_sha256: digest of the old centers.
        num_clusters: how many there were.
        matched: new clusters that take the place of an old one.
        pictures: items with a picture whose new cluster takes the place of their old one.
        replaced_sha256: digest of `replaced.npy`.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    centers_sha256: str
    num_clusters: int
    matched: int
    pictures: int
    replaced_sha256: str


class Replacement(NamedTuple):
    """What new clusters replace.

    Attributes:
        old: int32 `(new clusters,)`, the old cluster whose place each takes, -1 for none.
        pictures: how many items keep their place.
        centers_sha256, num_clusters: of the old clusters.
    """

    old: np.ndarray
    pictures: int
    centers_sha256: str
    num_clusters: int


def match_clusters(new_ids: np.ndarray, old_ids: np.ndarray, num_new: int, num_old: int) -> np.ndarray:
    """Pairs new clusters with old ones, one to one, the pairs that share the most items first.

    Greedy, not the assignment that keeps the most items in sum: what has been learned of an ID should follow the bulk
    of its items, whatever that leaves to others; pairs that share items are at most as many as items, so that a hundred
    thousand clusters take seconds, for which the Hungarian method needs a matrix of 1e10. The items that it keeps are
    at least half as many as the best assignment would.

    Args:
        new_ids, old_ids: of the same items, `(items,)`; below 0 without one.
        num_new, num_old: how many clusters there are.

    Returns:
        int32 `(num_new,)`: the old cluster whose place each new one takes, -1 for none.
    """
    known = (new_ids >= 0) & (old_ids >= 0)
    pairs, shared = np.unique(new_ids[known].astype(np.int64) * num_old + old_ids[known], return_counts=True)
    new, old = np.divmod(pairs, num_old)
    order = np.argsort(-shared, kind="stable")  # of equal ones, the lower numbers first
    matched = np.full(num_new, -1, np.int32)
    taken = np.zeros(num_old, bool)
    for n in order.tolist():
        if matched[new[n]] < 0 and not taken[old[n]]:
            matched[new[n]] = old[n]
            taken[old[n]] = True
    return matched
