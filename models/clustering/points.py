"""Embeddings as clustering reads them: in blocks, unit length if wanted, and in samples that need no list of rows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from models.embeddings.vectors import l2_normalize

LARGEST_BLOCK, SMALLEST_BLOCK = 1 << 16, 1 << 12
"""Bounds of the rows in memory at once, for each worker: the blocks of small files are small, so that all get some."""
_LEAST_LENGTH, _LARGEST = 1e-12, 1e15  # whose squares float32 holds
_LEAST_RESIDUAL = 1e-5  # of the vector before; what is shorter is rounding, which must not be scaled up

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Share(NamedTuple):
    """Which rows take part: those whose hash, drawn by `seed`, lies in `[low, high)` of the unit interval."""

    low: float = 0.0
    high: float = 1.0
    seed: int = 0


ALL_ROWS = Share()


class Level(NamedTuple):
    """A clustering whose residuals are the points of the next level.

    Attributes:
        centers: float32 `(clusters, dim)`.
        ids: int32 `(rows,)`, the center of each row; anything for rows that take no part.
    """

    centers: np.ndarray
    ids: np.ndarray


class Points:
    """Vectors in a file, or in memory, that are read block by block.

    A row belongs to a sample or does not by a hash of its number. So a larger sample contains a smaller one, disjoint
    shares are disjoint samples, and neither depends on how the rows are divided into blocks.

    Args:
        vectors: float16 or float32 `(rows, dim)`; may be a memory map.
        present: bool `(rows,)`, rows that take part; `None` for all.
        normalize: whether vectors are scaled to unit length when they are read, so that Euclidean order is cosine
            order (equation 10). Zero vectors stay zero.
        levels: clusterings whose residuals are read: after each level a vector less its center, scaled likewise; zero
            where it is its center.
        block_rows: rows of the file that are read at once; unset, a 16th of them within bounds.

    Attributes:
        rows: of the file.
        dim: length of the vectors.
        count: number of rows that take part.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        present: np.ndarray | None = None,
        *,
        normalize: bool = False,
        levels: Sequence[Level] = (),
        block_rows: int | None = None,
    ) -> None:
        if vectors.ndim != 2:
            raise ValueError(f"`vectors` must have two axes, rows and dimensions. Received: shape {vectors.shape}")
        if present is not None and present.shape != vectors.shape[:1]:
            raise ValueError(f"`present` must have a flag per row, {vectors.shape[:1]}. Received: {present.shape}")
        if block_rows is None:
            block_rows = min(max(len(vectors) // 16, SMALLEST_BLOCK), LARGEST_BLOCK)
        if block_rows < 1:
            raise ValueError(f"`block_rows` must be at least 1. Received: {block_rows}")
        self._vectors = vectors
        self._present = present
        self._normalize = normalize
        self._levels = levels
        self.block_rows = block_rows
        self.rows, self.dim = vectors.shape
        self.count = self.rows if present is None else int(np.count_nonzero(present))

    def blocks(self) -> Sequence[int]:
        """The first row of each block."""
        return range(0, self.rows, self.block_rows)

    def rows_of(self, block: int, share: Share = ALL_ROWS) -> np.ndarray:
        """The rows of a block that take part and belong to a share: int64 `(n,)`, ascending."""
        rows = np.arange(block, min(block + self.block_rows, self.rows))
        keep = np.ones(len(rows), bool) if self._present is None else self._present[block : block + self.block_rows]
        if share != ALL_ROWS:
            hashes = _unit_hashes(rows, share.seed)
            keep = keep & (hashes >= share.low) & (hashes < share.high)
        return rows[keep]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of ascending rows: float32 `(n, dim)`, a copy."""
        vectors = np.empty((len(rows), self.dim), np.float32)
        start = 0
        while start < len(rows):
            # No more than a block is mapped at once: what a map of a file has touched, and the pages around that,
            # count as memory until the map is gone.
            first = int(rows[start])
            stop = int(np.searchsorted(rows, first + self.block_rows))
            mapped = self._mapped(first, int(rows[stop - 1]) + 1)
            vectors[start:stop] = mapped if len(mapped) == stop - start else mapped[rows[start:stop] - first]
            start = stop
        if self._normalize:
            _scale(vectors)
        for level in self._levels:
            before = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
            vectors -= level.centers[level.ids[rows]]
            vectors[np.sqrt(np.einsum("ij,ij->i", vectors, vectors)) <= _LEAST_RESIDUAL * before] = 0
            if self._normalize:
                _scale(vectors)
        return vectors

    def sample(self, count: int, seed: int = 0) -> np.ndarray:
        """A uniform sample without repetition: rows int64 `(count,)`, ascending."""
        rows = np.zeros(0, np.int64)
        hashes = np.zeros(0)
        for block in self.blocks():
            new = self.rows_of(block)
            rows, hashes = np.concatenate([rows, new]), np.concatenate([hashes, _unit_hashes(new, seed)])
            if len(rows) > count:
                smallest = np.argpartition(hashes, count - 1)[:count]
                rows, hashes = rows[smallest], hashes[smallest]
        return np.sort(rows)

    def largest(self) -> float:
        """The largest absolute value of all vectors.

        Raises:
            ValueError: a vector is not finite, or too large for distances of float32; its row is named.
        """
        largest = 0.0
        for block in self.blocks():
            rows = self.rows_of(block)
            vectors = self.read(rows)
            finite = np.isfinite(vectors).all(axis=1)
            if not finite.all():
                raise ValueError(f"vectors must be finite. Row {rows[int(np.argmin(finite))]} is not")
            of_rows = np.abs(vectors).max(axis=1, initial=0.0)
            if (of_rows >= _LARGEST).any():
                row = rows[int(np.argmax(of_rows))]
                raise ValueError(f"vectors must be below {_LARGEST:g}: float32 holds no distances of row {row}")
            largest = max(largest, float(of_rows.max(initial=0.0)))
        return largest

    def _mapped(self, first: int, last: int) -> np.ndarray:
        """A range of rows; of a file, a map of its own."""
        vectors = self._vectors
        if not isinstance(vectors, np.memmap):
            return vectors[first:last]
        assert vectors.filename is not None
        offset = vectors.offset + first * self.dim * vectors.itemsize
        return np.memmap(vectors.filename, vectors.dtype, "r", offset, (last - first, self.dim))


def _scale(vectors: np.ndarray) -> None:
    """Scales vectors to unit length, in place; zeros stay zeros, and what is not finite stays so."""
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused by `largest`
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        extreme = ~((lengths > _LEAST_LENGTH) & (lengths < _LARGEST)) & vectors.any(axis=1)
        unit = l2_normalize(vectors[extreme]) if extreme.any() else None  # float32 squares would not do
        vectors /= np.maximum(lengths, _LEAST_LENGTH)[:, None]
    if unit is not None:
        vectors[extreme] = unit


def _unit_hashes(rows: np.ndarray, seed: int) -> np.ndarray:
    """Hashes of rows in `[0, 1)`: splitmix64 of their numbers."""
    x = (rows.astype(np.uint64) + np.uint64(seed) * np.uint64(1 << 40) + np.uint64(1)) * _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
