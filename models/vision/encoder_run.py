"""The run directory of a pre-trained image encoder: what it holds, and how that is written and read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.location import Location
from beam_pipelines.format.manifest import Window
from beam_pipelines.format.text_file import read_json, write_json
from models.artifact import ArtifactFiles, Metadata, check_digest, read_metadata

if TYPE_CHECKING:
    from models.vision.encoder import ImageEncoder

ENCODER_FILE = "encoder.keras"
CONFIG_FILE = "config.yaml"
HISTORY_FILE = "history.json"
ATTENTION_FILE = "attention.html"
LOGS = "logs"


class EncoderMetadata(Metadata):
    """A pre-trained image encoder.

    Attributes:
        method: pre-training method, e.g. `courier`; `none` for a published encoder as it is.
        image_size: `[height, width]` of its input pictures.
        embedding_dim: length of its output.
        weights_sha256: digest of `encoder.keras`.
        dataset_digest: `Manifest.digest()` of the dataset it learned on; `None` if it has not learned.
        window: pages it learned on or was selected by; `None` if it has seen none.
        notice: `Manifest.notice` of that dataset.
    """

    kind: Literal["encoder"] = "encoder"
    method: str
    image_size: tuple[int, int]
    embedding_dim: int
    weights_sha256: str
    dataset_digest: str | None
    window: Window | None
    notice: str


class EncoderRun(ArtifactFiles):
    """A pre-trained image encoder on disk, as `pretrain` makes it.

    The directory holds `encoder.keras`; `config.yaml`, how it was trained; `history.json`, the logs of its epochs;
    `logs/` for TensorBoard; `attention.html` of COURIER if there were pages to validate on; and `metadata.json`.

    Args:
        path: the directory, or its URI.
        metadata: what it holds.

    Example:
        >>> run = EncoderRun.load("artifacts/encoder")
        >>> run.encoder()(np.zeros((1, *run.metadata.image_size, 3), np.uint8)).shape
        TensorShape([1, 256])
    """

    def __init__(self, path: Location | str, metadata: EncoderMetadata) -> None:
        super().__init__(path)
        self.metadata = metadata

    @classmethod
    def load(cls, path: Location | str) -> "EncoderRun":
        """Opens a run directory and verifies that its encoder is the one that the metadata describe.

        Raises:
            ArtifactError: the directory holds no encoder, or the file is not the one described.
        """
        files = ArtifactFiles(path)
        metadata = read_metadata(EncoderMetadata, files, "models.pretrain")
        check_digest(files.file(ENCODER_FILE), metadata.weights_sha256)
        return cls(files.path, metadata)

    @classmethod
    def save(
        cls,
        path: Path | str,
        encoder: "ImageEncoder",
        *,
        method: str = "courier",
        image_size: tuple[int, int],
        dataset_digest: str | None = None,
        window: Window | None = None,
        notice: str = "",
        config: str = "",
        history: Mapping[str, Sequence[float | None]] | None = None,
    ) -> "EncoderRun":
        """Writes a run directory, beside what else may be in it.

        Args:
            path: the directory; it is made if it does not exist.
            encoder: the trained one.
            method, image_size, dataset_digest, window, notice: see `EncoderMetadata`.
            config: how it was trained, a YAML document.
            history: the logs of its epochs.

        Example:
            >>> pages = data.pretraining(image_size=(48, 32))
            >>> courier.fit(pages.batches(64), epochs=8)
            >>> EncoderRun.save("artifacts/encoder", courier.encoder, **pages.provenance)
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        encoder.save(path / ENCODER_FILE)
        (path / CONFIG_FILE).write_text(config)
        write_json(path / HISTORY_FILE, dict(history or {}))
        metadata = EncoderMetadata(
            method=method,
            image_size=image_size,
            embedding_dim=encoder.embedding_dim,
            weights_sha256=file_sha256(path / ENCODER_FILE),
            dataset_digest=dataset_digest,
            window=window,
            notice=notice,
        )
        metadata.write(path)
        return cls(path, metadata)

    def encoder(self, dtype: str = "float32") -> "ImageEncoder":
        """The trained encoder.

        Args:
            dtype: Keras policy that it computes under, for example `mixed_bfloat16`.
        """
        import keras

        import models.vision.encoder  # noqa: F401 (registers the classes that the file names)

        encoder = keras.models.load_model(self.file(ENCODER_FILE), compile=False)
        return encoder if dtype == "float32" else encoder.with_precision(dtype)

    @property
    def history(self) -> dict[str, list[float | None]]:
        """The logs of the epochs, `None` where one is undefined."""
        return read_json(self.file(HISTORY_FILE))
