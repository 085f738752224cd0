"""The directory of embeddings: `models.embed` and `models.whiten` write it, everything else reads it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.manifest import Window
from models.artifact import Metadata, check_digest, read_metadata
from models.vision.encoder_run import EncoderMetadata

EMBEDDINGS_FILE = "embeddings.npy"
HAS_IMAGE_FILE = "has_image.npy"
PICTURE_HASHES_FILE = "picture_sha256.npy"
WHITENING_FILE = "whitening.npz"


class WhiteningMetadata(Metadata):
    """How embeddings were whitened: `whitening.npz` beside them, see `whitening.Whitening`.

    Attributes:
        dim: length of the whitened vectors.
        encoder_dim: length of the encoder's.
        l2: whether they were scaled to unit length afterwards.
        fitted_items: number of items that it was fitted on.
        whitening_sha256: digest of `whitening.npz`.
        dataset_digest: `Manifest.digest()` of the dataset whose training items these are.
        window: pages that they occur on.
    """

    dim: int
    encoder_dim: int
    l2: bool
    fitted_items: int
    whitening_sha256: str
    dataset_digest: str
    window: Window


class EmbeddingsMetadata(Metadata):
    """Embeddings of all items: `embeddings.npy`, `(items, dim)` by item row; `has_image.npy`, bool `(items,)`;
    `picture_sha256.npy`, uint8 `(items, 32)`, the content hash of each item's picture.

    Rows of items without a picture are zeros.

    Attributes:
        items: number of rows.
        items_with_image: how many have a picture.
        dim: length of the vectors; the encoder's, unless they are whitened.
        dtype: of the stored vectors.
        precision: Keras policy that they were computed under.
        embeddings_sha256: digest of `embeddings.npy`.
        item_ids_sha256: digest of the table whose rows these are.
        pictures_sha256: `Manifest.pictures_sha256` of the dataset.
        picture_form: how the dataset stores its pictures: equal sources in equal form are equal pictures.
        picture_hashes_sha256: digest of `picture_sha256.npy`; empty if there is none.
        encoder: what made them.
        whitening: what was done to them since; `None` if nothing.
    """

    kind: Literal["embeddings"] = "embeddings"
    items: int
    items_with_image: int
    dim: int
    dtype: Literal["float32", "float16"] = "float32"
    precision: str = "float32"
    embeddings_sha256: str
    item_ids_sha256: str
    pictures_sha256: str
    picture_form: str = ""
    picture_hashes_sha256: str = ""
    encoder: EncoderMetadata
    whitening: WhiteningMetadata | None = None


def load_embeddings(directory: Path) -> tuple[EmbeddingsMetadata, np.ndarray, np.ndarray]:
    """Opens what `models.embed` or `models.whiten` wrote.

    Args:
        directory: the embeddings directory.

    Returns:
        The metadata; the embeddings, float32 or float16 `(items, dim)` by item row, memory-mapped, zero rows without
        picture; and which items have a picture, bool `(items,)`.

    Raises:
        ArtifactError: the directory holds no embeddings, or the file is not the one described.
    """
    metadata = read_metadata(EmbeddingsMetadata, directory, "models.embed")
    path = Path(directory) / EMBEDDINGS_FILE
    check_digest(path, metadata.embeddings_sha256)
    return metadata, np.load(path, mmap_mode="r"), np.load(Path(directory) / HAS_IMAGE_FILE)


def load_picture_hashes(directory: Path, metadata: EmbeddingsMetadata) -> np.ndarray:
    """Reads the content hash of each item's picture: uint8 `(items, 32)`, zeros without picture.

    Raises:
        ArtifactError: the embeddings have none, or the file is not the one described.
    """
    if not metadata.picture_hashes_sha256:
        raise ArtifactError(f"{directory} has no hashes of its pictures; make it again")
    path = Path(directory) / PICTURE_HASHES_FILE
    check_digest(path, metadata.picture_hashes_sha256)
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
        ArtifactError: one has an infinite or undefined value; its item row is named.
    """
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise ArtifactError(f"{source}: the vector of item row {items[np.argmin(finite)]} is not finite")


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


def l2_normalize(vectors: np.ndarray) -> np.ndarray:
    """Scales rows to unit length, so that Euclidean order is cosine order (equation 10); zero rows stay zero."""
    vectors = np.asarray(vectors, np.float32)  # squares of float16 overflow
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, 1e-12)
