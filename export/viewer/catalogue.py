"""The items and users of a dataset as they are shown: texts, pictures, and a search for them."""

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from array_record.python.array_record_data_source import ArrayRecordDataSource

from models.data.dataset import Dataset

_CARD = ("item_id", "title", "category")


class Catalogue:
    """Looks up items and users of a dataset by row.

    Args:
        dataset: the page dataset.

    Attributes:
        items, users: the tables.
        picture_type: the content type of its pictures.

    Raises:
        ArtifactError: a file of it is damaged.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.items, self.users = dataset.items(), dataset.users()
        self._cards = self.items.select([name for name in _CARD if name in self.items.column_names])
        self._pictures: ArrayRecordDataSource | None = None
        self._reading = threading.Lock()
        self._place = np.full(self.items.num_rows, -1, np.int64)
        images = dataset.manifest.images
        self.picture_type = f"image/{images.format if images else 'jpeg'}"
        if images is not None and any(shard.records for shard in images.shards):
            self._pictures = ArrayRecordDataSource(dataset.image_shard_paths())
            first = np.cumsum([0, *(shard.records for shard in images.shards)])
            index = dataset.image_index()
            shard, number = (index.column(name).to_numpy().astype(np.int64) for name in ("shard", "index"))
            self._place = np.where(shard >= 0, first[shard] + number, -1)

    def cards(self, rows: Iterable[int]) -> dict[int, dict[str, Any]]:
        """What is shown of items everywhere: `id`, `title`, `category`, and whether there is a `picture`."""
        wanted = sorted({int(row) for row in rows})
        found = self._cards.take(pa.array(wanted, pa.int64())).to_pylist()
        return {
            row: {
                "id": card["item_id"],
                "title": card.get("title") or "",
                "category": card.get("category") or "",
                "picture": bool(self._place[row] >= 0),
            }
            for row, card in zip(wanted, found, strict=True)
        }

    def details(self, row: int) -> dict[str, str]:
        """All that the item table says of an item, as text; empty columns are left out."""
        (values,) = self.items.slice(row, 1).to_pylist()
        return {name: str(value) for name, value in values.items() if value is not None and value != ""}

    def user_details(self, row: int) -> dict[str, str]:
        """All that the user table says of a user, as text; empty columns are left out."""
        (values,) = self.users.slice(row, 1).to_pylist()
        return {name: str(value) for name, value in values.items() if value is not None and value != ""}

    def find_items(self, text: str, limit: int) -> list[int]:
        """Rows of items: the one with this ID, or else those whose ID or title contains the text in any case."""
        names = [name for name in ("item_id", "title") if name in self.items.column_names]
        return _find(self.items, names, text, limit)

    def find_users(self, text: str, limit: int) -> list[int]:
        """Rows of users: the one with this ID, or else those whose ID contains the text in any case."""
        return _find(self.users, ["user_id"], text, limit)

    def picture(self, row: int) -> bytes | None:
        """The stored picture of an item; `None` if it has none."""
        place = int(self._place[row])
        if self._pictures is None or place < 0:
            return None
        with self._reading:
            (picture,) = self._pictures.__getitems__([place])
        return picture


def _find(table: pa.Table, names: list[str], text: str, limit: int) -> list[int]:
    exact = pc.equal(table[names[0]], text).to_numpy()
    if exact.any():
        return np.flatnonzero(exact)[:limit].tolist()
    found = np.zeros(table.num_rows, bool)
    for name in names:
        found |= pc.match_substring(table[name], text, ignore_case=True).fill_null(False).to_numpy()
    return np.flatnonzero(found)[:limit].tolist()
