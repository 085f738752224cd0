"""Reads the embeddings and cluster IDs of a version from disk, refusing what does not belong together."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from beam_pipelines.command import CommandError
from beam_pipelines.manifest import file_sha256
from models.artifacts import ClustersMetadata, EmbeddingsMetadata, read_metadata

EMBEDDINGS_FILE = "embeddings.npy"
HAS_IMAGE_FILE = "has_image.npy"
PICTURE_HASHES_FILE = "picture_sha256.npy"
WHITENING_FILE = "whitening.npz"
CLUSTER_IDS_FILE = "cluster_ids.npy"
CENTERS_FILE = "centers.npy"


def load_embeddings(
    directory: Path, *, option: str = "--embeddings"
) -> tuple[EmbeddingsMetadata, np.ndarray, np.ndarray]:
    """Opens what `models.embed` or `models.whiten` wrote.

    Args:
        directory: the embeddings directory.
        option: the command-line option that named it, for errors.

    Returns:
        The metadata; the embeddings, float32 or float16 `(items, dim)` by item row, memory-mapped, zero rows without
        picture; and which items have a picture, bool `(items,)`.

    Raises:
        CommandError: the directory holds no embeddings, or the file is not the one described.
    """
    metadata = read_metadata(EmbeddingsMetadata, directory, option, "models.embed")
    path = Path(directory) / EMBEDDINGS_FILE
    check_digest(path, metadata.embeddings_sha256, option)
    return metadata, np.load(path, mmap_mode="r"), np.load(Path(directory) / HAS_IMAGE_FILE)


def load_picture_hashes(directory: Path, metadata: EmbeddingsMetadata, *, option: str = "--embeddings") -> np.ndarray:
    """Reads the content hash of each item's picture: uint8 `(items, 32)`, zeros without picture.

    Raises:
        CommandError: the embeddings have none, or the file is not the one described.
    """
    if not metadata.picture_hashes_sha256:
        raise CommandError(f"{option}: {directory} has no hashes of its pictures; make it again")
    path = Path(directory) / PICTURE_HASHES_FILE
    check_digest(path, metadata.picture_hashes_sha256, option)
    return np.load(path)


def read_blocks(directory: Path, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Reads the embeddings a block after the other, and yields each with the item row that it begins at.

    Whatever of a memory map was touched counts as memory of the process; what is read here does not stay.

    Args:
        directory: embeddings that `load_embeddings` has checked.
        rows: of a block; the last one may have fewer.
    """
    path = Path(directory) / EMBEDDINGS_FILE
    vectors = np.load(path, mmap_mode="r")
    items, dim = vectors.shape
    for start in range(0, items, rows):
        count = min(rows, items - start)
        offset = vectors.offset + start * dim * vectors.itemsize
        yield start, np.fromfile(path, vectors.dtype, count * dim, offset=offset).reshape(count, dim)


def check_finite(vectors: np.ndarray, items: np.ndarray, source: str) -> None:
    """Refuses vectors that are not numbers.

    Args:
        vectors: `(n, dim)`.
        items: int `(n,)`, their item rows.
        source: where they come from, for the error.

    Raises:
        CommandError: one has an infinite or undefined value; its item row is named.
    """
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise CommandError(f"{source}: the vector of item row {items[np.argmin(finite)]} is not finite")


def space_difference(first: EmbeddingsMetadata, second: EmbeddingsMetadata) -> str | None:
    """Says why vectors of two embeddings must not be compared with each other: they are of two versions.

    Returns:
        How their encoders or their whitenings differ, in words; `None` if both are the same.
    """
    encoders = [metadata.encoder.digest()[:12] for metadata in (first, second)]
    if encoders[0] != encoders[1]:
        return f"their encoders differ: {encoders[0]} and {encoders[1]}"
    whitenings = [
        metadata.whitening.whitening_sha256[:12] if metadata.whitening else "none" for metadata in (first, second)
    ]
    if whitenings[0] != whitenings[1]:
        return f"their whitenings differ: {whitenings[0]} and {whitenings[1]}"
    return None


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
    check_digest(path, metadata.cluster_ids_sha256, option)
    return metadata, np.load(path)


def load_centers(directory: Path, *, option: str = "--clusters") -> tuple[ClustersMetadata, np.ndarray]:
    """Opens the centers that `models.cluster` wrote: the metadata, and float32 `(clusters, dim)`.

    Raises:
        CommandError: the directory holds no clusters, or the file is not the one described.
    """
    metadata = read_metadata(ClustersMetadata, directory, option, "models.cluster")
    path = Path(directory) / CENTERS_FILE
    check_digest(path, metadata.centers_sha256, option)
    return metadata, np.load(path)


def l2_normalize(vectors: np.ndarray) -> np.ndarray:
    """Scales rows to unit length, so that Euclidean order is cosine order (equation 10); zero rows stay zero."""
    vectors = np.asarray(vectors, np.float32)  # squares of float16 overflow
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, 1e-12)


def check_digest(path: Path, sha256: str, option: str) -> None:
    """Refuses a file that is missing or is not the one that a digest was taken of."""
    if not path.is_file() or file_sha256(path) != sha256:
        raise CommandError(f"{option}: {path} is missing or is not the file its metadata describes; make it again")
