"""Opens a page dataset: only what its manifest lists, and only if it is what the manifest says."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.command import CommandError
from beam_pipelines.manifest import File, Images, Manifest, Split


class Dataset:
    """A page dataset on disk.

    Args:
        path: the directory that `beam_pipelines.build` wrote.

    Raises:
        CommandError: the directory holds no dataset of this version, or a table of it is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.manifest = Manifest.read(self.path)
        tables = [self.manifest.items.file, self.manifest.users.file]
        if self.manifest.images is not None:
            tables.append(self.manifest.images.index)
        self.manifest.verify(self.path, tables)

    def split(self, name: str) -> Split:
        """The split `name`.

        Raises:
            CommandError: it has no pages.
        """
        if name not in self.manifest.splits:
            raise CommandError(
                f"{self.path} has no pages in split `{name}` (splits: {', '.join(self.manifest.splits)})"
            )
        return self.manifest.splits[name]

    def shard_paths(self, split: str) -> list[str]:
        """Verified paths of the page shards of a split, in the manifest's order."""
        return self._verified(self.split(split).shards)

    def image_shard_paths(self) -> list[str]:
        """Verified paths of the picture shards, in the order that `image_index()` numbers them."""
        return self._verified(self._images().shards)

    def items(self) -> pa.Table:
        """The item table: `item_id`, `category`, `title` and the other columns of the logs, by item row."""
        return pq.read_table(self.path / self.manifest.items.file.path)

    def users(self) -> pa.Table:
        """The user table: `user_id` and the other columns of the logs, by user row."""
        return pq.read_table(self.path / self.manifest.users.file.path)

    def image_index(self) -> pa.Table:
        """Columns `shard`, `index` (both -1 without picture) and `sha256`, by item row."""
        return pq.read_table(self.path / self._images().index.path)

    def _images(self) -> Images:
        if self.manifest.images is None:
            raise CommandError(f"{self.path} has no pictures; build it from logs with an images/ directory")
        return self.manifest.images

    def _verified(self, files: list[File]) -> list[str]:
        self.manifest.verify(self.path, files)
        return [str(self.path / file.path) for file in files]
