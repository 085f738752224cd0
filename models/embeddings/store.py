"""The functions that `Embeddings` replaces."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models.embeddings.embeddings import (  # noqa: F401
    EMBEDDINGS_FILE,
    HAS_IMAGE_FILE,
    PICTURE_HASHES_FILE,
    WHITENING_FILE,
    Embeddings,
    EmbeddingsMetadata,
    WhiteningMetadata,
)
from models.embeddings.vectors import check_finite, l2_normalize  # noqa: F401


def load_embeddings(directory: Path) -> tuple[EmbeddingsMetadata, np.ndarray, np.ndarray]:
    """Opens embeddings."""
    embeddings = Embeddings.load(directory)
    return embeddings.metadata, embeddings.vectors, embeddings.has_image


def load_picture_hashes(directory: Path, metadata: EmbeddingsMetadata) -> np.ndarray:
    """Opens the content hashes of the pictures."""
    return Embeddings(directory, metadata).picture_hashes


def read_blocks(directory: Path, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Reads vectors block by block."""
    return Embeddings(directory, None).blocks(rows)


def space_difference(first: EmbeddingsMetadata, second: EmbeddingsMetadata) -> str | None:
    """Says why vectors must not be compared."""
    return first.space_difference(second)
