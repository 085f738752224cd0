"""Turns image embeddings into cluster IDs: `python -m models.cluster`."""

import argparse

from beam_pipelines.shell.command import ArgumentParser, command, run_command


def _parser() -> ArgumentParser:
    parser = ArgumentParser("Turns image embeddings into cluster IDs by k-means.")
    parser.add_argument("--embeddings", default="artifacts/embeddings", help="from models.embed")
    parser.add_argument("--output", default="artifacts/clusters", help="directory to write")
    parser.add_argument("--num-clusters", type=int, help="number of clusters (unset: one for 20 pictures)")
    parser.add_argument(
        "--levels",
        type=int,
        default=1,
        help="levels of clusterings, for semantic IDs: each clusters what the level above leaves of a picture",
    )
    parser.add_argument(
        "--backend",
        choices=["scann", "cells", "exact", "single_pass", "hash"],
        default="scann",
        help="nearest-center search of k-means: scann; cells, the fastest from 1e4 clusters on; exact, the reference. "
        "single_pass learns from each picture once, searching cells, for more pictures than k-means has time for; hash "
        "learns nothing, the hash value of an embedding is its ID: the paper's rejected variant",
    )
    parser.add_argument(
        "--like", metavar="CLUSTERS", help="assign pictures to the centers of these clusters; learn nothing"
    )
    parser.add_argument(
        "--replace",
        metavar="CLUSTERS",
        help="new centers, as many as these clusters have unless told; each takes the place of the old one that most "
        "of its items are from, so that --warm-start of models.train_ctr goes on with what was learned of it",
    )
    parser.add_argument(
        "--no-normalize",
        dest="normalize",
        action="store_false",
        help="cluster embeddings as they are instead of at unit length, for Euclidean distance instead of cosine",
    )
    parser.add_argument("--spherical", action="store_true", help="keep centers at unit length, too")
    parser.add_argument(
        "--threshold", type=float, default=0.0, help="of single_pass: smaller coordinates of centers become zero"
    )
    parser.add_argument("--max-passes", type=int, default=25, help="largest number of passes over all embeddings")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="stop when a pass lowers the mean squared distance by less of it"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the start, samples and splits, or of the hash")
    parser.add_argument("--workers", type=int, help="threads (unset: one for each core)")
    parser.add_argument("--restart", action="store_true", help="throw away what an interrupted run has left")
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Clusters the embeddings of all items with a picture and returns the closing line."""
    from models.clustering.cluster import cluster

    clusters = cluster(**vars(options))
    metadata = clusters.metadata
    pictures = metadata.embeddings.items_with_image
    if options.like is not None:
        wrote = f"wrote the {metadata.num_clusters} clusters of {options.like} with {pictures} pictures"
    else:
        empty = int((clusters.sizes == 0).sum())
        wrote = f"wrote {metadata.num_clusters} clusters{f', {empty} of them empty' if empty else ''}"
        wrote += f" of {pictures} pictures"
    if metadata.deeper is not None:
        wrote += f" at {metadata.levels} levels ({metadata.deeper.sharing} pictures share their semantic ID)"
    if metadata.replaced is not None:
        old = metadata.replaced
        wrote += f"; {old.matched} take the place of one of the {old.num_clusters} of {options.replace}, with "
        wrote += f"{old.pictures} pictures,"
    return f"{wrote} to {options.output} (mean squared distance {metadata.mean_squared_distance:.4f})"


if __name__ == "__main__":
    run_command(main)
