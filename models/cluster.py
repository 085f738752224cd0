"""Turns image embeddings into cluster IDs: `python -m models.cluster`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from beam_pipelines.command import ArgumentParser, CommandError, run_command, whole_directory
from beam_pipelines.manifest import file_sha256
from models.artifacts import ClustersMetadata
from models.embeddings.assignment import BACKENDS
from models.embeddings.kmeans import KMeans
from models.embeddings.store import CENTERS_FILE, CLUSTER_IDS_FILE, l2_normalize, load_embeddings

ITEMS_PER_CLUSTER = 20
"""Pictures per cluster when `--num-clusters` is not given. The paper has 600, at 6e7 pictures; shops are smaller."""


def main(argv: Sequence[str] | None = None) -> str:
    """Clusters the embeddings of all items with a picture and returns the closing line."""
    parser = ArgumentParser("Turns image embeddings into cluster IDs by k-means on unit vectors.")
    parser.add_argument("--embeddings", type=Path, default=Path("artifacts/embeddings"), help="from models.embed")
    parser.add_argument("--output", type=Path, default=Path("artifacts/clusters"), help="directory to write")
    parser.add_argument(
        "--num-clusters", type=int, help=f"number of clusters (unset: one for {ITEMS_PER_CLUSTER} pictures)"
    )
    parser.add_argument("--backend", choices=BACKENDS, default="scann", help="nearest-center search")
    parser.add_argument("--max-passes", type=int, default=25, help="largest number of passes over the embeddings")
    parser.add_argument("--seed", type=int, default=0, help="of the start and of splits")
    parser.add_overwrite()
    args = parser.parse_args(argv)

    metadata, embeddings, has_image = load_embeddings(args.embeddings)
    num_clusters = args.num_clusters or max(1, metadata.items_with_image // ITEMS_PER_CLUSTER)
    if not 1 <= num_clusters <= metadata.items_with_image:
        raise CommandError(
            f"--num-clusters must be between 1 and the {metadata.items_with_image} items with a picture. "
            f"Received: {num_clusters}"
        )
    if args.max_passes < 1:
        raise CommandError(f"--max-passes must be at least 1. Received: {args.max_passes}")

    with whole_directory(args.output, overwrite=args.overwrite, inputs=[args.embeddings]) as output:
        kmeans = KMeans(num_clusters, backend=args.backend, max_passes=args.max_passes, seed=args.seed)
        print(f"{metadata.items_with_image} pictures into {num_clusters} clusters ({args.backend})", flush=True)
        try:
            clustering = kmeans.fit(l2_normalize(embeddings[has_image]), on_pass=_print_pass)
        except ValueError as error:
            raise CommandError(f"--embeddings {args.embeddings}: {error}") from error
        cluster_ids = np.full(metadata.items, -1, np.int32)
        cluster_ids[has_image] = clustering.ids
        np.save(output / CLUSTER_IDS_FILE, cluster_ids)
        np.save(output / CENTERS_FILE, clustering.centers)
        ClustersMetadata(
            num_clusters=num_clusters,
            backend=args.backend,
            mean_squared_distance=clustering.mean_squared_distance,
            seed=args.seed,
            cluster_ids_sha256=file_sha256(output / CLUSTER_IDS_FILE),
            embeddings=metadata,
        ).write(output)
    return (
        f"wrote {num_clusters} clusters of {metadata.items_with_image} pictures to {args.output} "
        f"(mean squared distance {clustering.mean_squared_distance:.4f})"
    )


def _print_pass(number: int, distance: float, moved: float, empty: int) -> None:
    print(f"pass {number}: mean squared distance {distance:.5f}, {moved:.1%} moved, {empty} empty split", flush=True)


if __name__ == "__main__":
    run_command(main)
