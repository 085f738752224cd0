"""Vectors in arrays and in `.npy` files: unit length, checks, and files larger than memory."""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from beam_pipelines.format.errors import ArtifactError

_LEAST_NORM, _LARGEST_NORM = 1e-12, 1e18  # whose squares float32 holds


def l2_normalize(vectors: np.ndarray) -> np.ndarray:
    """Scales rows to unit length, so that Euclidean order is cosine order (equation 10); zero rows stay zero."""
    vectors = np.asarray(vectors, np.float32)  # squares of float16 overflow
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    extreme = ~((norms[..., 0] > _LEAST_NORM) & (norms[..., 0] < _LARGEST_NORM)) & vectors.any(axis=-1)
    if extreme.any():  # squares of float32 overflow, too, or vanish
        exact = vectors[extreme].astype(np.float64)
        vectors = vectors.copy()
        vectors[extreme] = exact / np.linalg.norm(exact, axis=-1, keepdims=True)
        norms[extreme] = 1
    return vectors / np.maximum(norms, 1e-12)


def check_finite(vectors: np.ndarray, item_rows: np.ndarray, source: str) -> None:
    """Refuses vectors with an infinite or undefined value.

    Args:
        vectors: `(n, dim)`.
        item_rows: int `(n,)`, whose they are.
        source: where they come from, for the error.

    Raises:
        ArtifactError: there is one; its item row is named.
    """
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise ArtifactError(f"{source}: the vector of item row {item_rows[np.argmin(finite)]} is not finite")


def create_vectors(path: Path, shape: tuple[int, int], dtype: np.dtype) -> None:
    """Creates an `.npy` file of zeros, to be filled through a memory map."""
    with open(path, "wb") as file:
        _write_header(file, shape, dtype)
        file.flush()
        # A full disk is an error here; of a file with holes, it would end the process without a word later.
        os.posix_fallocate(file.fileno(), file.tell(), math.prod(shape) * dtype.itemsize)


def write_vectors(path: Path, shape: tuple[int, int], dtype: np.dtype, blocks: Iterable[np.ndarray]) -> None:
    """Writes an `.npy` file of blocks of rows, of this dtype and together of this shape."""
    with open(path, "wb") as file:
        _write_header(file, shape, dtype)
        for block in blocks:
            block.tofile(file)


def _write_header(file: BinaryIO, shape: tuple[int, int], dtype: np.dtype) -> None:
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
