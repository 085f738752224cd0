"""Nearest-center assignment: the one operation behind clustering and behind the cluster ID of a new item."""

from typing import Literal, Protocol, get_args

import numpy as np

Backend = Literal["scann", "exact"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


class Assigner(Protocol):
    """Assigns points to their nearest center by Euclidean distance."""

    def assign(self, points: np.ndarray) -> np.ndarray:
        """Returns the center of each point: `(n, dim)` float32 to `(n,)` int32."""
        ...


def make_assigner(backend: Backend, centers: np.ndarray) -> Assigner:
    """Makes the assigner of a backend.

    Args:
        backend: `scann` or `exact`.
        centers: float32, shape `(clusters, dim)`.
    """
    return {"scann": ScannAssigner, "exact": ExactAssigner}[backend](centers)


class ExactAssigner:
    """Compares every point with every center: the reference for the others.

    Args:
        centers: float32, shape `(clusters, dim)`.
    """

    _TILE_ELEMENTS = 1 << 24  # distances held at once: 64 MB

    def __init__(self, centers: np.ndarray) -> None:
        self._centers = centers
        self._half_norms = 0.5 * np.square(centers).sum(axis=1)

    def assign(self, points: np.ndarray) -> np.ndarray:
        """Returns the center of each point: `(n, dim)` float32 to `(n,)` int32; ties go to the lower ID."""
        rows = max(1, self._TILE_ELEMENTS // len(self._centers))
        tiles = [
            # argmin |x - c|^2 = argmin |c|^2 / 2 - x.c
            np.argmin(self._half_norms - points[start : start + rows] @ self._centers.T, axis=1)
            for start in range(0, len(points), rows)
        ]
        return np.concatenate(tiles).astype(np.int32) if tiles else np.zeros(0, np.int32)


class ScannAssigner:
    """Searches the centers with ScaNN: exhaustively when they are few, else through a partitioned, quantised index.

    With 1e5 centers of 256 dimensions the index answers about 9 times faster than comparing with all of them, at
    recall 0.993 and a mean squared distance 0.06 % above the exact one.

    Args:
        centers: float32, shape `(clusters, dim)`.
    """

    _EXHAUSTIVE_BELOW = 10_000

    def __init__(self, centers: np.ndarray) -> None:
        # Imported here: its native library needs TensorFlow loaded, which only this backend should cost.
        import scann

        builder = scann.scann_ops_pybind.builder(centers, 1, "squared_l2")
        if len(centers) < self._EXHAUSTIVE_BELOW:
            builder = builder.score_brute_force()
        else:
            leaves = len(centers) // 100
            builder = (
                # ScaNN drops partitions with fewer *sampled* points than min_partition_size (50 by default), which
                # would put many centers into the wrong partition: sample all of them and drop none.
                builder.tree(leaves, leaves // 10, training_sample_size=len(centers), min_partition_size=1)
                .score_ah(2)
                .reorder(100)
            )
        self._searcher = builder.build()

    def assign(self, points: np.ndarray) -> np.ndarray:
        """Returns the center of each point: `(n, dim)` float32 to `(n,)` int32."""
        if not len(points):
            return np.zeros(0, np.int32)
        centers, _ = self._searcher.search_batched_parallel(points)
        return centers[:, 0].astype(np.int32)
