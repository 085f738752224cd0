"""Embeds the pictures of all items with a pre-trained encoder: `python -m models.embed`."""

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import models.vision.encoder  # noqa: F401 (registers the classes that encoder.keras names)
from beam_pipelines.format.errors import about
from beam_pipelines.format.manifest import file_sha256
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.command import ArgumentParser, CommandError, run_command
from models.artifact import read_metadata
from models.data.dataset import Dataset
from models.data.picture_store import PictureStore
from models.embeddings.store import (
    EMBEDDINGS_FILE,
    HAS_IMAGE_FILE,
    PICTURE_HASHES_FILE,
    EmbeddingsMetadata,
    check_finite,
    load_embeddings,
    load_picture_hashes,
)
from models.pretrain import ENCODER_FILE
from models.training.checkpoints import Checkpoint, Checkpoints
from models.vision.encode import encode_function
from models.vision.encoder_run import EncoderMetadata

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
DTYPES = ("float32", "float16")

_COPIED_TOGETHER = 1 << 16


def main(argv: Sequence[str] | None = None) -> str:
    """Writes the embeddings of all items and returns the closing line."""
    parser = ArgumentParser(
        "Embeds the pictures of all items. The same command goes on where it was killed, and ends with the same file."
    )
    parser.add_argument("--data", type=Path, default=Path("artifacts/dataset"), help="from beam_pipelines.build")
    parser.add_argument("--encoder", type=Path, default=Path("artifacts/encoder"), help="from models.pretrain")
    parser.add_argument("--output", type=Path, default=Path("artifacts/embeddings"), help="directory to write")
    parser.add_argument("--batch-size", type=int, default=256, help="pictures encoded together")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the stored vectors")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the computation")
    parser.add_argument(
        "--previous",
        type=Path,
        metavar="EMBEDDINGS",
        help="earlier embeddings by the same encoder: vectors of pictures that are in them, by content, are copied",
    )
    parser.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=1.0,
        metavar="MINUTES",
        help="what an interruption can cost; 0 keeps every batch",
    )
    parser.add_argument(
        "--restart", action="store_true", help="throw away what an interrupted run has left instead of going on"
    )
    parser.add_overwrite()
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        raise CommandError(f"--batch-size must be at least 1. Received: {args.batch_size}")
    if not args.checkpoint_minutes >= 0:
        raise CommandError(f"--checkpoint-minutes must be at least 0. Received: {args.checkpoint_minutes}")

    dataset = Dataset(args.data)
    with about("encoder"):
        encoder = read_metadata(EncoderMetadata, args.encoder, "models.pretrain")
    weights = args.encoder / ENCODER_FILE
    if not weights.is_file() or file_sha256(weights) != encoder.weights_sha256:
        raise CommandError(f"--encoder: {weights} is missing or is not the file its metadata describes; make it again")
    store = PictureStore(dataset, encoder.image_size)
    # Vectors that agree in these can stand in one file.
    made_as = {
        "encoder": encoder,
        "dtype": args.dtype,
        "precision": args.precision,
        "picture_form": f"{dataset.manifest.images.format} of side {dataset.manifest.options['image_side']}",
    }
    has_image = store.picture_of_item >= 0
    hashes = dataset.picture_hashes()
    if args.previous is None:
        previous, previous_row = None, np.full(len(has_image), -1)
    else:
        with about("previous"):
            previous, _, previous_has_image = load_embeddings(args.previous)
        _check_previous(previous, args.previous, made_as)
        with about("previous"):
            known = load_picture_hashes(args.previous, previous)
        previous_row = _find(hashes, has_image, known, previous_has_image)
    to_encode = _PicturesToEncode.of(store.picture_of_item, has_image & (previous_row < 0))

    partial = args.output.with_name(f"{args.output.name}.partial")
    checkpoints = Checkpoints(
        partial,
        {
            **made_as,
            "encoder": encoder.digest(),
            "dataset": dataset.manifest.digest(),
            "batch_size": args.batch_size,
            "previous": previous and previous.embeddings_sha256,
        },
        restart=args.restart,
    )
    inputs = [args.data, args.encoder, *([] if previous is None else [args.previous])]
    with whole_directory(args.output, overwrite=args.overwrite, inputs=inputs) as output, checkpoints:
        latest = checkpoints.latest()
        if latest is None:
            _create(partial / EMBEDDINGS_FILE, (len(has_image), encoder.embedding_dim), args.dtype)
            if previous is not None:
                _copy(args.previous / EMBEDDINGS_FILE, previous_row, partial / EMBEDDINGS_FILE)
            latest = Checkpoint(0, {}, {})
            checkpoints.write(latest)
        elif not (partial / EMBEDDINGS_FILE).is_file():
            raise CommandError(f"{partial} has lost its {EMBEDDINGS_FILE}; pass --restart to begin again")
        else:
            print(f"goes on after {latest.step} of {len(to_encode.numbers)} pictures", flush=True)
        model = keras.models.load_model(weights, compile=False).with_precision(args.precision)
        encode = encode_function(model, encoder.image_size)
        _encode(to_encode, latest.step, store, encode, checkpoints, args.batch_size, args.checkpoint_minutes)
        np.save(output / HAS_IMAGE_FILE, has_image)
        np.save(output / PICTURE_HASHES_FILE, hashes)
        EmbeddingsMetadata(
            **made_as,
            items=len(has_image),
            items_with_image=int(has_image.sum()),
            dim=encoder.embedding_dim,
            embeddings_sha256=file_sha256(partial / EMBEDDINGS_FILE),
            item_ids_sha256=dataset.manifest.items.ids_sha256,
            pictures_sha256=dataset.manifest.pictures_sha256,
            picture_hashes_sha256=file_sha256(output / PICTURE_HASHES_FILE),
        ).write(output)
        # Last: a run that is killed before can still go on.
        os.replace(partial / EMBEDDINGS_FILE, output / EMBEDDINGS_FILE)
    checkpoints.remove()
    pictures = f"{len(np.unique(store.picture_of_item[has_image]))} pictures"
    if previous is not None:
        copied = len(np.unique(store.picture_of_item[previous_row >= 0]))
        pictures += f": {len(to_encode.numbers)} encoded, {copied} copied from {args.previous}"
    return f"wrote embeddings of {int(has_image.sum())} of {len(has_image)} items ({pictures}) to {args.output}"


class _PicturesToEncode(NamedTuple):
    """Pictures, and the rows that their vectors belong to.

    Attributes:
        numbers: int `(n,)`, the distinct pictures, rising.
        rows: int, the item rows in the order of their pictures.
        first: int `(n + 1,)`: those of picture `numbers[i]` are `rows[first[i]:first[i + 1]]`.
    """

    numbers: np.ndarray
    rows: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, picture_of_item: np.ndarray, chosen: np.ndarray) -> "_PicturesToEncode":
        """The pictures of the items that are `chosen`, bool `(items,)`."""
        rows = np.flatnonzero(chosen)
        rows = rows[np.argsort(picture_of_item[rows], kind="stable")]
        numbers, first = np.unique(picture_of_item[rows], return_index=True)
        return cls(numbers, rows, np.append(first, len(rows)))


def _check_previous(metadata: EmbeddingsMetadata, directory: Path, made_as: dict[str, Any]) -> None:
    """Refuses earlier embeddings whose vectors are not what would be computed now."""
    if metadata.whitening is not None:
        raise CommandError(f"--previous: {directory} is whitened; give what models.embed wrote")
    if metadata.encoder != made_as["encoder"]:
        there, here = metadata.encoder.digest()[:12], made_as["encoder"].digest()[:12]
        raise CommandError(f"--previous: {directory} was made by another encoder ({there}, --encoder is {here})")
    for name in ("dtype", "precision", "picture_form"):
        there, here = getattr(metadata, name), made_as[name]
        if there != here:
            raise CommandError(f"--previous: {directory} has another {name.replace('_', ' ')} ({there}, here {here})")


def _find(
    hashes: np.ndarray, has_image: np.ndarray, known_hashes: np.ndarray, known_has_image: np.ndarray
) -> np.ndarray:
    """Finds pictures among known ones by their hashes.

    Args:
        hashes, has_image: uint8 `(items, 32)` and bool `(items,)`.
        known_hashes, known_has_image: the same of the known items.

    Returns:
        int64 `(items,)`, a known row with the same picture, -1 where there is none.
    """
    known_rows = np.flatnonzero(known_has_image)
    known, first = np.unique(known_hashes[known_rows].view("S32").ravel(), return_index=True)
    if not len(known):
        return np.full(len(hashes), -1)
    wanted = hashes.view("S32").ravel()
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(has_image & (known[place] == wanted), known_rows[first[place]], -1)


def _create(path: Path, shape: tuple[int, int], dtype: str) -> None:
    """Creates an `.npy` file of zeros."""
    with open(path, "wb") as file:
        descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        file.flush()
        # A full disk is an error here; of a file with holes, it would end the process without a word later.
        os.posix_fallocate(file.fileno(), file.tell(), math.prod(shape) * np.dtype(dtype).itemsize)


def _copy(previous: Path, previous_row: np.ndarray, path: Path) -> None:
    """Copies earlier vectors to the items that have the same picture, and sees to it that they are on the disk."""
    for start in range(0, len(previous_row), _COPIED_TOGETHER):
        rows = previous_row[start : start + _COPIED_TOGETHER]
        # Mapped anew: whatever of a map was touched counts as memory of the process as long as it exists.
        earlier, embeddings = np.load(previous, mmap_mode="r"), np.load(path, mmap_mode="r+")
        embeddings[start + np.flatnonzero(rows >= 0)] = earlier[rows[rows >= 0]]
        embeddings.flush()


def _encode(
    to_encode: _PicturesToEncode,
    done: int,
    store: PictureStore,
    encode: Callable[[tf.Tensor], tf.Tensor],
    checkpoints: Checkpoints,
    batch_size: int,
    checkpoint_minutes: float,
) -> None:
    """Encodes pictures into the file of embeddings.

    The batches of a run that goes on are those of a run that was never interrupted, and so are the vectors.

    Args:
        to_encode: the pictures.
        done: how many of them are in the file.
        store: where they are read.
        encode: from `encode_function`.
        checkpoints: where the file lies, and where it is recorded how many are in it; open.
        batch_size: pictures encoded together.
        checkpoint_minutes: time between records.
    """
    path = checkpoints.path / EMBEDDINGS_FILE
    embeddings = np.load(path, mmap_mode="r+")
    recorded = time.monotonic()
    with tqdm(total=len(to_encode.numbers), initial=done, desc="encoding pictures", unit="picture") as progress:
        for pictures in store.batches(batch_size, to_encode.numbers[done:]):
            vectors = encode(pictures).numpy()
            first = to_encode.first[done : done + len(vectors) + 1]
            rows = to_encode.rows[first[0] : first[-1]]
            with np.errstate(over="ignore"):  # refused below
                vectors = vectors.astype(embeddings.dtype)
            vectors = np.repeat(vectors, np.diff(first), axis=0)
            check_finite(vectors, rows, f"--encoder, as {embeddings.dtype}")
            embeddings[rows] = vectors
            done += len(pictures)
            progress.update(len(pictures))
            if time.monotonic() - recorded >= 60 * checkpoint_minutes or done == len(to_encode.numbers):
                embeddings.flush()
                checkpoints.write(Checkpoint(done, {}, {}))
                embeddings = np.load(path, mmap_mode="r+")  # anew, see _copy
                recorded = time.monotonic()


if __name__ == "__main__":
    run_command(main)
