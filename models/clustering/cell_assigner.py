"""Nearest-center assignment of many points at once, by matrix products small enough to be worth it."""

from typing import NamedTuple

import numpy as np

from models.clustering.cluster_sums import ClusterSums

_EXHAUSTIVE_BELOW = 4096  # centers
_CELLS = 3.16  # times the square root of the number of centers: 1,000 cells of 1e5 centers
_CELL_PASSES = 8
_CENTERS_PER_CELL = 32  # of those that the cells are learned on
_COMPARED_IN_FULL = 4
_NEIGHBOURING_CELLS = 32  # in which a point that has a center looks for a nearer one
_DISTANCES = 1 << 21  # held at once: 8 MB


class _Cell(NamedTuple):
    members: np.ndarray  # int32 (n,), ascending
    vectors: np.ndarray  # float32 (reduced dim, n), the members in the principal subspace
    half_norms: np.ndarray  # float32 (n,), of the members in full


class CellAssigner:
    """Divides the centers into cells and compares a point with those of its nearest cells only.

    Built for passes over many points. The points of a block that look into the same cell do so together, in one matrix
    product, which a per-point index cannot. Cells are searched in the principal subspace of the centers, where most of
    what tells them apart needs few dimensions. The best center found is then improved upon in the cells around its own,
    and the few best ones are compared in full.

    A pass of k-means that follows another knows where each point was. `reassign` then leaves out the way to the
    nearest cells: it looks in the cells around that of the center the point had.

    With fewer than 4,096 centers there is one cell and nothing is reduced: the search is exact.

    Args:
        centers: float32, shape `(clusters, dim)`.
        probes: number of nearest cells that are searched.
        variance: share of the centers' variance that the subspace keeps.
    """

    def __init__(self, centers: np.ndarray, probes: int = 32, variance: float = 0.999) -> None:
        if probes < 1:
            raise ValueError(f"`probes` must be at least 1. Received: {probes}")
        if not 0 < variance <= 1:
            raise ValueError(f"`variance` must be in (0, 1]. Received: {variance}")
        # Centered, so that a product of two vectors is small where it has to be exact.
        self._mean = centers.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._centers = centers.astype(np.float32) - self._mean
        self._half_norms = _half_norms(self._centers)
        self._basis = None  # of the subspace, (dim, reduced dim)
        self._cell_centers = np.zeros((1, centers.shape[1]), np.float32)
        reduced, cell = self._centers, np.zeros(len(centers), np.int64)
        if len(centers) >= _EXHAUSTIVE_BELOW:
            self._basis = _principal_basis(self._centers, variance)
            reduced = self._centers @ self._basis
            self._cell_centers = _learn_cells(reduced, round(_CELLS * len(centers) ** 0.5))
            cell = _nearest(reduced, self._cell_centers, 1)[:, 0]
        self._cell_of_center = cell
        self._probes = min(probes, len(self._cell_centers))
        self._cells = [
            _Cell(members.astype(np.int32), np.ascontiguousarray(reduced[members].T), self._half_norms[members])
            for members in _grouped(cell, len(self._cell_centers))
        ]
        nearest = _nearest(self._cell_centers, self._cell_centers, min(_NEIGHBOURING_CELLS, len(self._cells)))
        self._around = [np.unique([own, *cells]) for own, cells in enumerate(nearest)]  # of equal cells, its own too

    def assign(self, points: np.ndarray) -> np.ndarray:
        """Returns the center of each point: `(n, dim)` float32 to `(n,)` int32."""
        points = points - self._mean
        if self._basis is None:
            return self._best_of_cells(points)[0][:, 0]
        reduced = points @ self._basis
        best, distances = self._best_of_cells(reduced)
        kept = min(_COMPARED_IN_FULL, self._probes)
        if kept < self._probes:
            closest = np.argpartition(distances, kept - 1, axis=1)[:, :kept]
            best, distances = (np.take_along_axis(values, closest, axis=1) for values in (best, distances))
        nearest = best[np.arange(len(best)), np.argmin(distances, axis=1)]
        around = self._best_around(reduced, nearest)
        return self._nearest_in_full(points, np.concatenate([best, around[:, None]], axis=1))

    def reassign(self, points: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Returns a center of each point at least as near, in the subspace, as the one it had.

        Args:
            points: float32 `(n, dim)`.
            ids: int `(n,)`, a center of each, best the nearest when the centers were a little elsewhere.

        Returns:
            int32 `(n,)`: the nearest center in the cells around. It is the nearest of all for almost every point; what
            is final should come from `assign`.
        """
        if self._basis is None:
            return self.assign(points)
        return self._best_around((points - self._mean) @ self._basis, ids)

    def _best_around(self, points: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """The nearest center, in the subspace, of the cells around that of another center: int32 `(n,)`."""
        best = np.empty(len(points), np.int32)
        in_cell = _grouped(self._cell_of_center[ids], len(self._cells))
        for rows, around in zip(in_cell, self._around, strict=True):
            if len(rows):
                # Joined when needed: all at once would be many times the centers.
                members, vectors, half_norms = zip(*(self._cells[cell] for cell in around), strict=True)
                joined = _Cell(np.concatenate(members), np.concatenate(vectors, axis=1), np.concatenate(half_norms))
                best[rows], _ = _best_member(points[rows], joined)
        return best

    def _nearest_in_full(self, points: np.ndarray, centers: np.ndarray) -> np.ndarray:
        """The nearest of a few centers, int32 `(n, few)`, in all dimensions."""
        distances = np.empty(centers.shape, np.float32)
        for column, chosen in enumerate(centers.T):
            products = np.einsum("ij,ij->i", points, self._centers[chosen])
            np.subtract(self._half_norms[chosen], products, out=distances[:, column])
        return centers[np.arange(len(centers)), np.argmin(distances, axis=1)]

    def _best_of_cells(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best center of each of the nearest cells.

        Args:
            points: float32 `(n, reduced dim)`.

        Returns:
            Centers, int32 `(n, probes)`, and half their squared distances less what is the same for all centers,
            float32 `(n, probes)`, infinite for a cell without centers.
        """
        probed = _nearest(points, self._cell_centers, self._probes)
        best = np.zeros(probed.size, np.int32)
        distances = np.full(probed.size, np.inf, np.float32)
        for cell, pairs in zip(self._cells, _grouped(probed.ravel(), len(self._cells)), strict=True):
            if len(cell.members) and len(pairs):
                best[pairs], distances[pairs] = _best_member(points[pairs // self._probes], cell)
        return best.reshape(probed.shape), distances.reshape(probed.shape)


def _best_member(points: np.ndarray, cell: _Cell) -> tuple[np.ndarray, np.ndarray]:
    """The nearest member of a cell, int32 `(n,)`, and half its squared distance less half the point's squared norm."""
    best, distances = np.empty(len(points), np.int32), np.empty(len(points), np.float32)
    block = max(1, _DISTANCES // len(cell.members))
    for first in range(0, len(points), block):
        distance = points[first : first + block] @ cell.vectors
        np.subtract(cell.half_norms, distance, out=distance)
        nearest = np.argmin(distance, axis=1)
        best[first : first + block] = cell.members[nearest]
        distances[first : first + block] = distance[np.arange(len(nearest)), nearest]
    return best, distances


def _half_norms(vectors: np.ndarray) -> np.ndarray:
    return 0.5 * np.einsum("ij,ij->i", vectors, vectors)


def _grouped(group: np.ndarray, groups: int) -> list[np.ndarray]:
    """The positions of each group's values, ascending."""
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(1, groups))
    return np.split(order, bounds)


def _nearest(points: np.ndarray, centers: np.ndarray, count: int) -> np.ndarray:
    """Some `count` near centers of each point, `(n, count)`, in no order; the nearest is among them.

    The centers are divided into four times as many groups by their number, and of each group only the nearest counts:
    sorting out a few is many times cheaper than sorting out all, and those that are lost are seldom the first ones.
    """
    if len(centers) == count:
        return np.broadcast_to(np.arange(count), (len(points), count))
    groups = min(len(centers), 1 if count == 1 else 4 * count)
    in_group = -(-len(centers) // groups)
    missing = groups * in_group - len(centers)
    transposed = np.pad(np.ascontiguousarray(centers.T), [(0, 0), (0, missing)])
    half_norms = np.pad(_half_norms(centers), (0, missing), constant_values=np.inf)
    nearest = np.empty((len(points), count), np.int64)
    block = max(1, _DISTANCES // len(half_norms))
    for first in range(0, len(points), block):
        distance = points[first : first + block] @ transposed
        np.subtract(half_norms, distance, out=distance)
        grouped = distance.reshape(len(distance), groups, in_group)
        found = np.argmin(grouped, axis=2)
        if groups > count:
            smallest = np.take_along_axis(grouped, found[..., None], axis=2)[..., 0]
            chosen = np.argpartition(smallest, count - 1, axis=1)[:, :count]
            found = chosen * in_group + np.take_along_axis(found, chosen, axis=1)
        nearest[first : first + block] = found
    return nearest


def _principal_basis(centered: np.ndarray, variance: float) -> np.ndarray:
    """The directions that keep a share of the variance, largest first: float32 `(dim, reduced dim)`."""
    values, vectors = np.linalg.eigh(centered.T.astype(np.float64) @ centered)
    kept = np.cumsum(values[::-1]) / max(values.sum(), 1e-300)
    dim = min(len(values), int(np.searchsorted(kept, variance)) + 1)
    return np.ascontiguousarray(vectors[:, ::-1][:, :dim]).astype(np.float32)


def _learn_cells(vectors: np.ndarray, cells: int) -> np.ndarray:
    """k-means on evenly spaced vectors; a cell that loses all of them stays where it was."""
    vectors = vectors[:: max(1, len(vectors) // (_CENTERS_PER_CELL * cells))]
    centers = vectors[np.linspace(0, len(vectors) - 1, cells).astype(np.int64)]
    largest = float(np.abs(vectors).max())
    for _ in range(_CELL_PASSES):
        sums = ClusterSums(cells, vectors.shape[1], points=len(vectors), largest=largest)
        sums.add(_nearest(vectors, centers, 1)[:, 0], vectors)
        centers = np.where(sums.counts[:, None] > 0, sums.means(), centers).astype(np.float32)
    return centers
