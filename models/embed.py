"""Embeds the pictures of all items with a pre-trained encoder: `python -m models.embed`."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

import models.vision.encoder  # noqa: F401 (registers the classes that encoder.keras names)
from beam_pipelines.command import ArgumentParser, CommandError, run_command, whole_directory
from beam_pipelines.manifest import file_sha256
from models.artifacts import EmbeddingsMetadata, EncoderMetadata, read_metadata
from models.data.dataset import Dataset
from models.data.images import PictureStore
from models.embeddings.store import EMBEDDINGS_FILE, HAS_IMAGE_FILE
from models.pretrain import ENCODER_FILE
from models.vision.encode import encode_function, encode_pictures


def main(argv: Sequence[str] | None = None) -> str:
    """Writes the embeddings of all items and returns the closing line."""
    parser = ArgumentParser("Embeds the pictures of all items.")
    parser.add_argument("--data", type=Path, default=Path("artifacts/dataset"), help="from beam_pipelines.build")
    parser.add_argument("--encoder", type=Path, default=Path("artifacts/encoder"), help="from models.pretrain")
    parser.add_argument("--output", type=Path, default=Path("artifacts/embeddings"), help="directory to write")
    parser.add_argument("--batch-size", type=int, default=256, help="pictures encoded together")
    parser.add_overwrite()
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        raise CommandError(f"--batch-size must be at least 1. Received: {args.batch_size}")

    dataset = Dataset(args.data)
    metadata = read_metadata(EncoderMetadata, args.encoder, "--encoder", "models.pretrain")
    weights = args.encoder / ENCODER_FILE
    if not weights.is_file() or file_sha256(weights) != metadata.weights_sha256:
        raise CommandError(f"--encoder: {weights} is missing or is not the file its metadata describes; make it again")
    store = PictureStore(dataset, metadata.image_size)
    with whole_directory(args.output, overwrite=args.overwrite, inputs=[args.data, args.encoder]) as output:
        encode = encode_function(keras.models.load_model(weights, compile=False), metadata.image_size)
        pictures = encode_pictures(encode, store.batches(args.batch_size), store.pictures)
        has_image = store.picture_of_item >= 0
        embeddings = np.zeros((len(has_image), metadata.embedding_dim), np.float32)
        embeddings[has_image] = pictures[store.picture_of_item[has_image]]
        np.save(output / EMBEDDINGS_FILE, embeddings)
        np.save(output / HAS_IMAGE_FILE, has_image)
        EmbeddingsMetadata(
            items=len(has_image),
            items_with_image=int(has_image.sum()),
            dim=metadata.embedding_dim,
            embeddings_sha256=file_sha256(output / EMBEDDINGS_FILE),
            item_ids_sha256=dataset.manifest.items.ids_sha256,
            pictures_sha256=dataset.manifest.pictures_sha256,
            encoder=metadata,
        ).write(output)
    return (
        f"wrote embeddings of {int(has_image.sum())} of {len(has_image)} items ({store.pictures} pictures) "
        f"to {args.output}"
    )


if __name__ == "__main__":
    run_command(main)
