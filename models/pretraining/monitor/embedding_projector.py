"""Files for TensorBoard's embedding projector."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboard.plugins.projector import ProjectorConfig
from tensorboard.plugins.projector.metadata import PROJECTOR_FILENAME

from models.embeddings.vectors import l2_normalize

SPRITE_SIDE = 64
"""Of one picture in the sprite, in pixels."""
_LARGEST_SPRITE = 8192  # what browsers' graphics promise
_TENSOR, _METADATA, _SPRITE = "embeddings.tsv", "metadata.tsv", "sprite.png"


def write_embedding_projector(
    directory: Path, embeddings: np.ndarray, pictures: Iterable[np.ndarray], columns: Mapping[str, Sequence[str]]
) -> None:
    """Writes embeddings with their pictures and what is known of them, for the tab "Projector" of TensorBoard.

    Rows are scaled to unit length, so that the projector's Euclidean distances order like cosines.

    Args:
        directory: log directory of a run; it is made. TensorBoard finds the files there only if the run has curves too
            or if it is the log directory that TensorBoard was given.
        embeddings: `(n, dim)`.
        pictures: `n` pictures, uint8 `(height, width, 3)`, of any size.
        columns: names to `n` words each, to colour and label the points by.

    Raises:
        ValueError: the arguments have different lengths.
    """
    for name, words in columns.items():
        if len(words) != len(embeddings):
            raise ValueError(f"`columns` must have {len(embeddings)} words each. Received: {len(words)} of {name!r}")
    directory.mkdir(parents=True, exist_ok=True)
    np.savetxt(directory / _TENSOR, l2_normalize(embeddings), fmt="%.5g", delimiter="\t")
    header = [list(columns)] if len(columns) > 1 else []  # a single column must not have one
    lines = [*header, *zip(*columns.values(), strict=True)]
    (directory / _METADATA).write_text("".join("\t".join(map(_word, line)) + "\n" for line in lines))
    sprite, side = _sprite(pictures, len(embeddings))
    sprite.save(directory / _SPRITE)
    config = ProjectorConfig()
    config.embeddings.add(
        tensor_name="embeddings",
        tensor_path=_TENSOR,
        metadata_path=_METADATA,
        sprite={"image_path": _SPRITE, "single_image_dim": [side, side]},
    )
    (directory / PROJECTOR_FILENAME).write_text(str(config))


def _word(value: str) -> str:
    return " ".join(value.split()) or "-"  # no tabs and line ends; the projector drops lines that are empty


def _sprite(pictures: Iterable[np.ndarray], n: int) -> tuple[Image.Image, int]:
    """Pictures in rows of a square, each on a white square of its own, and the side of these."""
    across = math.ceil(math.sqrt(n))
    side = min(SPRITE_SIDE, _LARGEST_SPRITE // across)
    sprite = Image.new("RGB", (across * side, across * side), "white")
    placed = 0
    for placed, pixels in enumerate(pictures, start=1):
        picture = Image.fromarray(pixels)
        picture.thumbnail((side, side))
        row, column = divmod(placed - 1, across)
        sprite.paste(picture, (column * side + (side - picture.width) // 2, row * side + (side - picture.height) // 2))
    if placed != n:
        raise ValueError(f"`pictures` must be as many as the {n} embeddings. Received: {placed}")
    return sprite, side
