"""What each trained artifact says of itself, so that pieces of different versions are never mixed.

Every run directory holds a `metadata.json` of one of the classes below, next to the files that the class names.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic

from beam_pipelines.command import CommandError
from beam_pipelines.manifest import Window

METADATA_NAME = "metadata.json"


class Metadata(pydantic.BaseModel):
    """Base of all artifact descriptions."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    def write(self, directory: Path) -> None:
        """Writes `directory/metadata.json`."""
        (Path(directory) / METADATA_NAME).write_text(self.model_dump_json(indent=2) + "\n")

    def digest(self) -> str:
        """Identifies the artifact."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class EncoderMetadata(Metadata):
    """A pre-trained image encoder: `encoder.keras`, `config.yaml`.

    Attributes:
        method: pre-training method, e.g. `courier`.
        image_size: `[height, width]` of its input pictures.
        embedding_dim: length of its output.
        weights_sha256: digest of `encoder.keras`.
        dataset_digest: `Manifest.digest()` of the dataset it learned on.
        window: pages it learned on or was selected by.
        notice: `Manifest.notice` of that dataset.
    """

    kind: Literal["encoder"] = "encoder"
    method: str
    image_size: tuple[int, int]
    embedding_dim: int
    weights_sha256: str
    dataset_digest: str
    window: Window
    notice: str


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


class ClustersMetadata(Metadata):
    """Cluster IDs of all items: `cluster_ids.npy`, int32 `(items,)`, -1 without picture; `centers.npy`, float32
    `(clusters, dim)`.

    Attributes:
        num_clusters: how many centers there are.
        backend: of `models.cluster`, how they were found and how the IDs were.
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
    backend: str
    normalize: bool
    spherical: bool
    mean_squared_distance: float
    seed: int
    centers_sha256: str
    cluster_ids_sha256: str
    embeddings: EmbeddingsMetadata


class RankerMetadata(Metadata):
    """A trained ranker and all that serving needs.

    Files: `ranker.weights.h5`, `config.yaml`, `feature_sizes.yaml`, `feature_values.json`, `calibrator.yaml`;
    `history.json`, the logs of the epochs; `items.parquet`, `users.parquet`, the dataset's
    tables, for the string ID of each row; `example_pages.tfrecord`, some validation pages; `training_counts.npy`, int64
    `(items,)`, occurrences of each item on all train pages as candidate or history step.

    Attributes:
        image_feature: `none`, `vector`, `simscore` or `cluster_id`.
        seed: of initialisation and shuffling.
        dataset_digest: `Manifest.digest()` of the dataset it learned on.
        item_ids_sha256, user_ids_sha256: digests of the tables whose rows it refers to.
        window: training pages.
        negative_rate: share of the unclicked candidates that these pages kept; the ranker corrects for it.
        validation: metrics on the validation pages at the kept epoch.
        embeddings, clusters: where its image feature comes from.
        notice: `Manifest.notice` of the dataset.
    """

    kind: Literal["ranker"] = "ranker"
    image_feature: Literal["none", "vector", "simscore", "cluster_id"]
    seed: int
    dataset_digest: str
    item_ids_sha256: str
    user_ids_sha256: str
    window: Window
    negative_rate: float = pydantic.Field(1.0, gt=0, le=1)
    validation: dict[str, Any]
    embeddings: EmbeddingsMetadata | None
    clusters: ClustersMetadata | None
    notice: str


MetadataT = TypeVar("MetadataT", bound=Metadata)


def read_metadata(kind: type[MetadataT], directory: Path, option: str, made_by: str) -> MetadataT:
    """Reads `directory/metadata.json`.

    Args:
        kind: the class expected there.
        directory: the artifact.
        option: the command-line option that named it, for errors.
        made_by: the command that makes such an artifact, for errors.

    Raises:
        CommandError: there is none, or it describes something else.
    """
    path = Path(directory) / METADATA_NAME
    if not path.is_file():
        raise CommandError(f"{option}: {directory} has no {METADATA_NAME}; {made_by} makes it")
    try:
        return kind.model_validate_json(path.read_text())
    except pydantic.ValidationError as error:
        wanted = kind.model_fields["kind"].default
        raise CommandError(
            f"{option}: {path} does not describe a directory of kind `{wanted}`; {made_by} makes it"
        ) from error
