"""The directory of clusters: `models.cluster` writes it, rankers read it."""

from pathlib import Path
from typing import Literal

import numpy as np

from models.artifact import Metadata, check_digest, read_metadata
from models.embeddings.store import EmbeddingsMetadata

CLUSTER_IDS_FILE = "cluster_ids.npy"
CENTERS_FILE = "centers.npy"


class ClustersMetadata(Metadata):
    """Cluster IDs of all items: `cluster_ids.npy`, int32 `(items,)`, -1 without picture; `centers.npy`, float32
    `(clusters, dim)`.

    Attributes:
        num_clusters: how many centers there are.
        backend: of `models.cluster`, how they were found and how the IDs were.
        normalize: whether the embeddings were scaled to unit length first.
        spherical: whether the centers are of unit length.
        mean_squared_distance: of the embeddings to their centers.
        seed: of the start.
        centers_sha256: digest of `centers.npy`: IDs of equal centers mean the same.
        cluster_ids_sha256: digest of `cluster_ids.npy`.
        embeddings: what was clustered, or assigned to centers that were there before.
    """

    kind: Literal["clusters"] = "clusters"
    num_clusters: int
    backend: str
    normalize: bool
    spherical: bool
    mean_squared_distance: float
    seed: int
    centers_sha256: str
    cluster_ids_sha256: str
    embeddings: EmbeddingsMetadata


def load_cluster_ids(directory: Path) -> tuple[ClustersMetadata, np.ndarray]:
    """Opens what `models.cluster` wrote.

    Args:
        directory: the clusters directory.

    Returns:
        The metadata, and the cluster ID of each item row: int32 `(items,)`, -1 without picture.

    Raises:
        ArtifactError: the directory holds no clusters, or the file is not the one described.
    """
    metadata = read_metadata(ClustersMetadata, directory, "models.cluster")
    path = Path(directory) / CLUSTER_IDS_FILE
    check_digest(path, metadata.cluster_ids_sha256)
    return metadata, np.load(path)


def load_centers(directory: Path) -> tuple[ClustersMetadata, np.ndarray]:
    """Opens the centers that `models.cluster` wrote: the metadata, and float32 `(clusters, dim)`.

    Raises:
        ArtifactError: the directory holds no clusters, or the file is not the one described.
    """
    metadata = read_metadata(ClustersMetadata, directory, "models.cluster")
    path = Path(directory) / CENTERS_FILE
    check_digest(path, metadata.centers_sha256)
    return metadata, np.load(path)
