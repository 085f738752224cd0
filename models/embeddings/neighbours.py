"""Nearest neighbours of items by their embeddings."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from models.embeddings.vectors import l2_normalize

Metric = Literal["euclidean", "cosine"]
METRICS: tuple[Metric, ...] = get_args(Metric)
_MAX_K = 1000  # far fewer than the items of the partitions that are searched


def largest_k(items_with_image: int) -> int:
    """The most neighbours that can be asked for: all other items, or 1000 of them."""
    return min(items_with_image - 1, _MAX_K)


class Nearest(NamedTuple):
    """The neighbours of some items, nearest first.

    Attributes:
        seeds: int64 `(n,)`, item rows whose neighbours these are.
        rows: int64 `(n, k)`, item rows of the neighbours.
        distances: float32 `(n, k)`: the Euclidean distance, or 1 - cosine.
    """

    seeds: np.ndarray
    rows: np.ndarray
    distances: np.ndarray


class Neighbours:
    """A ScaNN index over the embeddings of all items that have a picture.

    Few items are compared with all others, which is exact. Many are partitioned, scored by their quantised
    embeddings, and the best of them by the embeddings themselves. Distances are exact in both cases. Of items at the
    same distance the lower row comes first.

    Args:
        vectors: embeddings, float `(items, dim)` by item row; they may be memory-mapped. ScaNN keeps a float32 copy of
            the rows that count.
        has_image: bool, `(items,)`: which rows count. The others are nobody's neighbours.
        metric: `euclidean` or `cosine`.

    Raises:
        ValueError: a row is not finite, or is zero where the metric is the cosine.

    Reference: Guo et al., Accelerating large-scale inference with anisotropic vector quantization (2020); ScaNN's
    `docs/algorithms.md` for the sizes.
    """

    _EXHAUSTIVE_BELOW = 50_000
    _SPARE = 16  # neighbours beyond k that are put in exact order: ties at the end, and errors of the quantisation
    _BLOCK_ELEMENTS = 1 << 25  # of the differences of seeds and candidates held at once: 128 MB

    def __init__(self, vectors: np.ndarray, has_image: np.ndarray, metric: Metric = "euclidean") -> None:
        if metric not in METRICS:
            raise ValueError(f"`metric` must be one of {METRICS}. Received: {metric!r}")
        if vectors.ndim != 2 or has_image.shape != vectors.shape[:1]:
            raise ValueError(
                "`vectors` must have shape (items, dim) and `has_image` (items,). "
                f"Received: {vectors.shape} and {has_image.shape}"
            )
        self.metric = metric
        self._item_rows = np.flatnonzero(has_image)
        self._position = np.full(len(has_image), -1, np.int64)  # of an item row in the index
        self._position[self._item_rows] = np.arange(len(self._item_rows))
        if not len(self._item_rows):
            raise ValueError("`has_image` must be true for some item")
        vectors = np.ascontiguousarray(vectors[self._item_rows], np.float32)
        bad = ~np.isfinite(vectors).all(axis=1)
        if metric == "cosine":
            bad |= ~vectors.any(axis=1)
            vectors = l2_normalize(vectors)
        if bad.any():
            raise ValueError(
                f"`vectors` must be finite{' and not zero' if metric == 'cosine' else ''}. Received: "
                f"{bad.sum()} other rows, the first is row {self._item_rows[np.argmax(bad)]}"
            )
        self._vectors = vectors
        self._searcher = self._build()

    def blocks(self, seeds: np.ndarray, k: int) -> Iterator[Nearest]:
        """Looks up the neighbours of many items, some of them at a time.

        Args:
            seeds: int `(n,)`, rows of items that have a picture. An item is not its own neighbour.
            k: neighbours of each.

        Raises:
            ValueError: a seed has no picture, or `k` is above `largest_k` of these items.
        """
        seeds = np.asarray(seeds, np.int64)
        largest = largest_k(len(self._item_rows))
        if not 1 <= k <= largest:
            raise ValueError(f"`k` must be between 1 and {largest}. Received: {k}")
        outside = (seeds < 0) | (seeds >= len(self._position))
        missing = outside | (self._position[np.where(outside, 0, seeds)] < 0)
        if missing.any():
            raise ValueError(f"`seeds` must be rows of items with a picture. Received: {seeds[missing][0]}")
        block = max(1, self._BLOCK_ELEMENTS // ((k + 1 + self._SPARE) * self._vectors.shape[1]))
        for first in range(0, len(seeds), block):
            yield self._nearest(seeds[first : first + block], k)

    def search(self, seeds: np.ndarray, k: int) -> Nearest:
        """Looks up the neighbours of a few items; see `blocks`."""
        nothing = Nearest(np.zeros(0, np.int64), np.zeros((0, k), np.int64), np.zeros((0, k), np.float32))
        return Nearest(*map(np.concatenate, zip(nothing, *self.blocks(seeds, k), strict=True)))

    def _build(self) -> Any:
        # Imported here: its native library needs TensorFlow loaded, which only a search should cost.
        import scann

        n = len(self._vectors)
        builder = scann.scann_ops_pybind.builder(self._vectors, 1, "squared_l2")
        if n < self._EXHAUSTIVE_BELOW:
            return builder.score_brute_force().build()
        leaves = round(n**0.5)
        return (
            # ScaNN drops partitions with fewer *sampled* points than min_partition_size (50 by default), which would
            # put many items into the wrong partition: sample enough of them and drop none.
            builder.tree(leaves, leaves // 10, training_sample_size=min(n, 200 * leaves), min_partition_size=1)
            .score_ah(2)
            .reorder(100)
            .build()
        )

    def _nearest(self, seeds: np.ndarray, k: int) -> Nearest:
        positions = self._position[seeds]
        queries = self._vectors[positions]
        count = min(k + 1 + self._SPARE, len(self._item_rows))
        candidates, _ = self._searcher.search_batched_parallel(queries, count, max(100, 10 * count))
        candidates = candidates.astype(np.int64)
        # One difference per pair: unlike |x|^2 - 2xy + |y|^2, equal embeddings are at distance 0 exactly.
        squared = np.square(self._vectors[candidates] - queries[:, None]).sum(axis=2)
        squared[candidates == positions[:, None]] = np.inf  # the item itself, behind all others
        order = np.lexsort((candidates, squared))[:, :k]
        squared = np.take_along_axis(squared, order, axis=1)
        rows = self._item_rows[np.take_along_axis(candidates, order, axis=1)]
        return Nearest(seeds, rows, np.sqrt(squared) if self.metric == "euclidean" else squared / 2)
