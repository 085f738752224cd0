"""Turns image embeddings into cluster IDs: `python -m models.cluster`."""

import argparse
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from beam_pipelines.format.errors import about
from beam_pipelines.format.manifest import file_sha256
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.command import ArgumentParser, CommandError, run_command
from models.clustering.assignment import SEARCHES
from models.clustering.clusters import CENTERS_FILE, CLUSTER_IDS_FILE, ClustersMetadata, load_centers
from models.clustering.kmeans import Clustering, KMeans, Pass, PassState, assign_to_centers
from models.clustering.points import Points
from models.embeddings.store import EmbeddingsMetadata, load_embeddings, space_difference
from models.training.checkpoints import Checkpoint, Checkpoints

ITEMS_PER_CLUSTER = 20
"""Pictures per cluster when `--num-clusters` is not given. The paper has 600, at 6e7 pictures; shops are smaller."""

SINGLE_PASS = "single_pass"
_MAY_CHANGE = {"output", "overwrite", "restart", "workers", "embeddings"}  # options that do not change the result


def main(argv: Sequence[str] | None = None) -> str:
    """Clusters the embeddings of all items with a picture and returns the closing line."""
    parser = ArgumentParser("Turns image embeddings into cluster IDs by k-means.")
    parser.add_argument("--embeddings", type=Path, default=Path("artifacts/embeddings"), help="from models.embed")
    parser.add_argument("--output", type=Path, default=Path("artifacts/clusters"), help="directory to write")
    parser.add_argument(
        "--num-clusters", type=int, help=f"number of clusters (unset: one for {ITEMS_PER_CLUSTER} pictures)"
    )
    parser.add_argument(
        "--backend",
        choices=[*SEARCHES, SINGLE_PASS],
        default="scann",
        help="nearest-center search of k-means: scann; cells, the fastest from 1e4 clusters on; exact, the reference. "
        f"{SINGLE_PASS} learns from each picture once, searching cells, for more pictures than k-means has time for",
    )
    parser.add_argument(
        "--like", type=Path, metavar="CLUSTERS", help="assign pictures to the centers of these clusters; learn nothing"
    )
    parser.add_argument(
        "--no-normalize",
        dest="normalize",
        action="store_false",
        help="cluster embeddings as they are instead of at unit length, for Euclidean distance instead of cosine",
    )
    parser.add_argument("--spherical", action="store_true", help="keep centers at unit length, too")
    parser.add_argument(
        "--threshold", type=float, default=0.0, help=f"of {SINGLE_PASS}: smaller coordinates of centers become zero"
    )
    parser.add_argument("--max-passes", type=int, default=25, help="largest number of passes over all embeddings")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="stop when a pass lowers the mean squared distance by less of it"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the start, samples and splits")
    parser.add_argument("--workers", type=int, help="threads (unset: one for each core)")
    parser.add_argument("--restart", action="store_true", help="throw away what an interrupted run has left")
    parser.add_overwrite()
    args = parser.parse_args(argv)

    with about("embeddings"):
        metadata, embeddings, has_image = load_embeddings(args.embeddings)
    pictures = metadata.items_with_image
    for name, smallest in (("max_passes", 1), ("workers", 1), ("tolerance", 0), ("threshold", 0), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < smallest:
            raise CommandError(f"--{name.replace('_', '-')} must be at least {smallest}. Received: {value}")
    if args.threshold and args.backend != SINGLE_PASS:
        raise CommandError(f"--threshold is for --backend {SINGLE_PASS}. Received: --backend {args.backend}")
    if args.spherical and not args.normalize:
        raise CommandError("--spherical is for embeddings of unit length; leave out --no-normalize")
    points = functools.partial(Points, embeddings, has_image)
    if args.like:
        return _assign(args, metadata, points)

    num_clusters = args.num_clusters or max(1, pictures // ITEMS_PER_CLUSTER)
    if not 1 <= num_clusters <= pictures:
        raise CommandError(
            f"--num-clusters must be between 1 and the {pictures} items with a picture. Received: {num_clusters}"
        )
    kmeans = KMeans(
        num_clusters,
        search="cells" if args.backend == SINGLE_PASS else args.backend,
        schedule=SINGLE_PASS if args.backend == SINGLE_PASS else "passes",
        spherical=args.spherical,
        threshold=args.threshold,
        max_passes=args.max_passes,
        tolerance=args.tolerance,
        seed=args.seed,
        workers=args.workers,
    )
    with whole_directory(args.output, overwrite=args.overwrite, inputs=[args.embeddings]) as output:
        checkpoints = Checkpoints(
            args.output.with_name(f"{args.output.name}.checkpoints"),
            {
                **{name: value for name, value in vars(args).items() if name not in _MAY_CHANGE},
                "embeddings": metadata.digest(),
            },
            restart=args.restart,
        )
        print(f"{pictures} pictures into {num_clusters} clusters ({args.backend})", flush=True)
        with checkpoints:
            clustering = _fit(kmeans, points(normalize=args.normalize), checkpoints, args.embeddings)
        np.save(output / CENTERS_FILE, clustering.centers)
        np.save(output / CLUSTER_IDS_FILE, clustering.ids)
        ClustersMetadata(
            num_clusters=num_clusters,
            backend=args.backend,
            normalize=args.normalize,
            spherical=args.spherical,
            mean_squared_distance=clustering.mean_squared_distance,
            seed=args.seed,
            centers_sha256=file_sha256(output / CENTERS_FILE),
            cluster_ids_sha256=file_sha256(output / CLUSTER_IDS_FILE),
            embeddings=metadata,
        ).write(output)
    checkpoints.remove()
    empty = f", {clustering.empty} of them empty" if clustering.empty else ""
    return (
        f"wrote {num_clusters} clusters{empty} of {pictures} pictures to {args.output} "
        f"(mean squared distance {clustering.mean_squared_distance:.4f})"
    )


def _fit(kmeans: KMeans, points: Points, checkpoints: Checkpoints, source: Path) -> Clustering:
    """Runs k-means with a progress bar and a checkpoint after every pass, from the latest checkpoint on."""
    before = checkpoints.latest()
    state = None
    if before is not None:
        print(f"goes on after pass {before.step}", flush=True)
        state = PassState(before.step, **before.arrays, **before.state)

    def keep(state: PassState) -> None:
        arrays = {"centers": state.centers, "ids": state.ids}
        others = {"mean_squared_distance": state.mean_squared_distance, "converged": state.converged}
        checkpoints.write(Checkpoint(state.number, arrays, others))

    with tqdm(unit=" pictures", unit_scale=True) as bar:

        def report(done: Pass) -> None:
            bar.write(
                f"pass {done.number}: {done.points} pictures, mean squared distance {done.mean_squared_distance:.5f}, "
                f"{done.moved:.1%} moved, {done.empty} empty split, imbalance {done.imbalance:.2f}, "
                f"{done.seconds:.1f} s"
            )

        try:
            return kmeans.fit(points, on_rows=bar.update, on_pass=report, state=state, on_state=keep)
        except ValueError as error:
            raise CommandError(f"--embeddings {source}: {error}") from error


def _assign(args: argparse.Namespace, metadata: EmbeddingsMetadata, points: Callable[..., Points]) -> str:
    """Writes the clusters of `--like` with the IDs of these embeddings' items."""
    for name in ("num_clusters", "spherical", "threshold"):
        if getattr(args, name):
            raise CommandError(f"--{name.replace('_', '-')} is of new centers; leave it out with --like")
    with about("like"):
        like, centers = load_centers(args.like)
    if difference := space_difference(like.embeddings, metadata):
        raise CommandError(f"--like: {args.like} and --embeddings {args.embeddings} must not be mixed; {difference}")
    inputs = [args.embeddings, args.like]
    with (
        whole_directory(args.output, overwrite=args.overwrite, inputs=inputs) as output,
        tqdm(total=metadata.items_with_image, unit=" pictures", unit_scale=True) as bar,
    ):
        try:
            clustering = assign_to_centers(
                points(normalize=like.normalize),
                centers,
                search="cells" if like.backend == SINGLE_PASS else like.backend,
                workers=args.workers,
                on_rows=bar.update,
            )
        except ValueError as error:
            raise CommandError(f"--embeddings {args.embeddings}: {error}") from error
        shutil.copyfile(args.like / CENTERS_FILE, output / CENTERS_FILE)
        np.save(output / CLUSTER_IDS_FILE, clustering.ids)
        changes = {
            "mean_squared_distance": clustering.mean_squared_distance,
            "cluster_ids_sha256": file_sha256(output / CLUSTER_IDS_FILE),
            "embeddings": metadata,
        }
        like.model_copy(update=changes).write(output)
    return (
        f"wrote the {like.num_clusters} clusters of {args.like} with {metadata.items_with_image} pictures to "
        f"{args.output} (mean squared distance {clustering.mean_squared_distance:.4f})"
    )


if __name__ == "__main__":
    run_command(main)
