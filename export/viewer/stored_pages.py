"""The pages of a dataset by number, page ID, user and item: random access to what is stored one after the other."""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
from tqdm import tqdm

from beam_pipelines.shell.progress import progress_bar
from models.data.dataset import Dataset
from models.data.map_ahead import map_ahead
from models.data.pages import page_records

_PARSE_TOGETHER = 1024
_LENGTH = struct.Struct("<Q")
_BEFORE, _AROUND = 12, 16  # bytes of a TFRecord before its data, and in all beside it


class PageNumber(NamedTuple):
    """Which page: its split, and its number in the order of the split's files, from 0."""

    split: str
    number: int


class ShownCounts(NamedTuple):
    """How often items were candidates, and how often clicked, on the pages of a split: int64 `(items,)` each."""

    shown: np.ndarray
    clicked: np.ndarray


class _SplitPages(NamedTuple):
    """The pages of a split: where they lie, and what they are found by, `(pages,)` each."""

    file: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    page_id: pa.Array
    user: np.ndarray
    timestamp: np.ndarray
    candidates: np.ndarray
    clicks: np.ndarray


class StoredPages:
    """Finds pages of a dataset; reads all of them once, and keeps no more than where they are.

    Args:
        dataset: the page dataset.

    Attributes:
        lengths: name of each split to its number of pages.
        counts: of each split, how often items were shown and clicked.

    Raises:
        ArtifactError: a file of it is damaged.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._files: list[mmap.mmap | bytes] = []
        self._splits: dict[str, _SplitPages] = {}
        self.counts: dict[str, ShownCounts] = {}
        with progress_bar(desc="reading pages", unit="page") as progress:
            for split in dataset.manifest.splits:
                self._splits[split], self.counts[split] = self._read(dataset, split, progress)
        self.lengths = {split: len(pages.offset) for split, pages in self._splits.items()}

    def record(self, page: PageNumber) -> bytes:
        """The serialized page.

        Raises:
            KeyError: there is no such split.
            IndexError: it has no such page.
        """
        pages = self._splits[page.split]
        if not 0 <= page.number < len(pages.offset):
            raise IndexError(page.number)
        start = int(pages.offset[page.number])
        return self._files[pages.file[page.number]][start : start + int(pages.size[page.number])]

    def find(self, text: str, limit: int) -> list[tuple[PageNumber, str]]:
        """Pages by their ID: those whose ID it is, or else those whose ID contains it; `limit` of them at most."""
        for matches in (pc.equal, pc.match_substring):
            found = [
                (PageNumber(split, int(number)), pages.page_id[number].as_py().decode("utf-8", "replace"))
                for split, pages in self._splits.items()
                for number in np.flatnonzero(matches(pages.page_id, text.encode()))[:limit]
            ]
            if found:
                return found[:limit]
        return []

    def of_user(self, user: int) -> list[PageNumber]:
        """A user's pages, newest first."""
        found = [
            (int(pages.timestamp[number]), PageNumber(split, int(number)))
            for split, pages in self._splits.items()
            for number in np.flatnonzero(pages.user == user)
        ]
        return [page for _, page in sorted(found, reverse=True)]

    def summary(self, page: PageNumber) -> dict[str, str | int]:
        """What a list of pages says of one."""
        pages, number = self._splits[page.split], page.number
        return {
            "split": page.split,
            "number": number,
            "page_id": pages.page_id[number].as_py().decode("utf-8", "replace"),
            "time": int(pages.timestamp[number]),
            "candidates": int(pages.candidates[number]),
            "clicks": int(pages.clicks[number]),
        }

    def _read(self, dataset: Dataset, split: str, progress: tqdm) -> tuple[_SplitPages, ShownCounts]:
        places = []
        for path in dataset.shard_paths(split):
            with open(path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if Path(path).stat().st_size else b""
            places += [(len(self._files), *place) for place in _records(mapped)]
            self._files.append(mapped)
        file, offset, size = np.array(places, np.int64).reshape(-1, 3).T
        items = dataset.manifest.items.file.records
        counts = ShownCounts(np.zeros(items, np.int64), np.zeros(items, np.int64))
        parts = []
        batches = map_ahead(page_records(dataset, split).batch(_PARSE_TOGETHER), _parse)
        for page_id, user, timestamp, item, clicked, candidates in batches.as_numpy_iterator():
            counts.shown[:] += np.bincount(item, minlength=items)
            counts.clicked[:] += np.bincount(item[clicked == 1], minlength=items)
            clicks = np.add.reduceat(np.append(clicked == 1, False), np.cumsum([0, *candidates[:-1]])) * (
                candidates > 0
            )
            parts.append((pa.array(page_id, pa.binary()), user, timestamp, candidates, clicks))
            progress.update(len(user))
        page_ids, *columns = zip(*parts, strict=True)
        of_pages = [np.concatenate(column) for column in columns]
        return _SplitPages(file, offset, size, pa.concat_arrays(page_ids), *of_pages), counts


def _records(file: mmap.mmap | bytes) -> Iterator[tuple[int, int]]:
    """Where the data of each record of a TFRecord file lie, and how long they are."""
    start = 0
    while start < len(file):
        (size,) = _LENGTH.unpack_from(file, start)
        yield start + _BEFORE, size
        start += _AROUND + size


def _parse(serialized: tf.Tensor) -> tuple[tf.Tensor, ...]:
    context = {name: tf.io.FixedLenFeature([], dtype) for name, dtype in (("page_id", tf.string), ("user", tf.int64))}
    spec = {
        **context,
        "timestamp": tf.io.FixedLenFeature([], tf.int64),
        "item": tf.io.RaggedFeature(tf.int64),
        "clicked": tf.io.RaggedFeature(tf.int64),
    }
    parsed = tf.io.parse_example(serialized, spec)
    item = parsed["item"]
    lengths = tf.cast(item.row_lengths(), tf.int64)
    clicked = parsed["clicked"].flat_values
    return parsed["page_id"], parsed["user"], parsed["timestamp"], item.flat_values, clicked, lengths
