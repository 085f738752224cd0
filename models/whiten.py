"""Whitens image embeddings: `python -m models.whiten`."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from beam_pipelines.format.errors import about
from beam_pipelines.format.manifest import file_sha256
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.command import ArgumentParser, CommandError, run_command
from models.artifact import check_digest, read_metadata
from models.data.dataset import Dataset
from models.data.pages import items_on_pages
from models.embeddings.store import (
    EMBEDDINGS_FILE,
    HAS_IMAGE_FILE,
    PICTURE_HASHES_FILE,
    WHITENING_FILE,
    EmbeddingsMetadata,
    WhiteningMetadata,
    check_finite,
    load_embeddings,
    load_picture_hashes,
    read_blocks,
    space_difference,
)
from models.embeddings.whitening import Whitening

FITTED_SPLIT = "pretrain"
"""Whose items it is fitted on: those that the encoder could learn from, and none that only later pages show."""

_BLOCK_ROWS = 1 << 14


def main(argv: Sequence[str] | None = None) -> str:
    """Writes whitened embeddings of all items and returns the closing line."""
    parser = ArgumentParser(
        "Whitens image embeddings, so that strong directions do not drown the others. Fitted on the items of the "
        f"{FITTED_SPLIT} pages alone."
    )
    parser.add_argument("--embeddings", type=Path, default=Path("artifacts/embeddings"), help="from models.embed")
    parser.add_argument(
        "--data", type=Path, default=Path("artifacts/dataset"), help="from beam_pipelines.build; --like needs none"
    )
    parser.add_argument("--output", type=Path, default=Path("artifacts/whitened"), help="directory to write")
    parser.add_argument("--dim", type=int, metavar="K", help="keep the K strongest components (unset: all that vary)")
    parser.add_argument("--l2", action="store_true", help="scale whitened vectors to unit length")
    parser.add_argument(
        "--like", type=Path, metavar="WHITENED", help="apply the whitening of these embeddings instead of fitting one"
    )
    parser.add_overwrite()
    args = parser.parse_args(argv)
    if args.dim is not None and args.dim < 1:
        raise CommandError(f"--dim must be at least 1. Received: {args.dim}")
    if args.like is not None and (args.dim is not None or args.l2):
        raise CommandError("--like applies a whitening as it is; leave out --dim and --l2")

    with about("embeddings"):
        metadata, _, has_image = load_embeddings(args.embeddings)
    if metadata.whitening is not None:
        raise CommandError(f"--embeddings: {args.embeddings} is whitened already; give what models.embed wrote")
    if args.like is None:
        dataset = Dataset(args.data)
        _check_dataset(metadata, dataset)
        if args.dim is not None and args.dim > metadata.dim:
            raise CommandError(f"--dim must be at most the {metadata.dim} of the embeddings. Received: {args.dim}")
    else:
        whitening, description = _load_whitening(args.like, metadata)

    inputs = [args.embeddings, args.data if args.like is None else args.like]
    with whole_directory(args.output, overwrite=args.overwrite, inputs=inputs) as output:
        if args.like is None:
            training_items = items_on_pages(dataset, FITTED_SPLIT) & has_image
            whitening = _fit(args.embeddings, training_items, args.dim, args.l2)
            whitening.save(output / WHITENING_FILE)
            description = WhiteningMetadata(
                dim=whitening.dim,
                encoder_dim=metadata.dim,
                l2=whitening.l2,
                fitted_items=whitening.count,
                whitening_sha256=file_sha256(output / WHITENING_FILE),
                dataset_digest=dataset.manifest.digest(),
                window=dataset.split(FITTED_SPLIT).window,
            )
        else:
            shutil.copyfile(args.like / WHITENING_FILE, output / WHITENING_FILE)
        _write_whitened(output / EMBEDDINGS_FILE, whitening, args.embeddings, metadata, has_image)
        np.save(output / HAS_IMAGE_FILE, has_image)
        if metadata.picture_hashes_sha256:
            with about("embeddings"):
                np.save(output / PICTURE_HASHES_FILE, load_picture_hashes(args.embeddings, metadata))
        changes = {
            "dim": whitening.dim,
            "embeddings_sha256": file_sha256(output / EMBEDDINGS_FILE),
            "whitening": description,
        }
        metadata.model_copy(update=changes).write(output)
    fitted = f"fitted on {whitening.count} {FITTED_SPLIT} items" if args.like is None else f"as {args.like}"
    return (
        f"wrote whitened embeddings of {metadata.items_with_image} of {metadata.items} items to {args.output} "
        f"({whitening.dim} of {metadata.dim} components, {fitted})"
    )


def _check_dataset(metadata: EmbeddingsMetadata, dataset: Dataset) -> None:
    """Refuses a dataset whose items are not those of the embeddings, or that has no pages to fit on."""
    if metadata.item_ids_sha256 != dataset.manifest.items.ids_sha256:
        raise CommandError(
            f"--embeddings: made for the items of another dataset than {dataset.path}; run models.embed on this one"
        )
    if metadata.pictures_sha256 != dataset.manifest.pictures_sha256:
        raise CommandError(
            f"--embeddings: made from other pictures than those of {dataset.path}; run models.embed on this one"
        )
    dataset.split(FITTED_SPLIT)


def _load_whitening(directory: Path, metadata: EmbeddingsMetadata) -> tuple[Whitening, WhiteningMetadata]:
    """Opens the whitening of other embeddings, if these are of the same encoder."""
    with about("like"):
        like = read_metadata(EmbeddingsMetadata, directory, "models.whiten")
    if like.whitening is None:
        raise CommandError(f"--like: {directory} is not whitened; give what models.whiten wrote")
    if difference := space_difference(like.model_copy(update={"whitening": None}), metadata):
        raise CommandError(f"--like: {directory} is of another version: {difference}")
    with about("like"):
        check_digest(directory / WHITENING_FILE, like.whitening.whitening_sha256)
    return Whitening.load(directory / WHITENING_FILE), like.whitening


def _fit(directory: Path, training_items: np.ndarray, dim: int | None, l2: bool) -> Whitening:
    blocks = (block[training_items[rows]] for rows, block in _blocks(directory, len(training_items), "fitting"))
    try:
        return Whitening.fit(blocks, dim=dim, l2=l2)
    except ValueError as error:
        raise CommandError(
            f"--embeddings {directory}: of {training_items.sum()} items with a picture on {FITTED_SPLIT} pages: {error}"
        ) from error


def _write_whitened(
    path: Path, whitening: Whitening, directory: Path, metadata: EmbeddingsMetadata, has_image: np.ndarray
) -> None:
    """Writes the `.npy` file block by block; rows without picture stay zero."""
    dtype = np.dtype(metadata.dtype)
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (metadata.items, whitening.dim),
    }
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for rows, block in _blocks(directory, metadata.items, "whitening"):
            with np.errstate(over="ignore"):  # refused below
                whitened = np.where(has_image[rows, None], whitening.transform(block), 0).astype(dtype)
            check_finite(whitened, np.arange(rows.start, rows.stop), f"--embeddings {directory}, whitened")
            whitened.tofile(file)


def _blocks(directory: Path, items: int, doing: str) -> Iterator[tuple[slice, np.ndarray]]:
    """The embeddings block by block, with their item rows and a progress bar."""
    with tqdm(total=items, desc=doing, unit="item") as progress:
        for start, block in read_blocks(directory, _BLOCK_ROWS):
            rows = slice(start, start + len(block))
            check_finite(block, np.arange(rows.start, rows.stop), f"--embeddings {directory}")
            yield rows, block
            progress.update(len(block))


if __name__ == "__main__":
    run_command(main)
