"""Embeds the pictures of all items of a dataset with a pre-trained encoder."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError, InputError, about
from beam_pipelines.format.location import Location, as_location, is_remote
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.progress import progress_bar, say
from models.data.dataset import Dataset
from models.data.picture_store import PictureStore
from models.embeddings.embeddings import EMBEDDINGS_FILE, Embeddings
from models.embeddings.vectors import check_finite, create_vectors
from models.training.checkpoints import Checkpoint, Checkpoints
from models.vision.encode import encode_function
from models.vision.encoder_run import EncoderRun

Precision = Literal["float32", "mixed_float16", "mixed_bfloat16"]
StoredDtype = Literal["float32", "float16"]

_COPIED_ROWS = 1 << 16
_VECTORS = "vectors"  # in a checkpoint


def embed(
    data: Dataset | Location | str,
    encoder: EncoderRun | Location | str,
    output: Location | str,
    *,
    batch_size: int = 256,
    dtype: StoredDtype = "float32",
    precision: Precision = "float32",
    previous: Embeddings | Location | str | None = None,
    checkpoint_minutes: float = 1.0,
    restart: bool = False,
    overwrite: bool = False,
) -> Embeddings:
    """Writes the embeddings of all items of a dataset.

    A run that was killed leaves `<output>.partial`. The same call goes on there and ends with the same files; for a
    remote output on any machine.

    Args:
        data: the dataset.
        encoder: a pre-trained encoder, or its run directory.
        output: directory to write.
        batch_size: pictures encoded together.
        dtype: of the stored vectors.
        precision: Keras policy of the computation.
        previous: earlier embeddings by the same encoder; vectors of pictures that are in them, by content, are copied.
        checkpoint_minutes: what an interruption can cost; 0 keeps every batch.
        restart: whether to throw away what an interrupted run has left instead of going on.
        overwrite: whether to replace `output` if it exists.

    Returns:
        The embeddings at `output`.

    Raises:
        InputError: an argument is out of its range, or a vector is not finite.
        ArtifactError: there is no such dataset or encoder, `previous` does not fit them, or `output` exists.

    Example:
        >>> embed("artifacts/dataset", "artifacts/encoder", "artifacts/embeddings")
        <Embeddings artifacts/embeddings: 1200 of 1200 items, dim=256, float32, by courier encoder 285e548d58d1>
    """
    output = as_location(output)
    if batch_size < 1:
        raise InputError(f"`batch_size` must be at least 1. Received: {batch_size}")
    if not checkpoint_minutes >= 0:
        raise InputError(f"`checkpoint_minutes` must be at least 0. Received: {checkpoint_minutes}")
    for name, value, allowed in (
        ("dtype", dtype, get_args(StoredDtype)),
        ("precision", precision, get_args(Precision)),
    ):
        if value not in allowed:
            raise InputError(f"`{name}` must be one of {', '.join(allowed)}. Received: {value}")
    dataset = data if isinstance(data, Dataset) else Dataset(data)
    if not isinstance(encoder, EncoderRun):
        with about("encoder"):
            encoder = EncoderRun.load(encoder)
    image_size = encoder.metadata.image_size
    store = PictureStore(dataset, image_size)
    images = dataset.manifest.images
    assert images is not None  # else the store would have refused
    picture_form = f"{images.format} of side {dataset.manifest.options['image_side']}"
    # Vectors may share a file if they agree in these.
    settings = {"encoder": encoder.metadata, "dtype": dtype, "precision": precision, "picture_form": picture_form}
    has_image = store.picture_of_item >= 0
    hashes = dataset.picture_hashes()
    previous_row = np.full(len(has_image), -1)
    if previous is not None:
        with about("previous"):
            if not isinstance(previous, Embeddings):
                previous = Embeddings.load(previous)
            _check_previous(previous, settings)
            previous_row = _same_picture(hashes, has_image, previous)
    to_encode = _PicturesToEncode.of(store.picture_of_item, has_image & (previous_row < 0))

    partial = output.with_name(f"{output.name}.partial")
    remote = is_remote(output)
    checkpoints = Checkpoints(
        partial,
        {
            **settings,
            "encoder": encoder.metadata.digest(),
            "dataset": dataset.manifest.digest(),
            "batch_size": batch_size,
            "previous": previous and previous.metadata.embeddings_sha256,
        },
        restart=restart,
        kept=None if remote else 2,
    )
    inputs = [dataset.path, encoder.path, *([] if previous is None else [previous.path])]
    with whole_directory(output, overwrite=overwrite, inputs=inputs) as directory, checkpoints:
        # The file of vectors is filled in place; of a remote output, each checkpoint holds what is new in it.
        vectors_file = (directory if is_remote(partial) else partial) / EMBEDDINGS_FILE
        latest = checkpoints.latest()
        if latest is None or remote:
            create_vectors(vectors_file, (len(has_image), encoder.metadata.embedding_dim), np.dtype(dtype))
            if previous is not None:
                _copy(previous.file(EMBEDDINGS_FILE), previous_row, vectors_file)
        done = 0
        if latest is None:
            checkpoints.write(Checkpoint(0, {}, {}))
        elif not vectors_file.is_file():
            raise ArtifactError(f"{partial} has lost its {EMBEDDINGS_FILE}; pass `restart=True` to begin again")
        else:
            done = _restore(to_encode, checkpoints, vectors_file) if remote else latest.step
            say(f"goes on after {done} of {len(to_encode.numbers)} pictures")
        encode = encode_function(encoder.encoder(precision), image_size)
        _encode(to_encode, done, store, encode, vectors_file, checkpoints, batch_size, checkpoint_minutes)
        # Moves the vectors away last: a run that is killed before can still go on.
        written = Embeddings.save(
            directory,
            vectors_file,
            has_image,
            encoder=encoder.metadata,
            item_ids_sha256=dataset.manifest.items.ids_sha256,
            pictures_sha256=dataset.manifest.pictures_sha256,
            picture_hashes=hashes,
            picture_form=picture_form,
            precision=precision,
        )
    checkpoints.remove()
    return Embeddings(output, written.metadata)


def count_pictures(embeddings: Embeddings, previous: Embeddings | None = None) -> tuple[int, int]:
    """Counts the distinct pictures of embeddings, and those of them that earlier embeddings have, too."""
    pictures = _distinct(embeddings)
    copied = 0 if previous is None else int(np.isin(pictures, _distinct(previous)).sum())
    return len(pictures), copied


class _PicturesToEncode(NamedTuple):
    """Pictures, and the rows that their vectors belong to.

    Attributes:
        numbers: int `(n,)`, the distinct pictures, ascending.
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

    def place(self, embeddings: np.ndarray, start: int, vectors: np.ndarray) -> None:
        """Writes the vectors of pictures `numbers[start:start + n]` to their rows.

        Args:
            embeddings: `(items, dim)`.
            start: the first of the pictures.
            vectors: `(n, dim)`.
        """
        first = self.first[start : start + len(vectors) + 1]
        embeddings[self.rows[first[0] : first[-1]]] = np.repeat(vectors, np.diff(first), axis=0)


def _check_previous(previous: Embeddings, settings: dict[str, Any]) -> None:
    """Refuses earlier embeddings whose vectors are not what would be computed now."""
    path, metadata = previous.path, previous.metadata
    if metadata.whitening is not None:
        raise ArtifactError(f"{path} is whitened; give what models.embed wrote")
    if metadata.encoder != settings["encoder"]:
        there, here = metadata.encoder.digest()[:12], settings["encoder"].digest()[:12]
        raise ArtifactError(f"{path} was made by another encoder ({there}, `encoder` is {here})")
    for name in ("dtype", "precision", "picture_form"):
        there, here = getattr(metadata, name), settings[name]
        if there != here:
            raise ArtifactError(f"{path} has another {name.replace('_', ' ')} ({there}, here {here})")


def _same_picture(hashes: np.ndarray, has_image: np.ndarray, previous: Embeddings) -> np.ndarray:
    """Finds pictures among earlier ones by their content.

    Args:
        hashes: uint8 `(items, 32)`.
        has_image: bool `(items,)`.
        previous: the earlier ones.

    Returns:
        int64 `(items,)`, a row of `previous` with the same picture, -1 where there is none.
    """
    earlier_rows = np.flatnonzero(previous.has_image)
    earlier, first = np.unique(_as_strings(previous.picture_hashes[earlier_rows]), return_index=True)
    if not len(earlier):
        return np.full(len(hashes), -1)
    wanted = _as_strings(hashes)
    position = np.minimum(np.searchsorted(earlier, wanted), len(earlier) - 1)
    return np.where(has_image & (earlier[position] == wanted), earlier_rows[first[position]], -1)


def _distinct(embeddings: Embeddings) -> np.ndarray:
    return np.unique(_as_strings(embeddings.picture_hashes[embeddings.has_image]))


def _as_strings(hashes: np.ndarray) -> np.ndarray:
    """Digests, uint8 `(n, 32)`, as one value each."""
    return hashes.view("S32").ravel()


def _copy(previous: Path, previous_row: np.ndarray, path: Path) -> None:
    """Copies earlier vectors to the items that have the same picture, and flushes them to the disk."""
    for start in range(0, len(previous_row), _COPIED_ROWS):
        rows = previous_row[start : start + _COPIED_ROWS]
        # Mapped anew: whatever of a map was touched counts as memory of the process as long as it exists.
        earlier, embeddings = np.load(previous, mmap_mode="r"), np.load(path, mmap_mode="r+")
        embeddings[start + np.flatnonzero(rows >= 0)] = earlier[rows[rows >= 0]]
        embeddings.flush()


def _restore(to_encode: _PicturesToEncode, checkpoints: Checkpoints, vectors_file: Path) -> int:
    """Writes the vectors that checkpoints hold to their rows; returns how many pictures are done."""
    embeddings, done = np.load(vectors_file, mmap_mode="r+"), 0
    for checkpoint in checkpoints.all():
        if checkpoint.step > 0:
            vectors = checkpoint.arrays[_VECTORS]
            if checkpoint.step - len(vectors) != done:  # one between was damaged
                break
            to_encode.place(embeddings, done, vectors)
            done = checkpoint.step
    return done


def _encode(
    to_encode: _PicturesToEncode,
    done: int,
    store: PictureStore,
    encode: Callable[[tf.Tensor], tf.Tensor],
    vectors_file: Path,
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
        vectors_file: the file.
        checkpoints: where it is recorded how many are in it, and what they are if that is elsewhere; open.
        batch_size: pictures encoded together.
        checkpoint_minutes: time between records.
    """
    embeddings = np.load(vectors_file, mmap_mode="r+")
    unrecorded: list[np.ndarray] | None = [] if is_remote(checkpoints.path) else None
    recorded = time.monotonic()
    with progress_bar(total=len(to_encode.numbers), initial=done, desc="encoding pictures", unit="picture") as progress:
        for pictures in store.batches(batch_size, to_encode.numbers[done:]):
            vectors = encode(pictures).numpy()
            with np.errstate(over="ignore"):  # refused below
                vectors = vectors.astype(embeddings.dtype)
            rows = to_encode.rows[to_encode.first[done : done + len(vectors)]]
            check_finite(vectors, rows, f"`encoder`, as {embeddings.dtype}")
            to_encode.place(embeddings, done, vectors)
            if unrecorded is not None:
                unrecorded.append(vectors)
            done += len(pictures)
            progress.update(len(pictures))
            if time.monotonic() - recorded >= 60 * checkpoint_minutes or done == len(to_encode.numbers):
                embeddings.flush()
                arrays = {} if unrecorded is None else {_VECTORS: np.concatenate(unrecorded)}
                if checkpoints.write(Checkpoint(done, arrays, {})) and unrecorded is not None:
                    unrecorded.clear()
                embeddings = np.load(vectors_file, mmap_mode="r+")  # anew, see _copy
                recorded = time.monotonic()
