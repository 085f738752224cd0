"""The run directory of a trained ranker: its files, and what they hold."""

import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import h5py
import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic
import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.location import Location
from beam_pipelines.format.manifest import Window, ids_sha256
from beam_pipelines.format.text_file import read_json, write_json
from models.artifact import ArtifactFiles, Metadata, read_metadata
from models.clustering.clusters import ClustersMetadata
from models.config import load_config
from models.embeddings.embeddings import EmbeddingsMetadata
from models.features.spec import FeatureSizes
from models.features.vocabulary import FeatureVocabulary
from models.ranker.calibrator import Calibrator
from models.ranker.config import TrainingConfig, image_features_of
from models.ranker.ranker import Ranker

RANKER_FILE = "ranker.keras"
CONFIG_FILE = "config.yaml"
HISTORY_FILE = "history.json"
FEATURE_VALUES_FILE = "feature_values.json"
ITEMS_FILE = "items.parquet"
USERS_FILE = "users.parquet"
TRAINING_COUNTS_FILE = "training_counts.npy"
EXAMPLE_PAGES_FILE = "example_pages.tfrecord"

# Before there was one file, a ranker was these, besides `config.yaml` and `feature_values.json`.
_OLD_WEIGHTS_FILE = "ranker.weights.h5"
_OLD_SIZES_FILE = "feature_sizes.yaml"
_OLD_CALIBRATOR_FILE = "calibrator.yaml"
_OLD_GROUPS = {
    "layers/candidate_numbers": "dense",
    "items/vars": "items/pictures/vars",
}
_OLD_ENCODERS = ("image_projection", "cluster_embedding")


class RankerMetadata(Metadata):
    """What a trained ranker says of itself.

    Attributes:
        image_feature: how pictures enter it, names joined by commas.
        seed: of initialisation and shuffling.
        dataset_digest: `Manifest.digest()` of the dataset it learned on.
        item_ids_sha256, user_ids_sha256: digests of the tables whose rows it refers to.
        window: training pages.
        negative_rate: share of the unclicked candidates that these pages kept; the ranker corrects for it.
        validation: metrics on the validation pages at the kept epoch.
        embeddings, clusters: where its image features come from; several embeddings in their order.
        notice: `Manifest.notice` of the dataset.
    """

    kind: Literal["ranker"] = "ranker"
    image_feature: Annotated[str, pydantic.AfterValidator(lambda names: ",".join(image_features_of(names)))]
    seed: int
    dataset_digest: str
    item_ids_sha256: str
    user_ids_sha256: str
    window: Window
    negative_rate: float = pydantic.Field(1.0, gt=0, le=1)
    validation: dict[str, Any]
    embeddings: EmbeddingsMetadata | tuple[EmbeddingsMetadata, ...] | None
    clusters: ClustersMetadata | None
    notice: str


class RowIds(NamedTuple):
    """The string IDs by row, of the tables that a ranker refers to."""

    items: list[str]
    users: list[str]


class RankerRun(ArtifactFiles):
    """The directory that `models.train_ctr` writes.

    Files: `metadata.json`; `ranker.keras`, the ranker with all that it needs; `config.yaml`, how it was trained;
    `history.json`, the logs of the epochs; `feature_values.json`, its vocabularies and the scales of its numbers, for
    people and other programs; `items.parquet` and `users.parquet`, the dataset's tables, for the string ID
    of each row; `example_pages.tfrecord`, some validation pages; `training_counts.npy`, int64 `(items,)`, occurrences
    of each item on all train pages as candidate or history step.

    Args:
        path: the directory, or its URI.

    Attributes:
        path: as given.
        metadata: what the ranker says of itself.

    Raises:
        ArtifactError: the directory holds no ranker.
    """

    def __init__(self, path: Location | str) -> None:
        super().__init__(path)
        self.metadata = read_metadata(RankerMetadata, self, "models.train_ctr")

    @classmethod
    def save(
        cls,
        path: Path,
        ranker: Ranker,
        metadata: RankerMetadata,
        config: TrainingConfig,
        *,
        items: pa.Table,
        users: pa.Table,
        history: Mapping[str, Sequence[float | None]] | None = None,
        example_records: Sequence[bytes] = (),
        training_counts: np.ndarray | None = None,
    ) -> "RankerRun":
        """Writes a run into a directory that exists.

        Args:
            path: the directory.
            ranker: a trained one.
            metadata: what it says of itself.
            config: how it was trained; `config.ranker` is the ranker's own.
            items, users: the dataset's tables.
            history: the logs of the epochs.
            example_records: serialized validation pages.
            training_counts: int64 `(items,)`, see the class.
        """
        path = Path(path)
        ranker.save(path / RANKER_FILE)
        (path / CONFIG_FILE).write_text(config.to_yaml())
        write_json(path / HISTORY_FILE, history or {})
        if ranker.vocabulary is not None:
            (path / FEATURE_VALUES_FILE).write_text(ranker.vocabulary.model_dump_json() + "\n")
        pq.write_table(items, path / ITEMS_FILE)
        pq.write_table(users, path / USERS_FILE)
        if training_counts is not None:
            np.save(path / TRAINING_COUNTS_FILE, training_counts)
        with tf.io.TFRecordWriter(str(path / EXAMPLE_PAGES_FILE)) as writer:
            for record in example_records:
                writer.write(record)
        metadata.write(path)
        return cls(path)

    def ranker(self) -> Ranker:
        """Loads the ranker, not compiled.

        Raises:
            ArtifactError: it is missing or damaged, or was made for features that this version does not have.
        """
        path = self.file(RANKER_FILE)
        if not path.is_file():
            if self.file(_OLD_WEIGHTS_FILE).is_file():
                return self._old_ranker()
            raise ArtifactError(f"{self.path} has no {RANKER_FILE}; train the ranker again")
        try:
            ranker = keras.models.load_model(path, compile=False)
        except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{path} is damaged, or of another version ({_first_line(error)})") from error
        if ranker.vocabulary is None:
            raise ArtifactError(f"{path} holds a ranker whose feature tables are empty; train the ranker again")
        ranker.vocabulary.check(ranker.config.features)
        return ranker

    def config(self) -> TrainingConfig:
        """How the ranker was trained."""
        return load_config(TrainingConfig, str(self._file(CONFIG_FILE)))

    def history(self) -> dict[str, list[float | None]]:
        """The logs of the epochs, `None` where one is undefined."""
        return read_json(self._file(HISTORY_FILE))

    def items(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The item table, whose rows the ranker refers to."""
        return pq.read_table(self._file(ITEMS_FILE), columns=columns)

    def users(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The user table, whose rows the ranker refers to."""
        return pq.read_table(self._file(USERS_FILE), columns=columns)

    def row_ids(self) -> RowIds:
        """The string IDs by row.

        Raises:
            ArtifactError: they are missing, or not those that the ranker was trained with.
        """
        items = self.items(["item_id"])["item_id"].to_pylist()
        users = self.users(["user_id"])["user_id"].to_pylist()
        for file, ids, digest in (
            (ITEMS_FILE, items, self.metadata.item_ids_sha256),
            (USERS_FILE, users, self.metadata.user_ids_sha256),
        ):
            if ids_sha256(ids) != digest:
                raise ArtifactError(f"{self.path / file} is not the table that the ranker was trained with")
        return RowIds(items, users)

    def example_records(self) -> list[bytes]:
        """Serialized example pages.

        Raises:
            ArtifactError: there are none.
        """
        path = self.file(EXAMPLE_PAGES_FILE)
        records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) if path.is_file() else []
        if not records:
            raise ArtifactError(f"{self.path} has no pages in {EXAMPLE_PAGES_FILE}; train the ranker again")
        return records

    def training_counts(self) -> np.ndarray:
        """Occurrences of each item on all train pages, int64 `(items,)`."""
        return np.load(self._file(TRAINING_COUNTS_FILE))

    def weights_file(self) -> Path:
        """The file that holds the ranker's weights, whose digest says which ranker it is."""
        ranker = self.file(RANKER_FILE)
        return ranker if ranker.is_file() else self.file(_OLD_WEIGHTS_FILE)

    def _file(self, name: str) -> Path:
        file = self.file(name)
        if not file.is_file():
            raise ArtifactError(f"{self.path} has no {name}; train the ranker again")
        return file

    def _old_ranker(self) -> Ranker:
        """The ranker of a run that was written before `ranker.keras`."""
        config = self.config().ranker
        sizes = load_config(FeatureSizes, str(self._file(_OLD_SIZES_FILE)))
        vocabulary = load_config(FeatureVocabulary, str(self._file(FEATURE_VALUES_FILE)))
        vocabulary.check(config.features)
        ranker = Ranker(
            config,
            sizes,
            self.metadata.image_feature,
            self.metadata.negative_rate,
            vocabulary=vocabulary,
            calibrator=load_config(Calibrator, str(self._file(_OLD_CALIBRATOR_FILE))),
        )
        with tempfile.TemporaryDirectory() as scratch:
            weights = shutil.copyfile(self.file(_OLD_WEIGHTS_FILE), Path(scratch, _OLD_WEIGHTS_FILE))
            with h5py.File(weights, "r+") as file:
                for old, new in _OLD_GROUPS.items():
                    if old in file:
                        _move(file, old, new)
                for member in [name for name in file["layers"] if name.startswith("ranker_member")]:
                    for encoder in _OLD_ENCODERS:
                        if (old := f"layers/{member}/items/{encoder}") in file:
                            _move(file, old, f"layers/{member}/items/picture_encoder")
            ranker.load_weights(weights)
        return ranker


def _move(file: h5py.File, old: str, new: str) -> None:
    if new in file:
        del file[new]
    file.move(old, new)


def _first_line(error: Exception) -> str:
    if isinstance(error, pydantic.ValidationError):
        problem = error.errors()[-1]  # of several, the others are about what the value might have been instead
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return str(error).strip().partition("\n")[0]
