"""The pages of one bucket of users, and how they are serialized."""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from beam_pipelines.format.records import FEATURES, HISTORIES, WIRE_ORDER, encode_packed_pages, pack_int64
from beam_pipelines.logs.rejections import RejectedRow
from beam_pipelines.pages.histories import History, Steps
from beam_pipelines.pages.item_statistics import DailyCounts, ItemStatistics
from beam_pipelines.pages.reused_pages import Example

_FEATURES = {feature.name: feature for feature in FEATURES}
_ENCODED_TOGETHER = 2048  # pages
_GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)  # of 2**64: multiples of it are spread evenly


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The pages of a bucket.

    Attributes:
        page_id: `(pages,)`, strings, ascending.
        page_hash: uint64 `(pages,)`.
        user, time: `(pages,)`.
        query: `(pages,)`, strings.
        split: `(pages,)`, index into `SPLITS`.
        start: `(pages + 1,)`: candidates of page `i` are `start[i]:start[i + 1]`.
        candidates: feature name of the page schema to values `(candidates,)`; statistics only after `with_statistics`.
        histories: by name.
        clicks: all click steps of the users.
        counts: impressions, clicks and payments by item and day.
        rejected: rows that are on no page.
        counters: what was counted.
        reused: why page IDs were refused because they are used again, to an example.
    """

    page_id: list[str]
    page_hash: np.ndarray
    user: np.ndarray
    time: np.ndarray
    query: list[str]
    split: np.ndarray
    start: np.ndarray
    candidates: dict[str, np.ndarray]
    histories: dict[str, History]
    clicks: Steps
    counts: DailyCounts
    rejected: list[RejectedRow]
    counters: Counter[str]
    reused: dict[str, Example]

    def pages_of(self, split: int) -> np.ndarray:
        """The pages of a split in the order of their shard: by a hash of the page ID, so that users and times mix."""
        pages = np.flatnonzero(self.split == split)
        return pages[np.argsort(self.page_hash[pages], kind="stable")]

    def with_statistics(self, statistics: ItemStatistics) -> "Bucket":
        """The same pages with the statistics of their candidates as of the page's day."""
        time = np.repeat(self.time, np.diff(self.start))
        found = statistics.as_of(self.candidates["item"], time)
        return dataclasses.replace(self, candidates=self.candidates | found)

    def encode(self, pages: np.ndarray) -> Iterator[pa.BinaryArray]:
        """Serializes pages, in order, some at a time."""
        for first in range(0, len(pages), _ENCODED_TOGETHER):
            block = pages[first : first + _ENCODED_TOGETHER]
            yield encode_packed_pages([payloads(block) for payloads in self._payloads])

    @functools.cached_property
    def _payloads(self) -> list[Callable[[np.ndarray], pa.BinaryArray]]:
        """For each feature what finds its payloads on some pages.

        Every list on a page is a slice of a column, so columns are packed once and pages put together from slices.
        """
        return [self._packed(name) for name in WIRE_ORDER]

    def _packed(self, name: str) -> Callable[[np.ndarray], pa.BinaryArray]:
        feature = _FEATURES[name]
        if feature.kind == "bytes":
            texts = pa.array(self.page_id if name == "page_id" else self.query, pa.string()).cast(pa.binary())
            return lambda pages: texts.take(pa.array(pages))
        if feature.group in HISTORIES:
            history = self.histories[feature.group]
            data, offsets = pack_int64(getattr(history, name.split("_")[1]))
            return lambda pages: _slices(data, offsets[history.start[pages]], offsets[history.stop[pages]])
        values, start = (
            ({"user": self.user, "timestamp": self.time}[name], np.arange(len(self.page_id) + 1))
            if feature.group == "context"
            else (self.candidates[name], self.start)
        )
        if feature.kind == "float":
            data, offsets = np.ascontiguousarray(values, "<f4").tobytes(), 4 * start
        else:
            data, offsets = pack_int64(values)
            offsets = offsets[start]
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
        packed = pa.Array.from_buffers(pa.binary(), len(start) - 1, buffers)
        return lambda pages: packed.take(pa.array(pages))

    def sample_negatives(self, rate: float) -> np.ndarray:
        """The clicked candidates and, chosen by a hash of page and rank on it, a share `rate` of the others."""
        if rate == 1:
            return np.ones(self.start[-1], bool)
        candidates = np.diff(self.start)
        rank = np.arange(self.start[-1]) - np.repeat(self.start[:-1], candidates)
        mixed = _mixed(np.repeat(self.page_hash, candidates) + rank.astype(np.uint64) * _GOLDEN_RATIO)
        return (self.candidates["clicked"] == 1) | ((mixed >> np.uint64(11)) * 2.0**-53 < rate)

    def select_pages(self, pages: np.ndarray) -> "Bucket":
        """Some of the pages."""
        length = np.diff(self.start)[pages]
        start = np.concatenate([[0], np.cumsum(length)])
        rows = np.arange(start[-1]) + np.repeat(self.start[:-1][pages] - start[:-1], length)
        return dataclasses.replace(
            self,
            page_id=[self.page_id[page] for page in pages.tolist()],
            query=[self.query[page] for page in pages.tolist()],
            **{name: getattr(self, name)[pages] for name in ("page_hash", "user", "time", "split")},
            start=start,
            candidates={name: values[rows] for name, values in self.candidates.items()},
            histories={
                name: History(h.item, h.time, h.start[pages], h.stop[pages]) for name, h in self.histories.items()
            },
        )

    def select_candidates(self, kept: np.ndarray) -> "Bucket":
        """Some of the candidates; pages that keep none are left out."""
        start = np.concatenate([[0], np.cumsum(kept)])[self.start]
        candidates = {name: values[kept] for name, values in self.candidates.items()}
        smaller = dataclasses.replace(self, start=start, candidates=candidates)
        return smaller.select_pages(np.flatnonzero(np.diff(start)))


def hash_ids(texts: Sequence[str]) -> np.ndarray:
    """A hash of each ID that every machine computes alike, uint64 `(len(texts),)`."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Scrambles uint64 values (the finalizer of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _slices(data: bytes, start: np.ndarray, stop: np.ndarray) -> pa.BinaryArray:
    """Slices that may overlap: as Arrow's views, 16 bytes each, which it copies out of the data itself."""
    length, flat = stop - start, np.frombuffer(data, np.uint8)
    views = np.zeros((len(start), 4), np.int32)
    views[:, 0] = length
    content = views.view(np.uint8)[:, 4:]
    inline = length <= 12  # lie in their view; the others' has their first 4 bytes, buffer 0 and where in it they begin
    for byte in range(12):
        has = np.flatnonzero((length > byte) if byte < 4 else inline & (length > byte))
        content[has, byte] = flat[start[has] + byte]
    views[~inline, 3] = start[~inline]
    buffers = [None, pa.py_buffer(views), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary_view(), len(start), buffers).cast(pa.binary())
