"""What a pass over the points adds up per cluster, exactly: in any order, over any number of workers."""

import math

import numpy as np

_EXACT_BITS = 53  # integers up to 2^53 are exact in float64
_ROWS = 1 << 13  # added at once; bounds the float64 copy


class ClusterSums:
    """Sums and counts of the points of each cluster.

    Coordinates are rounded to multiples of `step`, a power of two so small that no sum of `points` of them needs more
    than the 53 bits of a float64. Adding is then exact, hence associative: the sums do not depend on the order of the
    points, on blocks, or on how workers divided them. The rounding itself is about that of float32 for 1e8 points of
    unit length and far below it for fewer.

    Args:
        clusters: how many there are.
        dim: length of the points.
        points: how many points are added at most.
        largest: the largest absolute coordinate.

    Attributes:
        sums: float64 `(clusters, dim)`, in units of `step`.
        counts: int64 `(clusters,)`.
        squares: sum of the squared lengths of all points, of parts rounded likewise.
        step: the unit of `sums`.
    """

    def __init__(self, clusters: int, dim: int, *, points: int, largest: float) -> None:
        self.sums = np.zeros((clusters, dim), np.float64)
        self.counts = np.zeros(clusters, np.int64)
        self.squares = 0.0
        self.step = _step(max(points, 1) * (largest or 1.0))
        self._squares_step = _step(max(points, 1) * dim * (largest or 1.0) ** 2)

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Adds points.

        Args:
            ids: int `(n,)`, the cluster of each.
            vectors: float32 `(n, dim)`.
        """
        self.counts += np.bincount(ids, minlength=len(self.counts))
        # Points of one cluster side by side: a segment sum instead of one addition per point.
        order = np.argsort(ids, kind="stable")
        for first in range(0, len(order), _ROWS):
            some = order[first : first + _ROWS]
            exact = vectors[some].astype(np.float64)
            self.squares += round(float(np.vdot(exact, exact)) / self._squares_step) * self._squares_step
            exact *= 1 / self.step
            np.rint(exact, out=exact)
            clusters = ids[some]
            starts = np.flatnonzero(np.append(True, clusters[1:] != clusters[:-1]))
            self.sums[clusters[starts]] += np.add.reduceat(exact, starts, axis=0)

    def merge(self, other: "ClusterSums") -> None:
        """Adds what another worker has added up, with the same arguments."""
        if (self.step, self.sums.shape) != (other.step, other.sums.shape):
            raise ValueError(
                f"`other` must have step {self.step} and shape {self.sums.shape}. "
                f"Received: {other.step} and {other.sums.shape}"
            )
        self.sums += other.sums
        self.counts += other.counts
        self.squares += other.squares

    def means(self) -> np.ndarray:
        """The mean of each cluster: float64 `(clusters, dim)`, zeros where it is empty."""
        return self.sums * (self.step / np.maximum(self.counts, 1)[:, None])

    def mean_squared_distance(self, centers: np.ndarray) -> float:
        """Mean squared distance of the points to the centers of their clusters, float32 `(clusters, dim)`."""
        exact = centers.astype(np.float64)
        cross = self.step * float(np.vdot(exact, self.sums))
        own = float(self.counts @ np.einsum("ij,ij->i", exact, exact))
        return max(0.0, self.squares - 2 * cross + own) / max(1, int(self.counts.sum()))

    def imbalance(self) -> float:
        """How unequal the clusters are: their number times the sum of squared shares, 1 if all are of one size."""
        shares = self.counts / max(1, int(self.counts.sum()))
        return float(len(self.counts) * np.square(shares).sum())


def _step(bound: float) -> float:
    """A power of two of which sums up to a bound are exact multiples."""
    return 2.0 ** (math.ceil(math.log2(bound)) + 1 - _EXACT_BITS)
