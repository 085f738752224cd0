"""Reads the embeddings and cluster IDs of a version from disk, refusing what does not belong together."""

from pathlib import Path

import numpy as np

from beam_pipelines.command import CommandError
from beam_pipelines.manifest import file_sha256
from models.artifacts import ClustersMetadata, EmbeddingsMetadata, read_metadata

EMBEDDINGS_FILE = "embeddings.npy"
HAS_IMAGE_FILE = "has_image.npy"
CLUSTER_IDS_FILE = "cluster_ids.npy"
CENTERS_FILE = "centers.npy"


def load_embeddings(
    directory: Path, *, option: str = "--embeddings"
) -> tuple[EmbeddingsMetadata, np.ndarray, np.ndarray]:
    """Opens what `models.embed` wrote.

    Args:
        directory: the embeddings directory.
        option: the command-line option that named it, for errors.

    Returns:
        The metadata; the embeddings, float32 `(items, dim)` by item row, memory-mapped, zero rows without picture; and
        which items have a picture, bool `(items,)`.

    Raises:
        CommandError: the directory holds no embeddings, or the file is not the one described.
    """
    metadata = read_metadata(EmbeddingsMetadata, directory, option, "models.embed")
    path = Path(directory) / EMBEDDINGS_FILE
    _check(path, metadata.embeddings_sha256, option)
    return metadata, np.load(path, mmap_mode="r"), np.load(Path(directory) / HAS_IMAGE_FILE)


def load_cluster_ids(directory: Path, *, option: str = "--clusters") -> tuple[ClustersMetadata, np.ndarray]:
    """Opens what `models.cluster` wrote.

    Args:
        directory: the clusters directory.
        option: the command-line option that named it, for errors.

    Returns:
        The metadata, and the cluster ID of each item row: int32 `(items,)`, -1 without picture.

    Raises:
        CommandError: the directory holds no clusters, or the file is not the one described.
    """
    metadata = read_metadata(ClustersMetadata, directory, option, "models.cluster")
    path = Path(directory) / CLUSTER_IDS_FILE
    _check(path, metadata.cluster_ids_sha256, option)
    return metadata, np.load(path)


def l2_normalize(vectors: np.ndarray) -> np.ndarray:
    """Scales rows to unit length, so that Euclidean order is cosine order (equation 10); zero rows stay zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(norms, 1e-12)).astype(np.float32)


def _check(path: Path, sha256: str, option: str) -> None:
    if not path.is_file() or file_sha256(path) != sha256:
        raise CommandError(f"{option}: {path} is missing or is not the file its metadata describes; make it again")
