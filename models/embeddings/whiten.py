"""Whitens the embeddings of all items of a dataset."""

import shutil
from collections.abc import Iterator

import numpy as np

from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.errors import ArtifactError, InputError, about
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.progress import progress_bar
from models.artifact import ArtifactFiles, check_digest, read_metadata
from models.data.dataset import Dataset
from models.data.pages import items_on_pages
from models.embeddings.embeddings import (
    EMBEDDINGS_FILE,
    WHITENING_FILE,
    Embeddings,
    EmbeddingsMetadata,
    WhiteningMetadata,
)
from models.embeddings.vectors import check_finite, write_vectors
from models.embeddings.whitening import Whitening

FITTED_SPLIT = "pretrain"
"""Whose items it is fitted on: those that the encoder could learn from, and none that only later pages show."""

_BLOCK_ROWS = 1 << 14


def whiten(
    embeddings: Embeddings | Location | str,
    output: Location | str,
    *,
    data: Dataset | Location | str | None = None,
    dim: int | None = None,
    l2: bool = False,
    like: Location | str | None = None,
    overwrite: bool = False,
) -> Embeddings:
    """Writes whitened embeddings, so that strong directions do not drown the others.

    The whitening is fitted on the items of the `pretrain` pages alone, or is that of other embeddings.

    Args:
        embeddings: what `embed` wrote.
        output: directory to write.
        data: the dataset that the embeddings were made for; not needed with `like`.
        dim: keep this many components, the strongest ones; `None` keeps all that vary.
        l2: whether to scale whitened vectors to unit length.
        like: whitened embeddings, whose whitening is applied as it is.
        overwrite: whether to replace `output` if it exists.

    Returns:
        The embeddings at `output`.

    Raises:
        InputError: an argument is out of its range.
        ArtifactError: the embeddings are whitened already, are not of this dataset, are of another encoder than `like`,
            or cannot be whitened; or `output` exists.
    """
    output = as_location(output)
    if dim is not None and dim < 1:
        raise InputError(f"`dim` must be at least 1. Received: {dim}")
    if like is not None and (dim is not None or l2):
        raise InputError("`like` applies a whitening as it is; leave out `dim` and `l2`")
    with about("embeddings"):
        if not isinstance(embeddings, Embeddings):
            embeddings = Embeddings.load(embeddings)
        metadata = embeddings.metadata
        if metadata.whitening is not None:
            raise ArtifactError(f"{embeddings.path} is whitened already; give what models.embed wrote")
    if like is not None:
        like_files = ArtifactFiles(like)
        whitening, description = _load_whitening(like_files, metadata)
        source = like_files.path
    else:
        if data is None:
            raise InputError("`data` must be the dataset to fit on, unless `like` is given. Received: None")
        dataset = data if isinstance(data, Dataset) else Dataset(data)
        with about("embeddings"):
            embeddings.check_matches(dataset)
        fitted_pages = dataset.split(FITTED_SPLIT)
        if dim is not None and dim > metadata.dim:
            raise InputError(f"`dim` must be at most the {metadata.dim} of the embeddings. Received: {dim}")
        source = dataset.path

    with whole_directory(output, overwrite=overwrite, inputs=[embeddings.path, source]) as directory:
        if like is not None:
            shutil.copyfile(like_files.file(WHITENING_FILE), directory / WHITENING_FILE)
        else:
            whitening = _fit(embeddings, items_on_pages(dataset, FITTED_SPLIT) & embeddings.has_image, dim, l2)
            whitening.save(directory / WHITENING_FILE)
            description = WhiteningMetadata(
                dim=whitening.dim,
                encoder_dim=metadata.dim,
                l2=whitening.l2,
                fitted_items=whitening.count,
                whitening_sha256=file_sha256(directory / WHITENING_FILE),
                dataset_digest=dataset.manifest.digest(),
                window=fitted_pages.window,
            )
        vectors_file = directory / EMBEDDINGS_FILE
        dtype = np.dtype(metadata.dtype)
        write_vectors(vectors_file, (metadata.items, whitening.dim), dtype, _whitened(embeddings, whitening, dtype))
        with about("embeddings"):
            hashes = embeddings.picture_hashes if metadata.picture_hashes_sha256 else None
        written = Embeddings.save(
            directory,
            vectors_file,
            embeddings.has_image,
            encoder=metadata.encoder,
            item_ids_sha256=metadata.item_ids_sha256,
            pictures_sha256=metadata.pictures_sha256,
            picture_hashes=hashes,
            picture_form=metadata.picture_form,
            precision=metadata.precision,
            whitening=description,
        )
    return Embeddings(output, written.metadata)


def _load_whitening(files: ArtifactFiles, metadata: EmbeddingsMetadata) -> tuple[Whitening, WhiteningMetadata]:
    """Opens the whitening of other embeddings, if these are of the same encoder."""
    with about("like"):
        like = read_metadata(EmbeddingsMetadata, files, "models.whiten")
        if like.whitening is None:
            raise ArtifactError(f"{files.path} is not whitened; give what models.whiten wrote")
        if difference := like.model_copy(update={"whitening": None}).space_difference(metadata):
            raise ArtifactError(f"{files.path} is of another version: {difference}")
        check_digest(files.file(WHITENING_FILE), like.whitening.whitening_sha256)
    return Whitening.load(files.file(WHITENING_FILE)), like.whitening


def _fit(embeddings: Embeddings, fitted_items: np.ndarray, dim: int | None, l2: bool) -> Whitening:
    blocks = (block[fitted_items[rows]] for rows, block in _blocks(embeddings, "fitting"))
    try:
        return Whitening.fit(blocks, dim=dim, l2=l2)
    except InputError:
        raise  # of a block: it says where
    except ValueError as error:
        raise ArtifactError(
            f"`embeddings` {embeddings.path}: of {fitted_items.sum()} items with a picture on {FITTED_SPLIT} pages: "
            f"{error}"
        ) from error


def _whitened(embeddings: Embeddings, whitening: Whitening, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Whitens block by block; rows without picture stay zero."""
    for rows, block in _blocks(embeddings, "whitening"):
        with np.errstate(over="ignore"):  # refused below
            vectors = np.where(embeddings.has_image[rows, None], whitening.transform(block), 0).astype(dtype)
        check_finite(vectors, np.arange(rows.start, rows.stop), f"`embeddings` {embeddings.path}, whitened")
        yield vectors


def _blocks(embeddings: Embeddings, activity: str) -> Iterator[tuple[slice, np.ndarray]]:
    """The vectors block by block, with their item rows and a progress bar."""
    with progress_bar(total=embeddings.metadata.items, desc=activity, unit="item") as progress:
        for start, block in embeddings.blocks(_BLOCK_ROWS):
            rows = slice(start, start + len(block))
            check_finite(block, np.arange(rows.start, rows.stop), f"`embeddings` {embeddings.path}")
            yield rows, block
            progress.update(len(block))
