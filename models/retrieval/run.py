"""The run directory of a trained recommender: its files, and what they hold."""

import functools
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.location import Location
from beam_pipelines.format.manifest import Window, ids_sha256
from beam_pipelines.format.text_file import read_json, write_json
from models.artifact import ArtifactFiles, Metadata, read_metadata
from models.retrieval.interactions import Interactions, Kind
from models.retrieval.item_features import FeatureSource
from models.retrieval.retriever import Retriever, best_items

MODEL_FILE = "recommender.keras"
CONFIG_FILE = "config.yaml"
HISTORY_FILE = "history.json"
ITEMS_FILE = "items.parquet"
USERS_FILE = "users.parquet"
ITEM_VECTORS_FILE = "item_vectors.npy"
USER_VECTORS_FILE = "user_vectors.npy"


class RetrievalMetadata(Metadata):
    """What a recommender says of itself.

    Attributes:
        method: name of the recommender.
        seed: of initialisation and sampling.
        interactions_sha256: `Interactions.digest()`.
        counts: what became of the interactions' rows.
        interactions: what counts on pages.
        dataset_digest: of the page dataset that they come from; `None` if they come from a file.
        item_ids_sha256, user_ids_sha256: digests of the IDs in row order.
        window: training pages; `None` if the interactions come from a file.
        features: where the item features come from, kind by kind.
        validation: metrics on the validation interactions at the kept epoch, and its number.
        test: metrics on the test interactions; `None` if there are none.
        notice: `Manifest.notice` of the dataset.
    """

    kind: Literal["retrieval"] = "retrieval"
    method: str
    seed: int
    interactions_sha256: str
    counts: dict[str, int]
    interactions: Kind = "click"
    dataset_digest: str | None
    item_ids_sha256: str
    user_ids_sha256: str
    window: Window | None
    features: tuple[tuple[FeatureSource, ...], ...]
    validation: dict[str, Any]
    test: dict[str, Any] | None
    notice: str


class RetrievalRun(ArtifactFiles):
    """The directory that `models.train_retrieval` writes.

    Files: `metadata.json`; `recommender.keras`, the model with the interactions and features that it needs;
    `config.yaml`, how it was trained; `history.json`, the logs of the epochs; `items.parquet` and `users.parquet`, the
    string ID of each row; `item_vectors.npy` and `user_vectors.npy`, float32 `(rows, dim)`, whose products are the
    scores.

    Args:
        path: the directory, or its URI.

    Attributes:
        path: as given.
        metadata: what the recommender says of itself.

    Raises:
        ArtifactError: the directory holds no recommender.

    Example:
        >>> RetrievalRun("artifacts/retrieval").recommend(["A2VG8V0MPVDTCE"], k=20)
        [['B000RAGDN4', ...]]
    """

    def __init__(self, path: Location | str) -> None:
        super().__init__(path)
        self.metadata = read_metadata(RetrievalMetadata, self, "models.train_retrieval")

    @classmethod
    def save(
        cls,
        path: Path,
        model: Retriever,
        metadata: RetrievalMetadata,
        interactions: Interactions,
        history: Mapping[str, Sequence[float | None]],
    ) -> "RetrievalRun":
        """Writes a run into a directory that exists.

        Args:
            path: the directory.
            model: a trained one.
            metadata: what it says of itself.
            interactions: whose rows the model has.
            history: the logs of the epochs.
        """
        path = Path(path)
        model.save(path / MODEL_FILE)
        (path / CONFIG_FILE).write_text(model.config.to_yaml())
        write_json(path / HISTORY_FILE, history)
        pq.write_table(pa.table({"item_id": pa.array(interactions.item_ids, pa.string())}), path / ITEMS_FILE)
        pq.write_table(pa.table({"user_id": pa.array(interactions.user_ids, pa.string())}), path / USERS_FILE)
        users, items = model.vectors()
        np.save(path / USER_VECTORS_FILE, users)
        np.save(path / ITEM_VECTORS_FILE, items)
        metadata.write(path)
        return cls(path)

    @functools.cached_property
    def model(self) -> Retriever:
        """The recommender, not compiled.

        Raises:
            ArtifactError: it is missing or damaged.
        """
        from models.retrieval.methods import find_method  # which registers the class

        find_method(self.metadata.method)
        path = self._file(MODEL_FILE)
        try:
            return keras.models.load_model(path, compile=False)
        except (ValueError, OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
            first = str(error).strip().partition("\n")[0]
            raise ArtifactError(f"{path} is damaged, or of another version ({first})") from error

    @functools.cached_property
    def item_ids(self) -> list[str]:
        """The string ID of each item row."""
        return self._ids(ITEMS_FILE, "item_id", self.metadata.item_ids_sha256)

    @functools.cached_property
    def user_ids(self) -> list[str]:
        """The string ID of each user row."""
        return self._ids(USERS_FILE, "user_id", self.metadata.user_ids_sha256)

    @property
    def item_vectors(self) -> np.ndarray:
        """The vector of each item, float32 `(items, dim)`, memory-mapped."""
        return np.load(self._file(ITEM_VECTORS_FILE), mmap_mode="r")

    @property
    def user_vectors(self) -> np.ndarray:
        """The vector of each user, float32 `(users, dim)`, memory-mapped."""
        return np.load(self._file(USER_VECTORS_FILE), mmap_mode="r")

    def history(self) -> dict[str, list[float | None]]:
        """The logs of the epochs, `None` where one is undefined."""
        return read_json(self._file(HISTORY_FILE))

    def recommend(self, user_ids: Sequence[str], k: int = 20) -> list[list[str]]:
        """The best items of users by their IDs, best first, without those that they have.

        Args:
            user_ids: whom for.
            k: how many, fewer where a user has nearly everything.

        Raises:
            InputError: a user is unknown.
        """
        rows = {user: row for row, user in enumerate(self.user_ids)}
        if unknown := [user for user in user_ids if user not in rows]:
            raise InputError(f"`user_ids` must be users of {self.path}. Received: {', '.join(unknown[:3])}")
        seen = self.model.seen
        assert seen is not None  # of a model that was trained
        users = [rows[user] for user in user_ids]
        items, _ = best_items(users, self.user_vectors, self.item_vectors, seen, k)
        return [[self.item_ids[row] for row in best if row >= 0] for best in items.tolist()]

    def _ids(self, name: str, column: str, digest: str) -> list[str]:
        ids = pq.read_table(self._file(name))[column].to_pylist()
        if ids_sha256(ids) != digest:
            raise ArtifactError(f"{self.path / name} is not the table that the recommender was trained with")
        return ids

    def _file(self, name: str) -> Path:
        file = self.file(name)
        if not file.is_file():
            raise ArtifactError(f"{self.path} has no {name}; train the recommender again")
        return file
