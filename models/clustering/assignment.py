"""Nearest-center assignment: the one operation behind clustering and behind the cluster ID of a new item."""

from typing import Any, Literal, Protocol, get_args

import numpy as np

from models.clustering.cell_assigner import CellAssigner

Search = Literal["scann", "cells", "exact"]
SEARCHES: tuple[Search, ...] = get_args(Search)


class Assigner(Protocol):
    """Assigns points to their nearest center by Euclidean distance."""

    def assign(self, points: np.ndarray) -> np.ndarray:
        """Returns the center of each point: `(n, dim)` float32 to `(n,)` int32."""
        ...

    def reassign(self, points: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Like `assign`, for points whose centers were `ids`, int `(n,)`, before the centers moved: it may search less.

        What it returns, int32 `(n,)`, may not be the nearest center for a few points.
        """
        ...


def make_assigner(search: Search, centers: np.ndarray) -> Assigner:
    """Makes the assigner of a search.

    Args:
        search: `scann`, `cells` or `exact`.
        centers: float32, shape `(clusters, dim)`.
    """
    return {"scann": ScannAssigner, "cells": CellAssigner, "exact": ExactAssigner}[search](centers)


class ExactAssigner:
    """Compares every point with every center, in tiles, on whatever device Keras computes: the reference for others.

    Args:
        centers: float32, shape `(clusters, dim)`.
    """

    _TILE_POINTS = 1 << 11
    _TILE_CENTERS = 1 << 13

    def __init__(self, centers: np.ndarray) -> None:
        # Imported here: the others do without.
        from keras import ops

        self._ops = ops
        centers = np.asarray(centers, np.float32)
        half_norms = 0.5 * np.einsum("ij,ij->i", centers, centers)
        self._tiles: list[tuple[int, Any, Any]] = [
            (
                first,
                ops.convert_to_tensor(centers[first : first + self._TILE_CENTERS].T),
                ops.convert_to_tensor(half_norms[first : first + self._TILE_CENTERS]),
            )
            for first in range(0, len(centers), self._TILE_CENTERS)
        ]

    def assign(self, points: np.ndarray) -> np.ndarray:
        """Returns the center of each point: `(n, dim)` float32 to `(n,)` int32; ties go to the lower ID."""
        ids = np.empty(len(points), np.int32)
        for first in range(0, len(points), self._TILE_POINTS):
            tile = points[first : first + self._TILE_POINTS]
            # Padded to one shape: nothing is compiled anew, and a point's rounding does not depend on its tile.
            padded = np.zeros((self._TILE_POINTS, points.shape[1]), np.float32)
            padded[: len(tile)] = tile
            ids[first : first + len(tile)] = self._assign_tile(self._ops.convert_to_tensor(padded))[: len(tile)]
        return ids

    def reassign(self, points: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """`assign`: this search has no use for `ids`."""
        return self.assign(points)

    def _assign_tile(self, points: Any) -> np.ndarray:
        ops = self._ops
        nearest = smallest = None
        for first, centers, half_norms in self._tiles:
            # argmin |x - c|^2 = argmin |c|^2 / 2 - x.c
            distances = half_norms - ops.matmul(points, centers)
            here = ops.argmin(distances, axis=1)
            distance = ops.take_along_axis(distances, here[:, None], axis=1)[:, 0]
            here = ops.cast(here, "int32") + first
            if smallest is None:
                nearest, smallest = here, distance
            else:
                closer = distance < smallest
                nearest, smallest = ops.where(closer, here, nearest), ops.where(closer, distance, smallest)
        return ops.convert_to_numpy(nearest)


class ScannAssigner:
    """Searches the centers with ScaNN: exhaustively when they are few, else through a partitioned, quantised index.

    Args:
        centers: float32, shape `(clusters, dim)`.
    """

    _EXHAUSTIVE_BELOW = 10_000

    def __init__(self, centers: np.ndarray) -> None:
        # Imported here: its native library needs TensorFlow loaded, which only this search should cost.
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

    def reassign(self, points: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """`assign`: this search has no use for `ids`."""
        return self.assign(points)
