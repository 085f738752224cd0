"""What was known of an item on a day: impressions, clicks and payments of the days before it."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from beam_pipelines.format.records import STATISTICS_DAYS

DAY_MS = 86_400_000
PRIOR_IMPRESSIONS = 20
"""How many impressions of an average item the smoothed CTR starts from."""

_KINDS = ("impressions", "clicks", "pays")
_DAY_BITS = 22  # days since 1970 up to the year 9999
_LAST_DAY = (1 << _DAY_BITS) - 1


@dataclasses.dataclass(frozen=True)
class DailyCounts:
    """Counts by item and day, both ascending, one row per item and day that has any.

    Attributes:
        key: int64 `(n,)`, item row and day packed by `_key`.
        counts: int64 `(n, 3)`: impressions, clicks, payments.
    """

    SCHEMA: ClassVar = pa.schema([(name, pa.int64()) for name in ("key", *_KINDS)])

    key: np.ndarray
    counts: np.ndarray

    @classmethod
    def count(cls, **rows: tuple[np.ndarray, np.ndarray]) -> "DailyCounts":
        """Counts rows.

        Args:
            **rows: `impressions`, `clicks` and `pays`: item rows and times in epoch milliseconds, each `(n,)`.
        """
        parts = []
        for column, (item, time) in enumerate(rows[kind] for kind in _KINDS):
            key, counted = np.unique(_key(item, time // DAY_MS), return_counts=True)
            counts = np.zeros((len(key), len(_KINDS)), np.int64)
            counts[:, column] = counted
            parts.append(cls(key, counts))
        return cls.sum(parts)

    @classmethod
    def sum(cls, parts: Iterable["DailyCounts"]) -> "DailyCounts":
        """Adds counts up."""
        parts = [cls(np.zeros(0, np.int64), np.zeros((0, len(_KINDS)), np.int64)), *parts]
        return cls._summed(np.concatenate([p.key for p in parts]), np.concatenate([p.counts for p in parts]))

    @classmethod
    def _summed(cls, key: np.ndarray, counts: np.ndarray) -> "DailyCounts":
        order = np.argsort(key, kind="stable")
        key = key[order]
        first = np.flatnonzero(np.diff(key, prepend=-1))
        if not len(first):
            return cls(key, counts)
        return cls(key[first], np.add.reduceat(counts[order], first, axis=0))

    def split(self, parts: int) -> list["DailyCounts"]:
        """The counts by item row modulo `parts`."""
        part = (self.key >> _DAY_BITS) % parts
        order = np.argsort(part, kind="stable")
        start = np.searchsorted(part[order], np.arange(1, parts))
        return [DailyCounts(self.key[rows], self.counts[rows]) for rows in np.split(order, start)]

    def to_batch(self) -> pa.RecordBatch:
        """The counts as Arrow columns."""
        columns = [self.key, *self.counts.T]
        return pa.record_batch([pa.array(np.ascontiguousarray(c)) for c in columns], schema=self.SCHEMA)

    @classmethod
    def of(cls, table: pa.Table) -> "DailyCounts":
        """What `to_batch` made; of several the sum."""
        key, *counts = (column.to_numpy() for column in table.columns)
        return cls._summed(key, np.stack(counts, axis=1))


class StatisticsPart(NamedTuple):
    """The counts of some items, ready to be looked up.

    Attributes:
        key: of `DailyCounts`, `(n,)`.
        before: `(n + 1, 3)`, counts of all rows before each.
        days: `(days, 4)`, each day and its counts over these items.
    """

    key: np.ndarray
    before: np.ndarray
    days: np.ndarray

    @classmethod
    def of(cls, counts: DailyCounts) -> "StatisticsPart":
        """Prepares counts for lookups."""
        before = _cumulated(counts.counts)
        if before[-1].max(initial=0) < 2**32:
            before = before.astype(np.uint32)
        return cls(counts.key, before, _by_day(counts.key & _LAST_DAY, counts.counts))

    def to_bytes(self) -> pa.Buffer:
        """For `of_bytes`."""
        sink = pa.BufferOutputStream()
        for array in self:
            pa.ipc.write_tensor(pa.Tensor.from_numpy(np.ascontiguousarray(array)), sink)
        return sink.getvalue()

    @classmethod
    def of_bytes(cls, data: pa.Buffer) -> "StatisticsPart":
        """Views of what `to_bytes` made: no copies, for it may lie in a file that many processes have mapped."""
        source = pa.BufferReader(data)
        return cls(*(pa.ipc.read_tensor(source).to_numpy() for _ in cls._fields))


class ItemStatistics:
    """Point-in-time statistics of items.

    A statistic as of a day counts the days before it only, so that it holds nothing that was not known when the day
    began. The click-through rate is smoothed: `(clicks + 20 p) / (impressions + 20)` with `p` that of all items in
    the same window.

    Args:
        parts: the counts of all items, those of an item in part `item % len(parts)`; see `DailyCounts.split`.

    Example:
        >>> day = np.array([DAY_MS])
        >>> shown = (np.array([7]), day)
        >>> counts = DailyCounts.count(impressions=shown, clicks=shown, pays=shown)
        >>> statistics = ItemStatistics([StatisticsPart.of(counts)])
        >>> statistics.as_of(np.array([7]), np.array([2 * DAY_MS]))["impressions_7d"]
        array([1])
    """

    def __init__(self, parts: Sequence[StatisticsPart]) -> None:
        self._parts = parts
        days = np.concatenate([part.days for part in parts])
        total = _by_day(days[:, 0], days[:, 1:])
        self._days = total[:, 0]
        self._total_before = _cumulated(total[:, 1:])

    def as_of(self, item: np.ndarray, time: np.ndarray) -> dict[str, np.ndarray]:
        """Looks up statistics.

        Args:
            item, time: item rows and moments in epoch milliseconds (their UTC day counts), `(n,)`.

        Returns:
            Feature name of the page schema to values `(n,)`: int64 counts and float32 rates.
        """
        # Sorted keys are found much faster, and fewer when pages show the same items.
        key, row = np.unique(_key(item, time // DAY_MS), return_inverse=True)
        item, day = key >> _DAY_BITS, key & _LAST_DAY
        part = item % len(self._parts)
        rows = [(counts, np.flatnonzero(part == number)) for number, counts in enumerate(self._parts)]

        def before(day: np.ndarray) -> np.ndarray:
            counts = np.empty((len(item), len(_KINDS)), np.int64)
            for (keys, all_before, _), here in rows:
                counts[here] = all_before[np.searchsorted(keys, _key(item[here], day[here]))]
            return counts

        today = before(day)
        total_today = self._total_before[np.searchsorted(self._days, day)]
        found = {}
        for days in STATISTICS_DAYS:
            first = np.maximum(day - days, 0)
            impressions, clicks, pays = (today - before(first)).T
            all_impressions, all_clicks, _ = (total_today - self._total_before[np.searchsorted(self._days, first)]).T
            average = all_clicks / np.maximum(all_impressions, 1)
            found[f"impressions_{days}d"] = impressions
            found[f"clicks_{days}d"] = clicks
            found[f"pays_{days}d"] = pays
            smoothed = (clicks + PRIOR_IMPRESSIONS * average) / (impressions + PRIOR_IMPRESSIONS)
            found[f"ctr_{days}d"] = smoothed.astype(np.float32)
        return {name: values[row] for name, values in found.items()}


def _by_day(day: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Each day and the sum of its counts, `(days, 4)`."""
    days, row = np.unique(day, return_inverse=True)
    total = np.zeros((len(days), len(_KINDS)), np.int64)
    np.add.at(total, row, counts)
    return np.concatenate([days[:, None], total], axis=1)


def _key(item: np.ndarray, day: np.ndarray) -> np.ndarray:
    return (item << _DAY_BITS) | day


def _cumulated(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((1, len(_KINDS)), np.int64), np.cumsum(counts, axis=0)])
