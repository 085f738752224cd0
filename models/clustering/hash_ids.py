"""Hash values of embeddings as IDs, which the paper tried and rejected."""

import numpy as np

from models.clustering.cluster_sums import ClusterSums
from models.clustering.kmeans import Clustering
from models.clustering.points import Points

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def hash_clusters(
    vectors: np.ndarray,
    present: np.ndarray,
    num_clusters: int,
    *,
    normalize: bool = False,
    seed: int = 0,
    centers: np.ndarray | None = None,
) -> Clustering:
    """Takes the hash value of each vector for the ID of its cluster.

    Equal vectors have equal IDs, and all others have one by chance, however near they are.

    Args:
        vectors: float16 or float32 `(rows, dim)`, hashed as they are; may be a memory map.
        present: bool `(rows,)`, rows that take part.
        num_clusters: number of IDs.
        normalize: whether vectors are scaled to unit length before centers are taken.
        seed: of the hash.
        centers: float32 `(num_clusters, dim)` of an earlier call; unset: the means of the vectors, zeros where there
            are none.

    Raises:
        ValueError: a vector is not finite.

    Reference: the paper's appendix B: hash values as IDs "cannot retain semantic relationships". Which hash it had is
    not told.
    """
    as_they_are, points = Points(vectors, present), Points(vectors, present, normalize=normalize)
    ids = np.full(len(vectors), -1, np.int32)
    sums = ClusterSums(num_clusters, points.dim, points=points.count, largest=points.largest())
    for block in points.blocks():
        rows = points.rows_of(block)
        ids[rows] = hash_ids(as_they_are.read(rows), num_clusters, seed)
        sums.add(ids[rows], points.read(rows))
    if centers is None:
        centers = sums.means().astype(np.float32)
    return Clustering(centers, ids, sums.mean_squared_distance(centers), int((sums.counts == 0).sum()))


def hash_ids(vectors: np.ndarray, num_ids: int, seed: int = 0) -> np.ndarray:
    """Hashes vectors, float32 `(n, dim)`, into int32 `(n,)` in `[0, num_ids)`: splitmix64 of all bits."""
    bits = (vectors + np.float32(0)).view(np.uint32).astype(np.uint64)  # -0 is 0
    hashes = np.full(len(vectors), seed, np.uint64)
    for column in bits.T:
        hashes = (hashes ^ column) + _GOLDEN
        hashes = (hashes ^ (hashes >> np.uint64(30))) * _MIX[0]
        hashes = (hashes ^ (hashes >> np.uint64(27))) * _MIX[1]
        hashes ^= hashes >> np.uint64(31)
    return (hashes % np.uint64(num_ids)).astype(np.int32)
