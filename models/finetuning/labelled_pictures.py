"""Pictures with labels and products: of a dataset's items, or of an archive with a table."""

import csv
import gzip
import hashlib
import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.shell.progress import progress_bar
from models.data.dataset import Dataset
from models.data.picture_store import PictureStore

ARCHIVE_FILE = "images.zip"
_TABLES = ("labels.csv", "labels.csv.gz")
_COLUMNS = ("split", "label", "file")
_TRAIN = "train"
NO_LABEL = -1


class LabelledPictures(NamedTuple):
    """Pictures in memory.

    Attributes:
        pictures: uint8 `(n, height, width, 3)`, RGB.
        labels: int64 `(n,)`, numbers in `names`, -1 = none.
        names: the labels.
        products: int64 `(n,)`: pictures of one product are of one number.
        held_out: bool `(n,)`, what the source itself keeps for measuring; `None` if it keeps nothing.
        digest: of the source.
        notice: of the dataset; may be empty.
    """

    pictures: np.ndarray
    labels: np.ndarray
    names: list[str]
    products: np.ndarray
    held_out: np.ndarray | None
    digest: str
    notice: str

    @classmethod
    def of_dataset(
        cls,
        dataset: Dataset,
        image_size: tuple[int, int],
        label: str,
        product: str = "item_id",
        product_digits: int | None = None,
    ) -> "LabelledPictures":
        """The distinct pictures of a dataset's items; of items that share one, the first counts.

        Args:
            dataset: a page dataset.
            image_size: `(height, width)`.
            label: a column of the item table.
            product: the column that is the same for pictures of one product.
            product_digits: how many of its first characters count; `None` for all. An article number of H&M has seven
                of the product and three of the colour.

        Raises:
            InputError: the item table has no such column.
            ArtifactError: the dataset has no pictures.
        """
        items = dataset.items()
        for name, column in (("label", label), ("product", product)):
            if column not in items.column_names:
                columns = ", ".join(items.column_names)
                raise InputError(f"`{name}` must be a column of the items ({columns}). Received: {column}")
        store = PictureStore(dataset, image_size)
        numbers, rows = np.unique(store.picture_of_item, return_index=True)
        rows = rows[numbers >= 0]  # by picture number, all of which have an item
        values = items[label].take(rows).to_pylist()
        texts = ["" if value is None else str(value) for value in values]
        names = sorted(set(texts) - {""})
        number = {name: n for n, name in enumerate(names)}
        ids = [
            str(value)[:product_digits] if value not in (None, "") else row  # without one, it is of no other's product
            for row, value in zip(rows.tolist(), items[product].take(rows).to_pylist(), strict=True)
        ]
        number_of_product = {product_id: n for n, product_id in enumerate(dict.fromkeys(ids))}
        return cls(
            store.read_all()[numbers[numbers >= 0]],
            np.array([number.get(text, NO_LABEL) for text in texts], np.int64),
            names,
            np.array([number_of_product[product_id] for product_id in ids], np.int64),
            None,
            dataset.manifest.digest(),
            dataset.manifest.notice,
        )

    @classmethod
    def of_archive(cls, directory: Path, image_size: tuple[int, int]) -> "LabelledPictures":
        """The pictures of `images.zip`, `SPLIT/LABEL/FILE` in it, with `labels.csv` or `labels.csv.gz`.

        The table has the columns `split`, `label` and `file`. Every picture is a product of its own; what is not in the
        split `train` is held out.

        Args:
            directory: with the two files.
            image_size: `(height, width)`; pictures are resized with anti-aliasing, their aspect ratio is not kept.

        Raises:
            ArtifactError: a file is missing or damaged, or a picture of the table is not in the archive.
        """
        table = next((directory / name for name in _TABLES if (directory / name).is_file()), None)
        archive = directory / ARCHIVE_FILE
        if table is None or not archive.is_file():
            raise ArtifactError(f"{directory} must have {ARCHIVE_FILE} and {' or '.join(_TABLES)}, or be a dataset")
        rows = _rows(table)
        names = sorted({row["label"] for row in rows})
        pictures = np.empty((len(rows), *image_size, 3), np.uint8)
        height, width = image_size
        try:
            with zipfile.ZipFile(archive) as file:
                for n, row in enumerate(progress_bar(rows, desc="reading pictures", unit="picture")):
                    name = f"{row['split']}/{row['label']}/{row['file']}"
                    with Image.open(io.BytesIO(file.read(name))) as picture:
                        pictures[n] = np.asarray(
                            picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
                        )
        except (zipfile.BadZipFile, UnidentifiedImageError, OSError, KeyError) as error:
            raise ArtifactError(f"{archive}: {error}") from error
        digest = hashlib.sha256(archive.read_bytes() + table.read_bytes()).hexdigest()
        return cls(
            pictures,
            np.array([names.index(row["label"]) for row in rows], np.int64),
            names,
            np.arange(len(rows)),
            np.array([row["split"] != _TRAIN for row in rows]),
            digest,
            "",
        )


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        content = table.read_bytes()
        text = (gzip.decompress(content) if table.suffix == ".gz" else content).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{table}: cannot be read: {error}") from error
    if not rows or not set(_COLUMNS) <= rows[0].keys():
        raise ArtifactError(f"{table}: must have the columns {', '.join(_COLUMNS)} and some rows")
    return rows
