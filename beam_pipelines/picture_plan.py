"""Which picture each item has, and which are to be stored: told to workers by files of the dataset, which vanish again.

A pipeline's description would hold them, too, but engines limit it to some megabytes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from beam_pipelines.format.location import Location, is_remote, remove_file, storage_errors
from beam_pipelines.format.outputs import whole_file

PICTURES_PER_BATCH = 256
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


class PicturePlan(NamedTuple):
    """Files below `directory`, which is one of the dataset.

    Attributes:
        directory: where they lie.
    """

    directory: Location

    def write_items(self, image: Sequence[str | None], kept: pa.Array, eligible: np.ndarray) -> None:
        """Writes what is known of items, `(items,)` each.

        Args:
            image: the picture that an item names in the logs, empty if none; `None` for items that are only in the
                previous dataset.
            kept: see `kept_hashes`.
            eligible: whether pre-training sees the item.
        """
        columns = {"image": pa.array(image, pa.string()), "kept": kept, "eligible": pa.array(eligible)}
        self._write("items", pa.table(columns), 1 << 16)

    def item_column(self, name: str) -> pa.Array:
        """A column of what `write_items` wrote."""
        path = self._path("items")
        with storage_errors(path), path.open("rb") as file, pa.ipc.open_file(file) as batches:
            return batches.read_all()[name].combine_chunks()

    def write_pictures(self, names: Sequence[str], hashes: Sequence[str]) -> int:
        """Writes which pictures are to be stored.

        Args:
            names: the distinct ones in the logs.
            hashes: content hashes of those in the previous dataset that no name is known for.

        Returns:
            In how many batches.
        """
        table = pa.table(
            {"name": [*names, *[""] * len(hashes)], "sha256": [*[""] * len(names), *hashes]},
            schema=pa.schema([("name", pa.string()), ("sha256", pa.string())]),
        )
        self._write("pictures", table, PICTURES_PER_BATCH)
        return -(-len(table) // PICTURES_PER_BATCH)

    def pictures(self, batch: int) -> list[tuple[str, str]]:
        """A batch of names and hashes: one of both is empty."""
        path = self._path("pictures")
        with storage_errors(path), path.open("rb") as file, pa.ipc.open_file(file) as batches:
            columns = batches.get_batch(batch).columns
        return list(zip(*(column.to_pylist() for column in columns), strict=True))

    def remove(self) -> None:
        """Removes the files."""
        for name in ("items", "pictures"):
            remove_file(self._path(name))
        if not is_remote(self.directory):
            self.directory.rmdir()

    def _path(self, name: str) -> Location:
        return self.directory / f"{name}.arrow"

    def _write(self, name: str, table: pa.Table, rows: int) -> None:
        with (
            whole_file(self._path(name)) as path,
            pa.ipc.new_file(str(path), table.schema, options=_LZ4) as file,
        ):
            file.write_table(table, max_chunksize=rows)
