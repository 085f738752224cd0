"""k-means over embeddings that are read in blocks."""

import itertools
import math
import os
import time
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np

from models.clustering.assignment import Search, make_assigner
from models.clustering.assignment_pass import NOT_ASSIGNED, assignment_pass
from models.clustering.cluster_sums import ClusterSums
from models.clustering.points import ALL_ROWS, Points, Share

Schedule = Literal["passes", "single_pass"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)

_SPLIT_OFFSET = 1 / 1024
_FIRST_SAMPLE = 32  # points per cluster; with fewer, passes over all points end visibly worse
_FIRST_OF_SINGLE_PASS = 8  # points per cluster; with more, centers move too seldom


class Clustering(NamedTuple):
    """The result of clustering.

    Attributes:
        centers: float32, shape `(clusters, dim)`.
        ids: int32, shape `(rows,)` by row of the points: the nearest center as the search finds it, -1 for rows that
            take no part. Assigning the points to the centers again gives the same IDs.
        mean_squared_distance: of the points to their centers.
        empty: number of clusters without a point, which only many equal points or very few passes leave.
    """

    centers: np.ndarray
    ids: np.ndarray
    mean_squared_distance: float
    empty: int


class Pass(NamedTuple):
    """What a pass over the points found.

    Attributes:
        number: of the pass, from 1.
        points: how many took part.
        mean_squared_distance: of these to the centers before the update.
        moved: share of these that changed their center.
        empty: clusters without any of them, which were split off large ones.
        imbalance: `ClusterSums.imbalance`.
        seconds: that it took.
    """

    number: int
    points: int
    mean_squared_distance: float
    moved: float
    empty: int
    imbalance: float
    seconds: float


class PassState(NamedTuple):
    """Where a clustering is between two passes, all that it needs to go on.

    Attributes:
        number: passes done.
        centers: for the next pass, float32 `(clusters, dim)`.
        ids: `Clustering.ids` of the passes so far.
        mean_squared_distance: of the last pass, infinite if it was not over all points.
        converged: whether these centers are final and only the last pass is left.
    """

    number: int
    centers: np.ndarray
    ids: np.ndarray
    mean_squared_distance: float
    converged: bool


class KMeans:
    """Lloyd's algorithm with a pluggable nearest-center search and exact updates, on growing samples first.

    The start is a uniform sample of points. Two schedules follow:

    - `passes`: the first passes run over nested samples, each twice as large as the one before, from 32 points per
      cluster on. They move centers most of the way at a fraction of the cost. Passes over all points follow until one
      gains too little. All but the first of them may search less (`Assigner.reassign`); a final pass searches in full
      and only assigns.
    - `single_pass`: for more points than there is time for. The samples are disjoint, the last one holds half of all
      points, and a final pass only assigns, so that every point is read twice in all. Coordinates of the new centers
      that are nearer to zero than a threshold become zero (soft thresholding); the threshold falls by the square root
      of two from sample to sample, as the error of a mean does. 0 makes the update a plain mean: it is meant for
      sparse centers, and those of image embeddings are not. This is our reading of Yi et al., of whom only the
      abstract was at hand; their update rule may differ.

    A cluster that loses all its points is placed beside the center of a large one, drawn with probability proportional
    to its size minus one, so that both share its points.

    Points are never all in memory, and the result depends on the points and the seed alone: not on the number of
    workers, and on the size of blocks only where two centers are equally near up to float32 rounding.

    Args:
        num_clusters: number of centers.
        search: how the nearest center is found: `scann`, `cells` or `exact`.
        schedule: `passes` or `single_pass`.
        spherical: whether centers are scaled to unit length, as the points may be.
        threshold: of the first sample of a single pass.
        max_passes: largest number of passes over all points, of `passes`, the last one included.
        tolerance: stop when such a pass lowers the mean squared distance by less than this fraction.
        seed: of the start, the samples and the splits.
        workers: threads, each with a block of points and the sums of all clusters in memory; as many as cores if unset.

    Reference: COURIER, appendix B, clusters by Euclidean distance (equations 9 and 10) with the algorithm of Yi, Zhang,
    Wang, Jin and Jain, "A single-pass algorithm for efficiently recovering sparse cluster centers of high-dimensional
    data", ICML 2014. Nested samples: Newling and Fleuret, "Nested mini-batch k-means", NIPS 2016.
    """

    def __init__(
        self,
        num_clusters: int,
        *,
        search: Search = "scann",
        schedule: Schedule = "passes",
        spherical: bool = False,
        threshold: float = 0.0,
        max_passes: int = 25,
        tolerance: float = 1e-4,
        seed: int = 0,
        workers: int | None = None,
    ) -> None:
        for name, value in (("num_clusters", num_clusters), ("max_passes", max_passes)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {value}")
        if schedule not in SCHEDULES:
            raise ValueError(f"`schedule` must be one of {SCHEDULES}. Received: {schedule!r}")
        if threshold < 0:
            raise ValueError(f"`threshold` must not be negative. Received: {threshold}")
        self.num_clusters = num_clusters
        self.search = search
        self.schedule = schedule
        self.spherical = spherical
        self.threshold = threshold
        self.max_passes = max_passes
        self.tolerance = tolerance
        self.seed = seed
        self.workers = workers or len(os.sched_getaffinity(0))

    def fit(
        self,
        points: Points,
        *,
        on_rows: Callable[[int], object] = lambda rows: None,
        on_pass: Callable[[Pass], object] = lambda _: None,
        state: PassState | None = None,
        on_state: Callable[[PassState], object] = lambda _: None,
    ) -> Clustering:
        """Clusters the points.

        Args:
            points: what to cluster.
            on_rows: called with a number of points that have been assigned, for a progress bar.
            on_pass: called after each pass.
            state: from `on_state` of an interrupted clustering of the same points; the result is as if it had gone on.
            on_state: called after each pass but the last.

        Raises:
            ValueError: there are fewer points than clusters, or a point is not finite.
        """
        if points.count < self.num_clusters:
            raise ValueError(f"`num_clusters` is {self.num_clusters}, but there are only {points.count} points")
        largest = points.largest()
        if state is None:
            start = self._scaled(points.read(points.sample(self.num_clusters, self.seed)))
            state = PassState(0, start, np.full(points.rows, NOT_ASSIGNED, np.int32), np.inf, False)
        samples = growing_samples(points.count, self.num_clusters, self.seed, disjoint=self.schedule == "single_pass")
        last = len(samples) + (1 if self.schedule == "single_pass" else self.max_passes)
        number, centers, ids, before, converged = state
        while True:
            number += 1
            began = time.monotonic()
            all_points = number > len(samples)
            final = converged or number == last
            sums, moved = assignment_pass(
                points,
                make_assigner(self.search, centers),
                ids,
                clusters=self.num_clusters,
                largest=largest,
                workers=self.workers,
                share=ALL_ROWS if all_points else samples[number - 1],
                again=number > len(samples) + 1 and not final,
                on_rows=on_rows,
            )
            distance = sums.mean_squared_distance(centers)
            empty = int((sums.counts == 0).sum())
            taken = time.monotonic() - began
            on_pass(Pass(number, int(sums.counts.sum()), distance, moved, empty, sums.imbalance(), taken))
            if final:
                return Clustering(centers, ids, distance, empty)
            centers = self._update(sums, number)
            if all_points:
                converged = not empty and before - distance <= self.tolerance * distance
                before = distance
            on_state(PassState(number, centers, ids, before, converged))

    def _update(self, sums: ClusterSums, number: int) -> np.ndarray:
        """The centers for the pass after number `number`."""
        rng = np.random.default_rng([self.seed, number])
        centers, counts = sums.means(), sums.counts.copy()
        threshold = self.threshold * 2 ** (-(number - 1) / 2)
        centers = np.sign(centers) * np.maximum(np.abs(centers) - threshold, 0.0)
        for empty in np.flatnonzero(counts == 0):
            weights = np.maximum(counts - 1, 0)
            if not weights.any():
                break  # every point has a cluster of its own: nothing to split
            donor = rng.choice(len(counts), p=weights / weights.sum())
            sign = np.where(np.arange(centers.shape[1]) % 2, 1.0, -1.0)
            centers[empty] = centers[donor] * (1 + sign * _SPLIT_OFFSET)
            centers[donor] *= 1 - sign * _SPLIT_OFFSET
            counts[empty], counts[donor] = counts[donor] // 2, counts[donor] - counts[donor] // 2
        return self._scaled(centers)

    def _scaled(self, centers: np.ndarray) -> np.ndarray:
        if self.spherical:
            centers = centers / np.maximum(np.linalg.norm(centers, axis=1, keepdims=True), 1e-12)
        return centers.astype(np.float32)


def assign_to_centers(
    points: Points,
    centers: np.ndarray,
    *,
    search: Search = "scann",
    workers: int | None = None,
    on_rows: Callable[[int], object] = lambda rows: None,
) -> Clustering:
    """Assigns points to centers that are there already: what gives a new item its cluster ID.

    Args:
        points: what to assign.
        centers: float32 `(clusters, dim)`.
        search: how the nearest center is found: `scann`, `cells` or `exact`.
        workers: threads; as many as cores if unset.
        on_rows: called with a number of points that have been assigned, for a progress bar.

    Raises:
        ValueError: a point is not finite or of another length than the centers.
    """
    if centers.shape[1] != points.dim:
        raise ValueError(f"`centers` must have the {points.dim} dimensions of the points. Received: {centers.shape[1]}")
    ids = np.full(points.rows, NOT_ASSIGNED, np.int32)
    sums, _ = assignment_pass(
        points,
        make_assigner(search, centers),
        ids,
        clusters=len(centers),
        largest=points.largest(),
        workers=workers or len(os.sched_getaffinity(0)),
        on_rows=on_rows,
    )
    return Clustering(centers, ids, sums.mean_squared_distance(centers), int((sums.counts == 0).sum()))


def growing_samples(points: int, clusters: int, seed: int, *, disjoint: bool) -> list[Share]:
    """Samples of points, each twice as large as the one before.

    Args:
        points: how many there are.
        clusters: how many there will be.
        seed: of the samples.
        disjoint: whether the samples are disjoint and hold all points together, the first one with 8 points per cluster
            or a few more (fewer if it is the only one); else each contains the one before, the first one has 32 points
            per cluster, and none has more than half of all.
    """
    if disjoint:
        count = max(1, int(math.log2(points / (_FIRST_OF_SINGLE_PASS * clusters) + 1)))
        bounds = [(2**n - 1) / (2**count - 1) for n in range(count + 1)]
        return [Share(low, high, seed) for low, high in itertools.pairwise(bounds)]
    sizes = itertools.takewhile(
        lambda size: size <= points // 2, (_FIRST_SAMPLE * clusters * 2**n for n in itertools.count())
    )
    return [Share(0.0, size / points, seed) for size in sizes]
