"""Cluster IDs of all items of a dataset, in a directory that says which embeddings they come from."""

import functools
from pathlib import Path
from typing import Literal

import numpy as np

from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.location import Location
from models.artifact import ArtifactFiles, Metadata, check_digest, read_metadata
from models.data.dataset import Dataset
from models.embeddings.embeddings import EmbeddingsMetadata

Backend = Literal["scann", "cells", "exact", "single_pass"]

CLUSTER_IDS_FILE = "cluster_ids.npy"
CENTERS_FILE = "centers.npy"


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


class Clusters(ArtifactFiles):
    """Cluster IDs of all items of a dataset, as `cluster` makes them.

    The directory holds `cluster_ids.npy`, int32 `(items,)`; `centers.npy`, float32 `(clusters, dim)`; and
    `metadata.json`.

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
    ) -> "Clusters":
        """Writes a directory of clusters.

        Args:
            path: the directory; it is made if it does not exist.
            ids: int32 `(items,)` by item row, -1 without picture.
            centers: float32 `(clusters, dim)`.
            embeddings, backend, normalize, spherical, mean_squared_distance, seed: see `ClustersMetadata`.

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
        return (
            f"<Clusters {self.path}: {metadata.num_clusters} clusters of {metadata.embeddings.items_with_image} "
            f"pictures, dim={self.dim}, {metadata.backend}, centers {metadata.centers_sha256[:12]}>"
        )
