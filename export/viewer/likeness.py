"""What the pictures of items have in common: clusters, cosines, nearest neighbours."""

from typing import NamedTuple

import numpy as np

from beam_pipelines.format.errors import ArtifactError, about
from beam_pipelines.format.location import Location
from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from models.embeddings.embeddings import Embeddings
from models.embeddings.neighbours import Neighbours, largest_k
from models.embeddings.vectors import l2_normalize

_NONE = -1


class Members(NamedTuple):
    """A cluster: its ID, its size, and rows of some of its items."""

    cluster: int
    size: int
    rows: list[int]


class PictureTables(NamedTuple):
    """What is known of the pictures of a dataset's items, by item row.

    Attributes:
        vectors: float `(items, dim)`, zeros without picture; `None` for none.
        clusters: int `(items,)`, -1 without; `None` for none.
        vectors_are: what the vectors are, in words.
        have_neighbours: whether near vectors say which pictures are alike; those of cluster centers do not.
    """

    vectors: np.ndarray | None = None
    clusters: np.ndarray | None = None
    vectors_are: str = "embeddings"
    have_neighbours: bool = True

    @classmethod
    def of(
        cls, dataset: Dataset, embeddings: Location | str | None, clusters: Location | str | None
    ) -> "PictureTables":
        """Opens embeddings and clusters of a dataset; `None` for none.

        Raises:
            ArtifactError: one is missing, or of other items.
        """
        vectors = ids = None
        if embeddings is not None:
            with about("embeddings"):
                opened = Embeddings.load(embeddings)
                opened.metadata.check_matches(dataset)
                vectors = opened.vectors
        if clusters is not None:
            with about("clusters"):
                found = Clusters.load(clusters)
                if found.metadata.embeddings.item_ids_sha256 != dataset.manifest.items.ids_sha256:
                    raise ArtifactError(f"made for the items of another dataset than {dataset.path}")
                ids = found.ids
        return cls(vectors, ids)

    def or_else(self, other: "PictureTables") -> "PictureTables":
        """These, and of the other what is not known here."""
        clusters = other.clusters if self.clusters is None else self.clusters
        return (other if self.vectors is None else self)._replace(clusters=clusters)


class Likeness:
    """Compares items by their pictures.

    Args:
        tables: what is known of them.
    """

    def __init__(self, tables: PictureTables) -> None:
        vectors = tables.vectors
        self.vectors_are = tables.vectors_are
        self._vectors = None if vectors is None else l2_normalize(np.asarray(vectors, np.float32))
        self._clusters = tables.clusters
        self._index: Neighbours | None = None
        if self._vectors is not None and tables.have_neighbours:
            self._has_picture = self._vectors.any(axis=1)
            if self._has_picture.sum() > 1:
                self._index = Neighbours(self._vectors, self._has_picture, "cosine")

    @property
    def has_vectors(self) -> bool:
        """Whether there are vectors."""
        return self._vectors is not None

    @property
    def has_clusters(self) -> bool:
        """Whether there are clusters."""
        return self._clusters is not None

    @property
    def has_neighbours(self) -> bool:
        """Whether neighbours can be looked up."""
        return self._index is not None

    def cluster(self, row: int) -> Members | None:
        """The cluster of an item; `None` if it is in none."""
        if self._clusters is None or self._clusters[row] == _NONE:
            return None
        rows = np.flatnonzero(self._clusters == self._clusters[row])
        return Members(int(self._clusters[row]), len(rows), rows.tolist())

    def same_cluster(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray | None:
        """Whether items are in one cluster, bool `(rows, others)`; `None` if clusters are not known."""
        if self._clusters is None:
            return None
        mine, theirs = self._clusters[rows][:, None], self._clusters[others][None, :]
        return (mine == theirs) & (mine != _NONE)

    def cosines(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray | None:
        """Cosines of items, `(rows, others)`, NaN where one has no picture; `None` if vectors are not known."""
        if self._vectors is None:
            return None
        mine, theirs = self._vectors[rows], self._vectors[others]
        return np.where(mine.any(1)[:, None] & theirs.any(1)[None, :], mine @ theirs.T, np.nan)

    def neighbours(self, row: int, count: int) -> list[tuple[int, float]]:
        """The items that look most like one, with their cosines, nearest first; none for an item without picture."""
        if self._index is None or not self._has_picture[row]:
            return []
        nearest = self._index.search(np.array([row]), min(count, largest_k(int(self._has_picture.sum()))))
        return list(zip(nearest.rows[0].tolist(), (1 - nearest.distances[0]).tolist(), strict=True))
