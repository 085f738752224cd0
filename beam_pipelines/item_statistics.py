"""What was known of an item on a day: impressions, clicks and payments of the days before it."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from beam_pipelines.records import STATISTICS_DAYS

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

    key: np.ndarray
    counts: np.ndarray

    @classmethod
    def count(cls, **rows: tuple[np.ndarray, np.ndarray]) -> "DailyCounts":
        """Counts rows.

        Args:
            **rows: `impressions`, `clicks` and `pays`: item rows and times in epoch milliseconds, each `(n,)`.
        """
        keys = [_key(item, time // DAY_MS) for item, time in (rows[kind] for kind in _KINDS)]
        ones = [np.repeat([np.eye(len(_KINDS), dtype=np.int64)[i]], len(key), axis=0) for i, key in enumerate(keys)]
        return cls._summed(np.concatenate(keys), np.concatenate(ones))

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
        return [DailyCounts(self.key[part == i], self.counts[part == i]) for i in range(parts)]

    def save(self, path: Path) -> None:
        """Writes a file for `load`."""
        with open(path, "wb") as file:
            np.save(file, np.concatenate([self.key[:, None], self.counts], axis=1))

    @classmethod
    def load(cls, path: Path) -> "DailyCounts":
        """Reads what `save` wrote."""
        table = np.load(path)
        return cls(np.ascontiguousarray(table[:, 0]), table[:, 1:])


class ItemStatistics:
    """Point-in-time statistics of items.

    A statistic as of a day counts the days before it only, so that it holds nothing that was not known when the day
    began. The click-through rate is smoothed: `(clicks + 20 p) / (impressions + 20)` with `p` that of all items in
    the same window.

    Args:
        counts: of all items, in any number of parts that share no item.

    Example:
        >>> day = np.array([DAY_MS])
        >>> shown = (np.array([7]), day)
        >>> counts = DailyCounts.count(impressions=shown, clicks=shown, pays=shown)
        >>> ItemStatistics([counts]).as_of(np.array([7]), np.array([2 * DAY_MS]))["impressions_7d"]
        array([1])
    """

    def __init__(self, counts: Sequence[DailyCounts]) -> None:
        whole = DailyCounts.sum(counts)
        self._key = whole.key
        self._before = _cumulated(whole.counts)
        day = whole.key & _LAST_DAY
        self._days, row = np.unique(day, return_inverse=True)
        total = np.zeros((len(self._days), len(_KINDS)), np.int64)
        np.add.at(total, row, whole.counts)
        self._total_before = _cumulated(total)

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
        today = self._before[np.searchsorted(self._key, key)]
        total_today = self._total_before[np.searchsorted(self._days, day)]
        found = {}
        for days in STATISTICS_DAYS:
            first = np.maximum(day - days, 0)
            impressions, clicks, pays = (today - self._before[np.searchsorted(self._key, _key(item, first))]).T
            all_impressions, all_clicks, _ = (total_today - self._total_before[np.searchsorted(self._days, first)]).T
            average = all_clicks / np.maximum(all_impressions, 1)
            found[f"impressions_{days}d"] = impressions
            found[f"clicks_{days}d"] = clicks
            found[f"pays_{days}d"] = pays
            smoothed = (clicks + PRIOR_IMPRESSIONS * average) / (impressions + PRIOR_IMPRESSIONS)
            found[f"ctr_{days}d"] = smoothed.astype(np.float32)
        return {name: values[row] for name, values in found.items()}


def _key(item: np.ndarray, day: np.ndarray) -> np.ndarray:
    return (item << _DAY_BITS) | day


def _cumulated(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((1, len(_KINDS)), np.int64), np.cumsum(counts, axis=0)])
