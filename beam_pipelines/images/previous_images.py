"""The pictures of an earlier dataset, which the next build need not decode again."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.local_copy import fetch, local_copy
from beam_pipelines.format.location import Location
from beam_pipelines.format.manifest import MANIFEST_NAME, Manifest
from beam_pipelines.options import ImageFormat


class PreviousImages:
    """The pictures of an earlier dataset, found by the hash of their source.

    Args:
        dataset: the earlier dataset.
        side, format: what pictures are to be stored as. A dataset of other ones has nothing to offer.
    """

    def __init__(self, dataset: Location, side: int, format: ImageFormat) -> None:
        self._dataset = local_copy(dataset, only=[MANIFEST_NAME])
        manifest = Manifest.read(self._dataset)
        self._shards: list[str] = []
        self._reader: tuple[int, ArrayRecordReader] | None = None
        if manifest.images and _form(manifest) == (side, format):
            self._shards = [shard.path for shard in manifest.images.shards]
            fetch(self._dataset, [manifest.images.index.path])
            index = pq.read_table(self._dataset / manifest.images.index.path)
        else:
            index = pa.table({"shard": [], "index": [], "sha256": []})
        hashes, first = np.unique(index["sha256"].to_numpy().astype("S64"), return_index=True)
        self._hashes = hashes
        self._shard = index["shard"].to_numpy()[first]
        self._index = index["index"].to_numpy()[first]

    def __contains__(self, sha256: str) -> bool:
        return self._row(sha256) is not None

    def read(self, sha256: str) -> bytes:
        """The stored picture. Fast in the order of the hashes, which is that of the shards."""
        row = self._row(sha256)
        shard = int(self._shard[row])
        if self._reader is None or self._reader[0] != shard:
            self.close()
            fetch(self._dataset, [self._shards[shard]])
            path = self._dataset / self._shards[shard]
            self._reader = shard, ArrayRecordReader(str(path), "readahead_buffer_size:0")
        return self._reader[1].read([int(self._index[row])])[0]

    def _row(self, sha256: str) -> int | None:
        key = sha256.encode()
        row = int(np.searchsorted(self._hashes, key))
        return row if row < len(self._hashes) and self._hashes[row] == key else None

    def close(self) -> None:
        """Closes the shard that was read last."""
        if self._reader is not None:
            self._reader[1].close()
            self._reader = None


def kept_hashes(
    previous: tuple[Path, Manifest] | None, image_of_item: Sequence[str | None], side: int, format: ImageFormat
) -> pa.Array:
    """Checks the pictures of the previous dataset, and finds those of items that are only there, in the same rows.

    Args:
        previous: the previous dataset and its manifest, if there is one. What is read of its pictures is compared with
            the manifest.
        image_of_item: the picture that each item row names in the logs, empty if none; `None` for items that are only
            in the previous dataset.
        side, format: what pictures are to be stored as.

    Returns:
        string `(items,)`: the content hash of the picture that stays, empty where none does.

    Raises:
        InputError: a file of its pictures is damaged, or some are to be kept that are stored in another way.
    """
    if previous is None:
        return pa.repeat("", len(image_of_item))
    dataset, manifest = previous
    stored = manifest.images
    if stored is None:
        return pa.repeat("", len(image_of_item))
    manifest.verify(dataset, [stored.index])
    before = pq.read_table(dataset / stored.index.path, columns=["sha256"]).column(0).combine_chunks()
    before = pa.concat_arrays([before, pa.repeat("", len(image_of_item) - len(before))])
    kept = pc.if_else(pc.is_null(pa.array(image_of_item, pa.string())), before, "")
    if _form(manifest) == (side, format):
        manifest.verify(dataset, stored.shards)
    elif count := pc.sum(pc.not_equal(kept, "")).as_py():
        side, format = _form(manifest)
        raise InputError(
            f"`previous`: {count} items with pictures are only in {dataset}, where pictures are stored in another way "
            f"than asked for; pass `image_side` {side} `image_format` {format} to keep them"
        )
    return kept


def _form(manifest: Manifest) -> tuple[int, ImageFormat]:
    return manifest.options["image_side"], manifest.options["image_format"]
