"""Image embeddings of all items of a dataset, in a directory that says what made them."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.location import Location
from beam_pipelines.format.manifest import Window
from models.artifact import ArtifactFiles, Metadata, check_digest, read_metadata
from models.data.dataset import Dataset
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
    """What a directory of embeddings holds.

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

    def check_matches(self, dataset: Dataset) -> None:
        """Refuses a dataset of other items or pictures.

        Raises:
            ArtifactError: the embeddings were made for another dataset.
        """
        if self.item_ids_sha256 != dataset.manifest.items.ids_sha256:
            raise ArtifactError(
                f"made for the items of another dataset than {dataset.path}; run models.embed on this one"
            )
        if self.pictures_sha256 != dataset.manifest.pictures_sha256:
            raise ArtifactError(f"made from other pictures than those of {dataset.path}; run models.embed on this one")

    def check_no_leakage(self, dataset: Dataset, split: str = "train") -> None:
        """Refuses an encoder that learned on pages of the time that a ranker is going to learn on.

        Such an encoder makes pictures look better in training than they are, and the ranker relies on them too much.

        Raises:
            ArtifactError: the windows overlap.
        """
        window, train = self.encoder.window, dataset.split(split).window
        if window is not None and window.overlaps(train):
            raise ArtifactError(
                f"its encoder learned on pages from {window.first} to {window.last}, which overlap the {split} pages "
                f"from {train.first} to {train.last}: pictures would look better in training than they are. Build the "
                "dataset with `split_by_time`, or pass `allow_window_overlap=True`"
            )

    def space_difference(self, other: "EmbeddingsMetadata") -> str | None:
        """Says why vectors of two embeddings must not be compared with each other: they are of two versions.

        Returns:
            How their encoders or their whitenings differ, in words; `None` if both are the same.
        """
        encoders = [metadata.encoder.digest()[:12] for metadata in (self, other)]
        if encoders[0] != encoders[1]:
            return f"their encoders differ: {encoders[0]} and {encoders[1]}"
        whitenings = [
            metadata.whitening.whitening_sha256[:12] if metadata.whitening else "none" for metadata in (self, other)
        ]
        if whitenings[0] != whitenings[1]:
            return f"their whitenings differ: {whitenings[0]} and {whitenings[1]}"
        return None


class Embeddings(ArtifactFiles):
    """Image embeddings of all items of a dataset, as `embed` and `whiten` make them.

    The directory holds `embeddings.npy`, `(items, dim)` by item row; `has_image.npy`, bool `(items,)`;
    `picture_sha256.npy`, uint8 `(items, 32)`; `whitening.npz` if they are whitened; and `metadata.json`.

    Args:
        path: the directory, or its URI. Its files are opened when they are first used, and not verified: see `load`.
        metadata: what it holds.

    Example:
        >>> embeddings = Embeddings.load("artifacts/embeddings")
        >>> embeddings.vectors[embeddings.has_image].shape
        (1180, 64)
    """

    def __init__(self, path: Location | str, metadata: EmbeddingsMetadata) -> None:
        super().__init__(path)
        self.metadata = metadata

    @classmethod
    def load(cls, path: Location | str) -> "Embeddings":
        """Opens embeddings and verifies that the vectors are those that the metadata describe.

        Raises:
            ArtifactError: the directory holds no embeddings, or a file is not the one described.
        """
        files = ArtifactFiles(path)
        metadata = read_metadata(EmbeddingsMetadata, files, "models.embed")
        check_digest(files.file(EMBEDDINGS_FILE), metadata.embeddings_sha256)
        embeddings = cls(files.path, metadata)
        file = embeddings.file(HAS_IMAGE_FILE)
        found = file.is_file() and (len(embeddings.has_image), int(embeddings.has_image.sum()))
        if found != (metadata.items, metadata.items_with_image):
            raise ArtifactError(f"{file} is missing or is not the file its metadata describes")
        return embeddings

    @classmethod
    def save(
        cls,
        path: Path | str,
        vectors: np.ndarray | Path,
        has_image: np.ndarray,
        *,
        encoder: EncoderMetadata,
        item_ids_sha256: str,
        pictures_sha256: str,
        picture_hashes: np.ndarray | None = None,
        picture_form: str = "",
        precision: str = "float32",
        whitening: WhiteningMetadata | None = None,
    ) -> "Embeddings":
        """Writes a directory of embeddings.

        Args:
            path: the directory; it is made if it does not exist.
            vectors: float32 or float16 `(items, dim)` by item row, zeros without picture; or an `.npy` file of them,
                which is moved into the directory after everything else is there.
            has_image: bool `(items,)`.
            encoder, item_ids_sha256, pictures_sha256, picture_form, precision: see `EmbeddingsMetadata`.
            picture_hashes: uint8 `(items, 32)`, the content hash of each item's picture, zeros without.
            whitening: of the `whitening.npz` that is in the directory already.

        Raises:
            ValueError: `vectors`, `has_image` or `picture_hashes` is of another shape or type.
        """
        path = Path(path)
        stored = vectors if isinstance(vectors, np.ndarray) else np.load(vectors, mmap_mode="r")
        if stored.ndim != 2 or stored.dtype not in (np.float32, np.float16):
            raise ValueError(
                "`vectors` must be float32 or float16 of shape (items, dim). "
                f"Received: {stored.dtype} of shape {stored.shape}"
            )
        if has_image.shape != stored.shape[:1] or has_image.dtype != bool:
            raise ValueError(
                f"`has_image` must be bool of shape ({len(stored)},). "
                f"Received: {has_image.dtype} of shape {has_image.shape}"
            )
        if picture_hashes is not None and picture_hashes.shape != (len(stored), 32):
            raise ValueError(f"`picture_hashes` must have shape ({len(stored)}, 32). Received: {picture_hashes.shape}")
        path.mkdir(parents=True, exist_ok=True)
        if isinstance(vectors, np.ndarray):
            np.save(path / EMBEDDINGS_FILE, vectors)
            vectors = path / EMBEDDINGS_FILE
        np.save(path / HAS_IMAGE_FILE, has_image)
        if picture_hashes is not None:
            np.save(path / PICTURE_HASHES_FILE, picture_hashes)
        if whitening is not None:
            check_digest(path / WHITENING_FILE, whitening.whitening_sha256)
        metadata = EmbeddingsMetadata(
            items=len(stored),
            items_with_image=int(has_image.sum()),
            dim=stored.shape[1],
            dtype=stored.dtype.name,
            precision=precision,
            embeddings_sha256=file_sha256(vectors),
            item_ids_sha256=item_ids_sha256,
            pictures_sha256=pictures_sha256,
            picture_form=picture_form,
            picture_hashes_sha256="" if picture_hashes is None else file_sha256(path / PICTURE_HASHES_FILE),
            encoder=encoder,
            whitening=whitening,
        )
        metadata.write(path)
        os.replace(vectors, path / EMBEDDINGS_FILE)
        return cls(path, metadata)

    @functools.cached_property
    def vectors(self) -> np.ndarray:
        """The embeddings, float32 or float16 `(items, dim)` by item row, memory-mapped; zeros without picture."""
        return np.load(self.file(EMBEDDINGS_FILE), mmap_mode="r")

    @functools.cached_property
    def has_image(self) -> np.ndarray:
        """Which items have a picture, bool `(items,)`."""
        return np.load(self.file(HAS_IMAGE_FILE))

    @functools.cached_property
    def picture_hashes(self) -> np.ndarray:
        """SHA-256 of each item's picture: uint8 `(items, 32)`, zeros without picture.

        Raises:
            ArtifactError: there are none, or the file is not the one described.
        """
        if not self.metadata.picture_hashes_sha256:
            raise ArtifactError(f"{self.path} has no hashes of its pictures; make it again")
        file = self.file(PICTURE_HASHES_FILE)
        check_digest(file, self.metadata.picture_hashes_sha256)
        return np.load(file)

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.metadata.dim

    def blocks(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Reads the vectors a block after the other, and yields each with the item row that it begins at.

        Whatever of a memory map was touched counts as memory of the process; what is read here does not stay.

        Args:
            rows: of a block; the last one may have fewer.
        """
        file = self.file(EMBEDDINGS_FILE)
        vectors = np.load(file, mmap_mode="r")
        items, dim = vectors.shape
        for start in range(0, items, rows):
            count = min(rows, items - start)
            offset = vectors.offset + start * dim * vectors.itemsize
            yield start, np.fromfile(file, vectors.dtype, count * dim, offset=offset).reshape(count, dim)

    def check_matches(self, dataset: Dataset) -> None:
        """Refuses a dataset of other items or pictures; see `EmbeddingsMetadata.check_matches`."""
        self.metadata.check_matches(dataset)

    def check_no_leakage(self, dataset: Dataset, split: str = "train") -> None:
        """Refuses an encoder that has seen the time of a split; see `EmbeddingsMetadata.check_no_leakage`."""
        self.metadata.check_no_leakage(dataset, split)

    def __repr__(self) -> str:
        metadata = self.metadata
        whitened = ", whitened" if metadata.whitening else ""
        return (
            f"<Embeddings {self.path}: {metadata.items_with_image} of {metadata.items} items, dim={metadata.dim}, "
            f"{metadata.dtype}, by {metadata.encoder.method} encoder {metadata.encoder.digest()[:12]}{whitened}>"
        )
