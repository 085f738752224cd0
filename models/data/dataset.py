"""Opens a page dataset: only what its manifest lists, and only if it is what the manifest says."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.local_copy import local_copy, names_in
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.manifest import MANIFEST_NAME, PRETRAINING, File, Images, Manifest, PretrainingView, Split
from beam_pipelines.format.tfrecord import read_records
from beam_pipelines.shell.progress import warn

if TYPE_CHECKING:
    from models.data.pages import Pages
    from models.data.pretraining_pages import PretrainingPages

_ROWS_TOGETHER = 1 << 16


class Dataset:
    """A page dataset.

    One that lies elsewhere is read from a copy on this machine: the tables at once, pages and pictures when they are
    first needed.

    Args:
        path: the directory that `beam_pipelines.build` wrote, or its URI.
        max_bad_shards: page shards that may be damaged or missing; their pages are left out, with a warning each.

    Attributes:
        path: as given.
        bad_shards: what is wrong with the page shards that were left out so far.

    Raises:
        ArtifactError: the directory holds no dataset of this version, or a table of it is damaged.
    """

    def __init__(self, path: Location | str, max_bad_shards: int = 0) -> None:
        if max_bad_shards < 0:
            raise InputError(f"`max_bad_shards` must be at least 0. Received: {max_bad_shards}")
        self.path = as_location(path)
        self.bad_shards: list[str] = []
        self._max_bad_shards = max_bad_shards
        self._shard_paths: dict[str, list[str]] = {}
        self._directory = local_copy(self.path, only=[MANIFEST_NAME])
        self.manifest = Manifest.read(self._directory)
        tables = [self.manifest.items.file, self.manifest.users.file]
        if self.manifest.images is not None:
            tables.append(self.manifest.images.index)
        self.manifest.verify(self._directory, tables)

    def split(self, name: str) -> Split:
        """The split `name`, or the view `PRETRAINING`.

        Raises:
            ArtifactError: it has no pages.
        """
        if name == PRETRAINING:
            return self.pretraining_view()
        if name not in self.manifest.splits:
            raise ArtifactError(
                f"{self.path} has no pages in split `{name}` (splits: {', '.join(self.manifest.splits)})"
            )
        return self.manifest.splits[name]

    def pages(self, split: str) -> "Pages":
        """The pages of the split `pretrain`, `train` or `test`.

        Raises:
            ArtifactError: it has none.
        """
        from models.data.pages import Pages  # which needs TensorFlow

        return Pages(self, split)

    def pretraining(
        self,
        image_size: tuple[int, int] = (48, 32),
        candidates: int = 5,
        clicks: int = 5,
        validation_share: float = 0.0,
        tokenize: Callable[[Sequence[str]], np.ndarray] | None = None,
    ) -> "PretrainingPages":
        """The pages and pictures that encoder pre-training learns on; see `PretrainingPages`.

        Raises:
            ArtifactError: there is nothing to learn on.
        """
        from models.data.pretraining_pages import PretrainingPages  # which needs TensorFlow

        return PretrainingPages(
            self,
            image_size,
            candidates=candidates,
            clicks=clicks,
            validation_share=validation_share,
            tokenize=tokenize,
        )

    def pretraining_view(self) -> PretrainingView:
        """What an encoder learns on.

        Raises:
            ArtifactError: there is nothing to learn on.
        """
        if self.manifest.pretraining is None:
            raise ArtifactError(
                f"{self.path} has no pages for encoder pre-training: no pretrain page has pictures, a click before it "
                "and a clicked candidate; build it with pictures, and with more pages before PRETRAIN_END"
            )
        return self.manifest.pretraining

    def shard_paths(self, split: str) -> list[str]:
        """Verified paths of the page shards of a split, in the manifest's order. Each split is verified once.

        Raises:
            ArtifactError: more than `max_bad_shards` shards are damaged or missing, all of the split are, or there is
                one that the manifest does not list.
        """
        if split not in self._shard_paths:
            shards = self.split(split).shards
            self._refuse_unlisted()
            whole = [shard for shard in shards if self._is_whole(shard)]
            if not whole:
                raise ArtifactError(f"{self.path}: every shard of split `{split}` is damaged; build the dataset again")
            self._shard_paths[split] = [str(self._directory / shard.path) for shard in whole]
        return self._shard_paths[split]

    def image_shard_paths(self) -> list[str]:
        """Verified paths of the picture shards, in the order that `image_index()` numbers them."""
        shards = self._images().shards
        self.manifest.verify(self._directory, shards)
        return [str(self._directory / shard.path) for shard in shards]

    def items(self) -> pa.Table:
        """The item table: `item_id`, `category`, `title` and the other columns of the logs, by item row."""
        return pq.read_table(self._directory / self.manifest.items.file.path)

    def users(self) -> pa.Table:
        """The user table: `user_id` and the other columns of the logs, by user row."""
        return pq.read_table(self._directory / self.manifest.users.file.path)

    def item_schema(self) -> pa.Schema:
        """The columns of the item table, without reading it."""
        return pq.read_schema(self._directory / self.manifest.items.file.path)

    def user_schema(self) -> pa.Schema:
        """The columns of the user table, without reading it."""
        return pq.read_schema(self._directory / self.manifest.users.file.path)

    def image_index(self) -> pa.Table:
        """Columns `shard`, `index` (both -1 without picture) and `sha256`, by item row."""
        return pq.read_table(self._directory / self._images().index.path)

    def picture_hashes(self) -> np.ndarray:
        """SHA-256 of each item's source picture: uint8 `(items, 32)`, zeros without picture."""
        hashes = np.zeros((self.manifest.items.file.records, 32), np.uint8)
        start = 0
        for batch in self.image_index().select(["shard", "sha256"]).to_batches(max_chunksize=_ROWS_TOGETHER):
            has_picture = batch.column("shard").to_numpy() >= 0
            digests = bytes.fromhex("".join(batch.column("sha256").to_pylist()))  # empty without picture
            hashes[start : start + len(batch)][has_picture] = np.frombuffer(digests, np.uint8).reshape(-1, 32)
            start += len(batch)
        return hashes

    def _images(self) -> Images:
        if self.manifest.images is None:
            raise ArtifactError(f"{self.path} has no pictures; build it from logs with an images/ directory")
        return self.manifest.images

    def _refuse_unlisted(self) -> None:
        splits = [*self.manifest.splits.values()]
        if self.manifest.pretraining is not None:
            splits.append(self.manifest.pretraining)
        listed = {shard.path for split in splits for shard in split.shards}
        found = [f"{folder}/{name}" for folder in ("pages", PRETRAINING) for name in names_in(self._directory, folder)]
        for path in found:
            if path.endswith(".tfrecord") and path not in listed:
                raise ArtifactError(
                    f"{self.path / path}: {MANIFEST_NAME} does not list it, so that its pages would not be read; "
                    "remove it, or build the dataset again with its rows"
                )

    def _is_whole(self, shard: File) -> bool:
        """Whether a page shard is what the manifest says; one that is not is counted."""
        try:
            self.manifest.verify(self._directory, [shard])
        except ArtifactError as error:
            damage = _damage(self._directory / shard.path, shard.records)
            if len(self.bad_shards) == self._max_bad_shards:
                allowed = f" (max_bad_shards: {self._max_bad_shards})" if self._max_bad_shards else ""
                raise ArtifactError(f"{damage}; build the dataset again{allowed}") from error
            self.bad_shards.append(damage)
            warn(f"{damage}; left out with its {shard.records} pages")
            return False
        return True


def _damage(path: Path, records: int) -> str:
    """What is wrong with a shard that should hold `records` records, with the number of the first broken one."""
    if not path.is_file():
        return f"{path} is missing, but {MANIFEST_NAME} lists it"
    whole = 0
    try:
        for _ in read_records(path):
            whole += 1
    except InputError:
        if whole < records:
            return f"{path} is damaged in record {whole + 1} of {records}"
    if whole < records:
        return f"{path} ends after record {whole} of {records}"
    return f"{path} is not the file that {MANIFEST_NAME} lists"
