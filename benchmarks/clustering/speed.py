"""k-means and nearest-center assignment against FAISS: time, closeness to exact, memory, and the paper's size.

    make bench-env
    .venv/bin/python -m benchmarks.clustering.speed [--work-dir DIR] [--source DIR] [--quick]

Points are unit vectors of 256 float32 dimensions that vary in about 16: a planted mixture, projected, with noise in all
dimensions. FAISS (from PyPI) runs in a process of its own on all cores, ours on as many workers.

- k-means: 1e6 points, 1e4 clusters, against `faiss.Kmeans` with its 25 iterations and every point in each. Ours stops
  by itself. Both are judged by one exact assignment of the same points to their centers. `kmeans_first_pass_ratio` is
  one FAISS iteration over one of our passes over all points.
- assignment: new points to 1e5 centers, against an exhaustive FAISS index. With the default 32 probes, with 4 (`fast`),
  and with ScaNN. The time to build our index is apart.
- memory: 6e6 points (6 GB of float32 on disk) into 1e4 clusters, the largest resident size of the process.
- the paper's size, 6e7 points and 1e5 centers: one pass is timed on 1e6 and on 4e6 points, and a line through both is
  extended. The schedule is that of `KMeans`: the growing samples, then a pass over all points in full, eight that know
  where points were, and the final one. `single_pass` is `--backend single_pass`. Extrapolated, not run.
- H&M, where `--source` is there: embeddings of an encoder trained for this (sampled negatives). k-means against FAISS,
  and how many pictures find their exact nearest of 8,000 others.

`--quick` takes a tenth of the points, and of the clusters as far as searches stay what they are, and an encoder of one
epoch.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from benchmarks.base import ROOT, WORK, benchmark_parser, peak_memory_mb, peer_command, run_benchmark
from benchmarks.hm.runs import open_dataset, train_runs
from models.clustering.assignment import ScannAssigner
from models.clustering.assignment_pass import NOT_ASSIGNED, assignment_pass
from models.clustering.cell_assigner import CellAssigner
from models.clustering.kmeans import KMeans, Pass, growing_samples
from models.clustering.points import Points
from models.embeddings.vectors import l2_normalize

DIM = 256
LATENT = 16
PLANTED = 1000
PAPER_POINTS, PAPER_CLUSTERS = 60_000_000, 100_000
PAPER_PASSES_AGAIN = 8
WORKERS = len(os.sched_getaffinity(0))


class Sizes(NamedTuple):
    """How much is clustered."""

    kmeans_points: int = 1_000_000
    kmeans_clusters: int = 10_000
    centers: int = 100_000
    queries: int = 100_000
    compared: int = 10_000  # queries that FAISS answers and that recall is taken of
    memory_points: int = 6_000_000
    pass_points: tuple[int, int] = (1_000_000, 4_000_000)


QUICK = Sizes(200_000, 5_000, 20_000, 40_000, 10_000, 600_000, (200_000, 600_000))


def write_points(path: Path, count: int, seed: int) -> np.ndarray:
    """Planted points as a file, memory-mapped; one that is there already is reused."""
    if not path.exists():
        fixed = np.random.default_rng(0)
        basis = fixed.normal(size=(LATENT, DIM)).astype(np.float32) / DIM**0.5
        middles = fixed.normal(size=(PLANTED, LATENT)).astype(np.float32)
        rng = np.random.default_rng(seed)
        scratch = path.with_suffix(".incomplete")
        with open(scratch, "wb") as file, tqdm(total=count, desc=path.name, unit=" points", unit_scale=True) as bar:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, DIM)}
            np.lib.format.write_array_header_1_0(file, header)
            for first in range(0, count, 1 << 16):
                n = min(1 << 16, count - first)
                latent = middles[rng.integers(PLANTED, size=n)] + 0.5 * rng.standard_normal((n, LATENT), np.float32)
                noise = 0.08 / DIM**0.5 * rng.standard_normal((n, DIM), np.float32)
                l2_normalize(latent @ basis + noise).tofile(file)
                bar.update(n)
        scratch.rename(path)
    return np.load(path, mmap_mode="r")


def faiss(task: str, **arguments: Any) -> dict[str, Any]:
    """Runs `peers/faiss_clustering.py` and returns what it says."""
    command = peer_command("bench", "benchmarks.clustering.peers.faiss_clustering", task, json.dumps(arguments))
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def exact_distances(points: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest center of each point and the squared distance to it, by comparing all."""
    half_norms = 0.5 * np.einsum("ij,ij->i", centers, centers)
    ids = np.empty(len(points), np.int64)
    for first in range(0, len(points), 1024):
        ids[first : first + 1024] = np.argmin(half_norms - points[first : first + 1024] @ centers.T, axis=1)
    return ids, squared_distances(points, centers, ids)


def squared_distances(points: np.ndarray, centers: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Squared distance of each point to the center it was given."""
    return np.square(points - centers[ids], dtype=np.float64).sum(axis=1)


def compare_kmeans(points: np.ndarray, clusters: int, work: Path, name: str) -> dict[str, float]:
    """k-means on points in memory on both sides, from the same number of random points."""
    passes: list[Pass] = []

    def report(done: Pass) -> None:
        passes.append(done)
        print(f"  pass {done.number}: {done.points} points, {done.mean_squared_distance:.6f}, {done.seconds:.1f} s")

    path, centers_path = work / f"{name}.npy", work / f"{name}_centers.npy"
    if not path.exists():
        np.save(path, points)
    print(f"{name}: k-means of {len(points)} points into {clusters} clusters, ours", flush=True)
    start = time.monotonic()
    ours = KMeans(clusters, search="cells").fit(Points(points), on_pass=report)
    seconds = time.monotonic() - start
    print(f"  {seconds:.1f} s\n{name}: FAISS", flush=True)
    theirs = faiss("kmeans", points=str(path), clusters=clusters, centers=str(centers_path))
    print(f"  {theirs['seconds']:.1f} s", flush=True)
    sample = points[:: max(1, len(points) // 100_000)]
    distance, peer_distance = (
        float(exact_distances(sample, centers)[1].mean()) for centers in (ours.centers, np.load(centers_path))
    )
    whole = [done.seconds for done in passes if done.points == len(points)]
    return {
        "speedup_faiss": theirs["seconds"] / seconds,
        "inertia_excess": distance / peer_distance - 1,
        "seconds": seconds,
        "seconds_faiss": theirs["seconds"],
        "iterations_faiss": theirs["iterations"],
        "passes": len(whole),
        "first_pass_ratio": theirs["seconds"] / theirs["iterations"] / whole[0],
    }


def assignment_seconds(points: np.ndarray, assigner: Any) -> tuple[np.ndarray, float]:
    """Assigns with all workers: IDs and seconds."""
    parts = np.array_split(points, 2 * WORKERS)
    start = time.monotonic()
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(WORKERS) as pool:
        ids = np.concatenate(list(pool.map(assigner.assign, parts)))
    return ids, time.monotonic() - start


def scann_seconds(points: np.ndarray, assigner: ScannAssigner) -> tuple[np.ndarray, float]:
    """Assigns with ScaNN's own threads: IDs and seconds."""
    start = time.monotonic()
    return assigner.assign(points), time.monotonic() - start


def compare_assignment(queries: np.ndarray, centers: np.ndarray, compared: int, work: Path) -> dict[str, float]:
    """New points to many centers."""
    np.save(work / "centers.npy", centers)
    np.save(work / "queries.npy", queries[:compared])
    print(f"assignment to {len(centers)} centers: FAISS flat, {compared} points", flush=True)
    peer = faiss("assign", points=str(work / "queries.npy"), centers=str(work / "centers.npy"))
    exact, distances = exact_distances(queries[:compared], centers)
    figures = {"queries_per_s_flat": compared / peer["seconds"]}
    ways: dict[str, tuple[Callable[[], Any], Callable[[Any], tuple[np.ndarray, float]]]] = {
        "": (lambda: CellAssigner(centers), lambda a: assignment_seconds(queries, a)),
        "fast_": (lambda: CellAssigner(centers, probes=4), lambda a: assignment_seconds(queries, a)),
        "scann_": (lambda: ScannAssigner(centers), lambda a: scann_seconds(queries, a)),
    }
    for prefix, (build, assign) in ways.items():
        start = time.monotonic()
        assigner = build()
        built = time.monotonic() - start
        ids, seconds = assign(assigner)
        excess = squared_distances(queries[:compared], centers, ids[:compared]).mean() / distances.mean() - 1
        figures |= {
            f"{prefix}assign_speedup_flat": len(queries) / seconds / figures["queries_per_s_flat"],
            f"{prefix}assign_recall": float(np.mean(ids[:compared] == exact)),
            f"{prefix}assign_inertia_excess": float(excess),
            f"{prefix}assign_build_s": built,
        }
        print(f"  {prefix or 'cells'}: {len(queries) / seconds:.0f} points/s", flush=True)
    return figures


def _cluster_file(path: Path, clusters: int, answers: Any) -> None:
    points = Points(np.load(path, mmap_mode="r"))
    start = time.monotonic()
    KMeans(clusters, search="cells", max_passes=1).fit(points)
    seconds = time.monotonic() - start
    answers.put((seconds, peak_memory_mb() / 1e3))


def measure_memory(path: Path, clusters: int) -> dict[str, float]:
    """Clusters a file in a process of its own."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_cluster_file, args=(path, clusters, answers))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit("error: clustering the file failed; the message is above")
    seconds, gigabytes = answers.get()
    return {"memory_gb": gigabytes, "memory_file_gb": path.stat().st_size / 1e9, "memory_seconds": seconds}


def extrapolate(path: Path, counts: tuple[int, int], centers: np.ndarray) -> dict[str, float]:
    """Times a pass on two numbers of points and extends the line to the paper's size."""
    vectors = np.load(path, mmap_mode="r")
    start = time.monotonic()
    assigner = CellAssigner(centers)
    built = time.monotonic() - start
    samples = growing_samples(PAPER_POINTS, PAPER_CLUSTERS, 0, disjoint=False)
    single = growing_samples(PAPER_POINTS, PAPER_CLUSTERS, 0, disjoint=True)
    figures: dict[str, Any] = {}
    hours = hours_single = 0.0
    # Times of each kind of pass: points that take part in it at the paper's size, and how many passes they are.
    kinds = {
        "in_full": (PAPER_POINTS * (2 + sum(share.high for share in samples)), 2 + len(samples)),
        "again": (PAPER_POINTS * PAPER_PASSES_AGAIN, PAPER_PASSES_AGAIN),
    }
    ids = {count: np.full(count, NOT_ASSIGNED, np.int32) for count in counts}
    for kind, (points_done, passes) in kinds.items():
        seconds = []
        for count in counts:
            with tqdm(total=count, desc=f"pass {kind} over {count}", unit=" points", unit_scale=True) as bar:
                start = time.monotonic()
                assignment_pass(
                    Points(vectors[:count]),
                    assigner,
                    ids[count],
                    clusters=len(centers),
                    largest=1.0,
                    workers=WORKERS,
                    again=kind == "again",
                    on_rows=bar.update,
                )
                seconds.append(time.monotonic() - start)
        slope = (seconds[1] - seconds[0]) / (counts[1] - counts[0])
        constant = max(0.0, seconds[0] - slope * counts[0]) + built
        hours += (slope * points_done + constant * passes) / 3600
        if kind == "in_full":
            hours_single = (slope * 2 * PAPER_POINTS + constant * (len(single) + 1)) / 3600
        figures[f"pass_{kind}_seconds"] = [round(s, 2) for s in seconds]
        print(f"passes {kind} over {counts} points: {figures[f'pass_{kind}_seconds']} s", flush=True)
    return {**figures, "hours_paper_scale_2_cores": hours, "hours_paper_scale_single_pass": hours_single}


def hm_figures(source: Path, work_dir: Path, work: Path, changes: Sequence[str]) -> dict[str, Any]:
    """The same comparisons on real embeddings, as many as there are."""
    if not source.is_dir():
        print(f"H&M is left out: no directory {source}", flush=True)
        return {"hm": None}
    dataset = open_dataset(source, work_dir)
    print(f"notice: {dataset.manifest.notice}", flush=True)
    run = next(train_runs(dataset, work_dir, "courier_cpu", {"courier": changes}, 1, 1))[2]
    vectors = l2_normalize(run.embeddings[dataset.image_index()["shard"].to_numpy() >= 0])
    kmeans = compare_kmeans(vectors, len(vectors) // 20, work, "hm")
    order = np.random.default_rng(0).permutation(len(vectors))
    centers, queries = vectors[order[:8000]], vectors[order[8000:]]
    exact, distances = exact_distances(queries, centers)
    ids, _ = assignment_seconds(queries, CellAssigner(centers))
    return {
        "hm_notice": dataset.manifest.notice,
        **{f"hm_kmeans_{name}": value for name, value in kmeans.items()},
        "hm_assign_recall": float(np.mean(ids == exact)),
        "hm_assign_inertia_excess": float(squared_distances(queries, centers, ids).mean() / distances.mean() - 1),
    }


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="a tenth of the points")
    parser.add_argument("--work-dir", type=Path, default=WORK / "clustering", help="keeps points")
    parser.add_argument("--source", type=Path, default=Path("../shared/data/hm_fashion"), help="the H&M files")
    parser.add_argument(
        "--courier-dir", type=Path, default=WORK / "courier", help="work directory of the encoder's studies"
    )
    run_benchmark("clustering", parser, measure)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures everything."""
    sizes = QUICK if args.quick else Sizes()
    work = args.work_dir / ("quick" if args.quick else "full")
    work.mkdir(parents=True, exist_ok=True)
    points = np.array(write_points(work / "kmeans.npy", sizes.kmeans_points, seed=1))
    result: dict[str, Any] = {
        "workers": WORKERS,
        **{f"kmeans_{k}": v for k, v in compare_kmeans(points, sizes.kmeans_clusters, work, "kmeans").items()},
    }
    # Centers as a clustering has them: means, not points.
    print(f"{sizes.centers} centers", flush=True)
    centers = KMeans(sizes.centers, search="cells", max_passes=2).fit(Points(points)).centers
    del points
    queries = np.array(write_points(work / "queries_all.npy", sizes.queries, seed=2))
    result |= compare_assignment(queries, centers, sizes.compared, work)
    large = work / "large.npy"
    write_points(large, sizes.memory_points, seed=3)
    result |= extrapolate(large, sizes.pass_points, centers)
    result |= measure_memory(large, sizes.kmeans_clusters)
    with threadpool_limits(WORKERS):
        result |= hm_figures(args.source, args.courier_dir, work, ("epochs=1",) if args.quick else ())
    return result


if __name__ == "__main__":
    main()
