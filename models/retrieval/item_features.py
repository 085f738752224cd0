"""Item features from outside: embeddings of pictures, or any vectors, one per item."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydantic

from beam_pipelines.format.errors import ArtifactError, InputError
from models.data.dataset import Dataset
from models.embeddings.embeddings import Embeddings, EmbeddingsMetadata
from models.embeddings.vectors import check_finite
from models.retrieval.interactions import Interactions


class FeatureSource(pydantic.BaseModel):
    """Where vectors come from.

    Attributes:
        name: of the file or directory.
        dim: length of the vectors.
        sha256: digest of the vectors.
        mean: that they were centred on; empty for what an earlier release has trained.
        length: that they were divided by; 0 for vectors that do not differ.
        embeddings: what embeddings say of themselves; `None` for a file of vectors.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    name: str
    dim: int
    sha256: str
    mean: tuple[float, ...] = ()
    length: float = 0.0
    embeddings: EmbeddingsMetadata | None = None


class ItemFeatures(NamedTuple):
    """Features of one kind.

    Attributes:
        vectors: float32 `(items, dim)`.
        sources: what they were put together from.
    """

    vectors: np.ndarray
    sources: tuple[FeatureSource, ...]


def read_item_features(
    paths: Sequence[str | Path],
    interactions: Interactions,
    dataset: Dataset | None = None,
    *,
    allow_window_overlap: bool = False,
    like: Sequence[FeatureSource] | None = None,
) -> ItemFeatures:
    """Reads vectors of the items and puts those of several sources one behind the other.

    Those of each source are centred on the mean of the items that have one, and divided by their root mean square
    length, so that sources count alike. Zeros, which an item without a picture has, stay zeros.

    Args:
        paths: directories of `models.embed` or `models.whiten`, or `.npy` files `(rows, dim)`, whose rows are those of
            the dataset's item table; without a dataset, item IDs are the numbers of the rows.
        interactions: whose items these are.
        dataset: the page dataset that the interactions come from, if they do.
        allow_window_overlap: whether an encoder may have learned on the pages that are learned from.
        like: the sources of other items' features, one for each path. These are of the same encoders, and are centred
            and divided as those were, so that equal pictures have equal features.

    Raises:
        ArtifactError: embeddings belong to another dataset, or have seen the training pages.
        InputError: a file holds no vectors, or not those of all items; or they are not such as those of `like`.
    """
    if like is not None and len(like) != len(paths):
        names = ", ".join(source.name for source in like)
        raise InputError(f"there must be {len(like)} sources, as in training ({names}). Received: {len(paths)}")
    parts = []
    for number, path in enumerate(paths):
        vectors, source = _read(Path(path), interactions, dataset, allow_window_overlap)
        if like is None:
            mean, length = _mean_and_length(vectors)
        else:
            _check_like(source, like[number])
            mean, length = np.array(like[number].mean, np.float32), like[number].length
        source = source.model_copy(update={"mean": tuple(mean.tolist()), "length": length})
        parts.append((standardized(vectors, mean, length), source))
    return ItemFeatures(np.concatenate([part for part, _ in parts], axis=1), tuple(source for _, source in parts))


def standardized(vectors: np.ndarray, mean: np.ndarray, length: float) -> np.ndarray:
    """Vectors less a mean, divided by a length unless it is 0; rows of zeros stay."""
    centred = np.where(vectors.any(axis=1, keepdims=True), vectors - mean, 0)
    return (centred / length if length else centred).astype(np.float32)


def _mean_and_length(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """The mean of the rows that are not zeros, and their root mean square length around it."""
    there = vectors[vectors.any(axis=1)]
    if not len(there):
        return np.zeros(vectors.shape[1], np.float32), 0.0
    mean = there.mean(axis=0)
    return mean, float(np.sqrt(np.square(there - mean).sum(axis=1).mean()))


def _check_like(source: FeatureSource, like: FeatureSource) -> None:
    """Refuses vectors of another space than those that were learned from."""
    if len(like.mean) != like.dim:
        raise ArtifactError("the retriever does not say how its features were scaled; train it again")
    if source.dim != like.dim:
        raise InputError(f"{source.name} must have {like.dim} numbers per item, as {like.name}. Received: {source.dim}")
    if (source.embeddings is None) != (like.embeddings is None):
        wanted = "a .npy file" if like.embeddings is None else "a directory of embeddings"
        raise InputError(f"{source.name} must be {wanted}, as {like.name} was in training")
    if source.embeddings is not None and like.embeddings is not None:
        difference = like.embeddings.space_difference(source.embeddings)
        if difference is not None:
            raise InputError(f"{source.name} must be of the space of {like.name}, but {difference}")


def _read(
    path: Path, interactions: Interactions, dataset: Dataset | None, allow_window_overlap: bool
) -> tuple[np.ndarray, FeatureSource]:
    metadata = None
    if path.is_dir():
        embeddings = Embeddings.load(path)
        if dataset is None:
            raise InputError(f"{path}: embeddings of a page dataset need that dataset as `data`; give a .npy file")
        embeddings.check_matches(dataset)
        if not allow_window_overlap:
            embeddings.check_no_leakage(dataset)
        vectors, metadata = np.asarray(embeddings.vectors, np.float32), embeddings.metadata
    else:
        vectors = _load_array(path)
    rows = np.arange(interactions.num_items) if dataset is not None else _rows_of_ids(interactions.item_ids, path)
    if rows.min() < 0 or len(vectors) <= rows.max() or (dataset is not None and len(vectors) != len(rows)):
        raise InputError(
            f"{path} must have a vector for each item row, of which the last one is {rows.max()}. "
            f"Received: {len(vectors)} vectors"
        )
    vectors = vectors[rows]
    check_finite(vectors, rows, str(path))
    digest = hashlib.sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest()
    return vectors, FeatureSource(name=path.name, dim=vectors.shape[1], sha256=digest, embeddings=metadata)


def _load_array(path: Path) -> np.ndarray:
    try:
        vectors = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"{path} is neither a directory of embeddings nor a .npy file: {error}") from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        raise InputError(f"{path} must hold numbers of shape (items, dim)")
    return vectors.astype(np.float32)


def _rows_of_ids(item_ids: Sequence[str], path: Path) -> np.ndarray:
    try:
        return np.array([int(text) for text in item_ids])
    except ValueError as error:
        raise InputError(f"{path}: item IDs must be numbers of rows where there is no dataset: {error}") from error
