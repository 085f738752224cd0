"""The run directory of a pre-trained image encoder."""

from typing import Literal

from beam_pipelines.format.manifest import Window
from models.artifact import Metadata


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
