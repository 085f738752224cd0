"""Cluster IDs of all items of a dataset, in a directory that says which embeddings they come from."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic

from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.location import Location
from models.artifact import ArtifactFiles, Metadata, check_digest, read_metadata
from models.clustering.kmeans import Clustering
from models.clustering.replacement import ReplacedClusters, Replacement
from models.data.dataset import Dataset
from models.embeddings.embeddings import EmbeddingsMetadata

Backend = Literal["scann", "cells", "exact", "single_pass", "hash"]

CLUSTER_IDS_FILE = "cluster_ids.npy"
CENTERS_FILE = "centers.npy"
DEEPER_IDS_FILE = "deeper_ids.npy"
DEEPER_CENTERS_FILE = "deeper_centers.npy"
REPLACED_FILE = "replaced.npy"


class DeeperLevels(pydantic.BaseModel):
    """The levels below the first one, whose IDs together make semantic IDs.

    Attributes:
        mean_squared_distances: of each level, of the residuals of the level above to their centers.
        prefixes: of each length, how many different prefixes the pictures have; the last one is the number of different
            semantic IDs.
        sharing: pictures whose semantic ID another picture has, too: collisions.
        centers_sha256, ids_sha256: digests of `deeper_centers.npy` and `deeper_ids.npy`.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    mean_squared_distances: tuple[float, ...]
    prefixes: tuple[int, ...]
    sharing: int
    centers_sha256: str
    ids_sha256: str


class ClustersMetadata(Metadata):
    """What a directory of clusters holds.

    Attributes:
        num_clusters: how many centers there are.
        backend: of `cluster`, how they were found and how the IDs were.
        normalize: whether the embeddings were scaled to unit length first.
        spherical: whether the centers are of unit length.
        mean_squared_distance: of the embeddings to their centers.
        seed: of the start.
        centers_sha256: digest of `centers.npy`: IDs of equal centers mean the same.
        cluster_ids_sha256: digest of `cluster_ids.npy`.
        embeddings: what was clustered, or assigned to centers that were there before.
        deeper: the levels below the first one, which everything else is about; `None` without.
        replaced: the clusters whose place these take; `None` if they take nobody's.
    """

    kind: Literal["clusters"] = "clusters"
    num_clusters: int
    backend: Backend
    normalize: bool
    spherical: bool
    mean_squared_distance: float
    seed: int
    centers_sha256: str
    cluster_ids_sha256: str
    embeddings: EmbeddingsMetadata
    # Left out where there are none: the digests of clusters that were made before stay.
    deeper: DeeperLevels | None = pydantic.Field(None, exclude_if=lambda deeper: deeper is None)
    replaced: ReplacedClusters | None = pydantic.Field(None, exclude_if=lambda replaced: replaced is None)

    @property
    def levels(self) -> int:
        """Number of levels."""
        return 1 if self.deeper is None else len(self.deeper.prefixes)

    def same_centers(self, other: "ClustersMetadata") -> bool:
        """Whether equal IDs mean the same, at all levels."""
        deeper = [each.deeper and each.deeper.centers_sha256 for each in (self, other)]
        return self.centers_sha256 == other.centers_sha256 and deeper[0] == deeper[1]


class Clusters(ArtifactFiles):
    """Cluster IDs of all items of a dataset, as `cluster` makes them.

    The directory holds `cluster_ids.npy`, int32 `(items,)`; `centers.npy`, float32 `(clusters, dim)`; and
    `metadata.json`. With several levels, these are of the first one; `deeper_ids.npy`, int32 `(items, levels - 1)`, and
    `deeper_centers.npy`, float32 `(levels - 1, clusters, dim)`, are of the others, each of which clusters the residuals
    of the one above: what a picture is less its center, at unit length if embeddings are.

    Args:
        path: the directory, or its URI. Its files are opened when they are first used, and not verified: see `load`.
        metadata: what it holds.

    Example:
        >>> clusters = Clusters.load("artifacts/clusters")
        >>> clusters.centers[clusters.ids[7]].shape
        (64,)
    """

    def __init__(self, path: Location | str, metadata: ClustersMetadata) -> None:
        super().__init__(path)
        self.metadata = metadata

    @classmethod
    def load(cls, path: Location | str) -> "Clusters":
        """Opens clusters and verifies that the files are those that the metadata describe.

        Raises:
            ArtifactError: the directory holds no clusters, or a file is not the one described.
        """
        files = ArtifactFiles(path)
        metadata = read_metadata(ClustersMetadata, files, "models.cluster")
        check_digest(files.file(CENTERS_FILE), metadata.centers_sha256)
        check_digest(files.file(CLUSTER_IDS_FILE), metadata.cluster_ids_sha256)
        if metadata.deeper is not None:
            check_digest(files.file(DEEPER_CENTERS_FILE), metadata.deeper.centers_sha256)
            check_digest(files.file(DEEPER_IDS_FILE), metadata.deeper.ids_sha256)
        if metadata.replaced is not None:
            check_digest(files.file(REPLACED_FILE), metadata.replaced.replaced_sha256)
        return cls(files.path, metadata)

    @classmethod
    def save(
        cls,
        path: Path | str,
        ids: np.ndarray,
        centers: np.ndarray,
        *,
        embeddings: EmbeddingsMetadata,
        backend: Backend,
        normalize: bool,
        spherical: bool,
        mean_squared_distance: float,
        seed: int,
        deeper: Sequence[Clustering] = (),
        replacement: Replacement | None = None,
    ) -> "Clusters":
        """Writes a directory of clusters.

        Args:
            path: the directory; it is made if it does not exist.
            ids: int32 `(items,)` by item row, -1 without picture.
            centers: float32 `(clusters, dim)`.
            embeddings, backend, normalize, spherical, mean_squared_distance, seed: see `ClustersMetadata`.
            deeper: the levels below, of as many clusters.
            replacement: whose place they take.

        Raises:
            ValueError: `ids` or `centers` does not go with the embeddings.
        """
        if ids.shape != (embeddings.items,):
            raise ValueError(f"`ids` must have shape ({embeddings.items},), an ID per item. Received: {ids.shape}")
        if centers.ndim != 2 or centers.shape[1] != embeddings.dim:
            raise ValueError(f"`centers` must have shape (clusters, {embeddings.dim}). Received: {centers.shape}")
        if ids.max(initial=-1) >= len(centers):
            raise ValueError(f"`ids` must be below the number of centers, {len(centers)}. Received: {ids.max()}")
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        np.save(path / CENTERS_FILE, centers)
        np.save(path / CLUSTER_IDS_FILE, ids)
        levels = None
        if deeper:
            np.save(path / DEEPER_CENTERS_FILE, np.stack([level.centers for level in deeper]))
            np.save(path / DEEPER_IDS_FILE, np.stack([level.ids for level in deeper], axis=1))
            codes = np.stack([ids, *(level.ids for level in deeper)], axis=1)[ids >= 0]
            lengths = range(1, codes.shape[1] + 1)
            prefixes = [np.unique(_numbers(codes[:, :length], len(centers)), return_counts=True) for length in lengths]
            pictures = prefixes[-1][1]
            levels = DeeperLevels(
                mean_squared_distances=tuple(level.mean_squared_distance for level in deeper),
                prefixes=tuple(len(numbers) for numbers, _ in prefixes),
                sharing=int(pictures[pictures > 1].sum()),
                centers_sha256=file_sha256(path / DEEPER_CENTERS_FILE),
                ids_sha256=file_sha256(path / DEEPER_IDS_FILE),
            )
        replaced = None
        if replacement is not None:
            np.save(path / REPLACED_FILE, replacement.old)
            replaced = ReplacedClusters(
                centers_sha256=replacement.centers_sha256,
                num_clusters=replacement.num_clusters,
                matched=int((replacement.old >= 0).sum()),
                pictures=replacement.pictures,
                replaced_sha256=file_sha256(path / REPLACED_FILE),
            )
        metadata = ClustersMetadata(
            num_clusters=len(centers),
            backend=backend,
            normalize=normalize,
            spherical=spherical,
            mean_squared_distance=mean_squared_distance,
            seed=seed,
            centers_sha256=file_sha256(path / CENTERS_FILE),
            cluster_ids_sha256=file_sha256(path / CLUSTER_IDS_FILE),
            embeddings=embeddings,
            deeper=levels,
            replaced=replaced,
        )
        metadata.write(path)
        return cls(path, metadata)

    @functools.cached_property
    def ids(self) -> np.ndarray:
        """The cluster ID of each item row: int32 `(items,)`, -1 without picture."""
        return np.load(self.file(CLUSTER_IDS_FILE))

    @functools.cached_property
    def centers(self) -> np.ndarray:
        """The center of each cluster: float32 `(clusters, dim)`."""
        return np.load(self.file(CENTERS_FILE))

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """The ID of each item row at every level: int32 `(items, levels)`, -1 without picture."""
        if self.metadata.deeper is None:
            return self.ids[:, None]
        return np.concatenate([self.ids[:, None], np.load(self.file(DEEPER_IDS_FILE))], axis=1)

    @functools.cached_property
    def level_centers(self) -> np.ndarray:
        """The centers of all levels: float32 `(levels, clusters, dim)`."""
        if self.metadata.deeper is None:
            return self.centers[None]
        return np.concatenate([self.centers[None], np.load(self.file(DEEPER_CENTERS_FILE))])

    @functools.cached_property
    def replaced(self) -> np.ndarray | None:
        """The old cluster whose place each takes, -1 for none: int32 `(clusters,)`; `None` if they take nobody's."""
        return None if self.metadata.replaced is None else np.load(self.file(REPLACED_FILE))

    @property
    def semantic_ids(self) -> np.ndarray:
        """The semantic ID of each item row as a number: int64 `(items,)`, -1 without picture.

        Its digits to the base of `num_clusters` are the `codes`, the first level first: divided by that base, it is the
        prefix of one level less.
        """
        return np.where(self.ids < 0, -1, _numbers(self.codes, self.metadata.num_clusters))

    @property
    def sizes(self) -> np.ndarray:
        """Number of items of each cluster: int64 `(clusters,)`."""
        return np.bincount(self.ids[self.ids >= 0], minlength=self.metadata.num_clusters)

    @property
    def dim(self) -> int:
        """Length of the centers."""
        return self.metadata.embeddings.dim

    def check_matches(self, dataset: Dataset) -> None:
        """Refuses a dataset of other items or pictures; see `EmbeddingsMetadata.check_matches`."""
        self.metadata.embeddings.check_matches(dataset)

    def check_no_leakage(self, dataset: Dataset, split: str = "train") -> None:
        """Refuses an encoder that has seen the time of a split; see `EmbeddingsMetadata.check_no_leakage`."""
        self.metadata.embeddings.check_no_leakage(dataset, split)

    def __repr__(self) -> str:
        metadata = self.metadata
        levels = f"{metadata.levels} levels of " if metadata.levels > 1 else ""
        pictures = metadata.embeddings.items_with_image
        return (
            f"<Clusters {self.path}: {levels}{metadata.num_clusters} clusters of {pictures} pictures, "
            f"dim={self.dim}, {metadata.backend}, centers {metadata.centers_sha256[:12]}>"
        )


def _numbers(codes: np.ndarray, base: int) -> np.ndarray:
    """Rows of digits `(n, digits)` as numbers, int64 `(n,)`."""
    number = np.zeros(len(codes), np.int64)
    for digit in codes.T:
        number = number * base + digit
    return number
