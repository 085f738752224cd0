"""The peer of `benchmarks.clustering.speed`: FAISS on arrays in files. Runs in the environment of `make bench-env`.

    python -m benchmarks.clustering.peers.faiss_clustering kmeans|assign ARGUMENTS

The arguments are a JSON object: `points`, `centers` (files) and, for k-means, `clusters`. The last line is one, too.
"""

import json
import sys
import time

import faiss
import numpy as np

ITERATIONS = 25  # FAISS' default


def kmeans(points: str, clusters: int, centers: str) -> dict[str, float]:
    """k-means over all points; writes the centers."""
    vectors = np.load(points)
    # Without the limit it would run on 256 points per center.
    algorithm = faiss.Kmeans(
        vectors.shape[1], clusters, niter=ITERATIONS, max_points_per_centroid=len(vectors), min_points_per_centroid=1
    )
    start = time.monotonic()
    algorithm.train(vectors)
    seconds = time.monotonic() - start
    np.save(centers, algorithm.centroids)
    return {"seconds": seconds, "iterations": ITERATIONS}


def assign(points: str, centers: str) -> dict[str, float]:
    """Compares every point with every center."""
    queries, vectors = np.load(points), np.load(centers)
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(vectors)
    index.search(queries[:100], 1)
    start = time.monotonic()
    index.search(queries, 1)
    return {"seconds": time.monotonic() - start}


if __name__ == "__main__":
    print(json.dumps({"kmeans": kmeans, "assign": assign}[sys.argv[1]](**json.loads(sys.argv[2]))))
