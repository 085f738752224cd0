"""A small encoder's run directory, and datasets of pictures for it."""

from pathlib import Path

import keras
import numpy as np

from beam_pipelines.format.manifest import Window
from models.data.dataset import Dataset
from models.vision.encoder import ImageEncoder
from models.vision.encoder_run import EncoderRun
from models.vision.swin import Swin
from tests.models.picture_dataset import write_picture_dataset


def save_encoder(directory: Path, scale: float = 1.0) -> EncoderRun:
    """Writes the run directory of a random encoder of pictures of 16 x 16 pixels into 5 dimensions.

    Args:
        directory: the run directory.
        scale: of its embeddings.
    """
    keras.utils.set_random_seed(0)
    encoder = ImageEncoder(Swin(4, 8, (1,), (2,), 4), 5)
    encoder.projection.kernel.assign(encoder.projection.kernel * scale)
    return EncoderRun.save(
        directory,
        encoder,
        method="courier",
        image_size=(16, 16),
        dataset_digest="other",
        window=Window(first=0, last=1),
        notice="",
    )


def random_pictures(number: int, seed: int = 0) -> np.ndarray:
    """Pictures of noise, uint8 `(number, 16, 16, 3)`."""
    return np.random.default_rng(seed).integers(0, 256, (number, 16, 16, 3), np.uint8)


def write_dataset(root: Path, pictures: np.ndarray, places: list[tuple[int, int]]) -> Dataset:
    """A dataset of these pictures in one shard, and of items that have those at `places`."""
    return write_picture_dataset(root, [pictures], places, image_format="webp")
