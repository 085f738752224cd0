"""k-means over embeddings that are read in blocks."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from models.embeddings.assignment import Backend, make_assigner


class Clustering(NamedTuple):
    """The result of k-means.

    Attributes:
        centers: float32, shape `(clusters, dim)`.
        ids: int32, shape `(points,)`: the nearest center of each point, as the backend finds it.
        mean_squared_distance: of the points to their centers.
    """

    centers: np.ndarray
    ids: np.ndarray
    mean_squared_distance: float


class KMeans:
    """Lloyd's algorithm with a pluggable nearest-center search and exact float64 updates.

    The start is a uniform sample of distinct points. A cluster that loses all its points is placed beside the center
    of a large one, drawn with probability proportional to its size minus one, so that both share its points.

    Args:
        num_clusters: number of centers.
        backend: `scann` or `exact`.
        max_passes: largest number of passes over the points.
        tolerance: stop when a pass lowers the mean squared distance by less than this fraction.
        seed: of the start and of the splits.
        block_rows: points held in memory at once; the result does not depend on it.

    Reference: the paper's appendix B clusters embeddings with Euclidean distance (equations 9 and 10).
    """

    _SPLIT_OFFSET = 1 / 1024

    def __init__(
        self,
        num_clusters: int,
        *,
        backend: Backend = "scann",
        max_passes: int = 25,
        tolerance: float = 1e-4,
        seed: int = 0,
        block_rows: int = 1 << 18,
    ) -> None:
        if num_clusters < 1:
            raise ValueError(f"`num_clusters` must be at least 1. Received: num_clusters={num_clusters}")
        self.num_clusters = num_clusters
        self.backend = backend
        self.max_passes = max_passes
        self.tolerance = tolerance
        self.seed = seed
        self.block_rows = block_rows

    def fit(self, points: np.ndarray, on_pass: Callable[[int, float, float, int], None] | None = None) -> Clustering:
        """Clusters the points.

        Args:
            points: float32, shape `(n, dim)`; may be a memory map.
            on_pass: called after each pass with its number (from 1), the mean squared distance, the share of points
                that changed their center, and the number of empty clusters that were split.

        Raises:
            ValueError: there are fewer points than clusters, or a point is not finite.
        """
        if len(points) < self.num_clusters:
            raise ValueError(f"`num_clusters` is {self.num_clusters}, but there are only {len(points)} points")
        for start, block in self._blocks(points):
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                raise ValueError(f"`points` must be finite. Row {start + int(np.argmin(finite))} is not")

        rng = np.random.default_rng(self.seed)
        start_rows = np.sort(rng.choice(len(points), self.num_clusters, replace=False))
        centers = np.asarray(points[start_rows], np.float32)
        ids, before = None, np.inf
        for number in range(1, self.max_passes + 1):
            new_ids, sums, counts, distance = self._assign_all(points, centers)
            moved = 1.0 if ids is None else float(np.mean(new_ids != ids))
            ids = new_ids
            empty = int((counts == 0).sum())
            if on_pass is not None:
                on_pass(number, distance, moved, empty)
            converged = not empty and before - distance <= self.tolerance * distance
            if converged or number == self.max_passes:
                break
            before = distance
            centers = self._update(sums, counts, rng)
        return Clustering(centers, ids, distance)

    def _assign_all(self, points: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        assigner = make_assigner(self.backend, centers)
        ids = np.empty(len(points), np.int32)
        sums = np.zeros(centers.shape, np.float64)
        distance = 0.0
        for start, block in self._blocks(points):
            nearest = assigner.assign(block)
            ids[start : start + len(block)] = nearest
            # Points of equal center side by side: one exact segment sum instead of one addition per point.
            order = np.argsort(nearest, kind="stable")
            present, first = np.unique(nearest[order], return_index=True)
            sums[present] += np.add.reduceat(block[order].astype(np.float64), first, axis=0)
            distance += float(np.square(block - centers[nearest], dtype=np.float64).sum())
        counts = np.bincount(ids, minlength=len(centers))
        return ids, sums, counts, distance / len(points)

    def _update(self, sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        centers = sums / np.maximum(counts, 1)[:, None]
        for empty in np.flatnonzero(counts == 0):
            weights = np.maximum(counts - 1, 0)
            donor = rng.choice(len(counts), p=weights / weights.sum())
            sign = np.where(np.arange(centers.shape[1]) % 2, 1.0, -1.0)
            centers[empty] = centers[donor] * (1 + sign * self._SPLIT_OFFSET)
            centers[donor] *= 1 - sign * self._SPLIT_OFFSET
            counts[empty], counts[donor] = counts[donor] // 2, counts[donor] - counts[donor] // 2
        return centers.astype(np.float32)

    def _blocks(self, points: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(points), self.block_rows):
            yield start, np.ascontiguousarray(points[start : start + self.block_rows], np.float32)
