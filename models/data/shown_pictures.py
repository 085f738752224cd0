"""Pictures and their items for people to look at, beside what the encoder sees."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image

from models.data.dataset import Dataset

LABEL_PREFIX = "label_"
_JPEG_QUALITY = 85


def inline_picture(picture: np.ndarray, caption: str) -> str:
    """A picture, uint8 `(height, width, 3)`, as an HTML element that holds it whole."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=_JPEG_QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(caption)}" title="{escape(caption)}">'


class ShownPictures:
    """Stored pictures in their own shape, with the items that they show.

    Args:
        dataset: the page dataset.
        picture_of_item: int `(items,)`, the picture of each item row, -1 without; see `PictureStore`.
    """

    def __init__(self, dataset: Dataset, picture_of_item: np.ndarray) -> None:
        self._records = ArrayRecordDataSource(dataset.image_shard_paths())
        self._items = dataset.items()
        self._item_of_picture = np.zeros(len(self._records), np.int64)
        rows = np.flatnonzero(picture_of_item >= 0)[::-1]  # of items that share a picture, the first one stays
        self._item_of_picture[picture_of_item[rows]] = rows

    def read(self, numbers: Sequence[int], side: int) -> Iterable[np.ndarray]:
        """Yields pictures as uint8 `(height, width, 3)` of at most `side` pixels."""
        for number in numbers:
            (record,) = self._records.__getitems__([int(number)])
            with Image.open(io.BytesIO(record)) as file:
                file.draft("RGB", (side, side))  # decodes no more than needed
                picture = file.convert("RGB")
                picture.thumbnail((side, side))
                yield np.asarray(picture)

    def columns(self, numbers: Sequence[int]) -> dict[str, list[str]]:
        """`item_id`, `category`, `title` and all `label_*` of the pictures' items, as far as the table has them."""
        names = [
            name
            for name in self._items.column_names
            if name in ("item_id", "category", "title") or name.startswith(LABEL_PREFIX)
        ]
        items = self._items.select(names).take(self._item_of_picture[np.asarray(numbers, np.int64)])
        return {
            name: ["" if value is None else str(value) for value in column.to_pylist()]
            for name, column in zip(names, items.columns, strict=True)
        }
