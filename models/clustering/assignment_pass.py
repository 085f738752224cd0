"""One pass over the points: each block is assigned and added up by one of several workers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from models.clustering.assignment import Assigner
from models.clustering.cluster_sums import ClusterSums
from models.clustering.points import ALL_ROWS, Points, Share

NOT_ASSIGNED = -1


class PassResult(NamedTuple):
    """What a pass found.

    Attributes:
        sums: of the points of each cluster.
        moved: share of the points whose cluster is another than before.
    """

    sums: ClusterSums
    moved: float


def assignment_pass(
    points: Points,
    assigner: Assigner,
    ids: np.ndarray,
    *,
    clusters: int,
    largest: float,
    workers: int,
    share: Share = ALL_ROWS,
    again: bool = False,
    on_rows: Callable[[int], object] = lambda rows: None,
) -> PassResult:
    """Assigns points to their nearest centers.

    Neither IDs nor sums depend on the number of workers: a block is what a worker takes, and sums merge exactly.

    Args:
        points: what to assign.
        assigner: of the centers.
        ids: int32 `(rows,)` by row of the points, the cluster of each point before, -1 = none; overwritten.
        clusters: number of centers.
        largest: `points.largest()`.
        workers: threads; each holds a block of points and sums of its own.
        share: which points take part.
        again: whether the centers have only moved since `ids` were found, so that the assigner may search less.
        on_rows: called after each block with its number of points, from any worker.
    """
    blocks = iter(points.blocks())

    def work(_: int) -> tuple[ClusterSums, int]:
        sums = ClusterSums(clusters, points.dim, points=points.count, largest=largest)
        moved = 0
        for block in blocks:  # a range iterator hands out each block once
            rows = points.rows_of(block, share)
            if len(rows):
                vectors = points.read(rows)
                nearest = assigner.reassign(vectors, ids[rows]) if again else assigner.assign(vectors)
                moved += int(np.count_nonzero(nearest != ids[rows]))
                ids[rows] = nearest
                sums.add(nearest, vectors)
            on_rows(len(rows))
        return sums, moved

    # Workers divide the cores: a matrix product inside one keeps to its own.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        (sums, moved), *others = pool.map(work, range(workers))
    for other, other_moved in others:
        sums.merge(other)
        moved += other_moved
    return PassResult(sums, moved / max(1, int(sums.counts.sum())))
