"""Counts pages the way the paper describes its datasets (tables 3 and 4)."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from beam_pipelines.format.page_reader import int64_list_lengths, unpack_int64
from beam_pipelines.format.records import HISTORIES


@dataclasses.dataclass(frozen=True)
class PageStatistics:
    """Counts over some pages. Counts over disjoint pages add up with `merged`.

    Attributes:
        users, items: bool, `(users,)` and `(items,)`: which rows have a page, or are a candidate on one.
        pages, impressions, clicks: how many.
        pages_with_both_classes: pages with a clicked and an unclicked candidate.
        impressions_with_picture: candidates whose item has a stored picture.
        history_lengths: history name to int64 `(longest + 1,)`, the number of pages by length of that history.
        impressions_at, clicks_at: the same by position.
        first, last: page timestamps, epoch milliseconds.
    """

    users: np.ndarray
    items: np.ndarray
    pages: int
    impressions: int
    clicks: int
    pages_with_both_classes: int
    impressions_with_picture: int
    history_lengths: dict[str, np.ndarray]
    impressions_at: Counter[int]
    clicks_at: Counter[int]
    first: int
    last: int

    @classmethod
    def of(cls, pages: Sequence[Mapping[str, bytes]], has_picture: np.ndarray, num_users: int) -> "PageStatistics":
        """Counts a block of pages.

        Args:
            pages: at least one, as `page_reader.packed_page` gives them.
            has_picture: bool `(items,)`.
            num_users: rows of the user table.
        """

        def column(name: str) -> np.ndarray:
            return unpack_int64([page[name] for page in pages])[0]

        item, candidates = unpack_int64([page["item"] for page in pages])
        clicked, position, time = column("clicked"), column("position"), column("timestamp")
        clicks = np.diff(np.concatenate([[0], np.cumsum(clicked)])[np.cumsum([0, *candidates])])
        users = np.zeros(num_users, bool)
        users[column("user")] = True
        items = np.zeros(len(has_picture), bool)
        items[item] = True
        return cls(
            users=users,
            items=items,
            pages=len(pages),
            impressions=len(item),
            clicks=int(clicked.sum()),
            pages_with_both_classes=int(((clicks > 0) & (clicks < candidates)).sum()),
            impressions_with_picture=int(has_picture[item].sum()),
            history_lengths={
                name: np.bincount(int64_list_lengths([page[f"{name}_item"] for page in pages]), minlength=limit + 1)
                for name, limit in HISTORIES.items()
            },
            impressions_at=Counter(position.tolist()),
            clicks_at=Counter(position[clicked == 1].tolist()),
            first=int(time.min()),
            last=int(time.max()),
        )

    @classmethod
    def merged(cls, parts: Iterable["PageStatistics"]) -> "PageStatistics":
        """Counts over the pages of all parts, of which there is at least one."""
        return functools.reduce(cls._add, parts)

    def _add(self, other: "PageStatistics") -> "PageStatistics":
        counts = ("pages", "impressions", "clicks", "pages_with_both_classes", "impressions_with_picture")
        return PageStatistics(
            users=self.users | other.users,
            items=self.items | other.items,
            **{name: getattr(self, name) + getattr(other, name) for name in counts},
            history_lengths={name: n + other.history_lengths[name] for name, n in self.history_lengths.items()},
            impressions_at=self.impressions_at + other.impressions_at,
            clicks_at=self.clicks_at + other.clicks_at,
            first=min(self.first, other.first),
            last=max(self.last, other.last),
        )

    @property
    def ctr(self) -> float:
        """Clicks per impression."""
        return self.clicks / self.impressions

    @property
    def mean_candidates(self) -> float:
        """Candidates per page, the paper's "# PV Items"."""
        return self.impressions / self.pages

    def mean_history(self, name: str) -> float:
        """Steps of a history per page, the paper's "# Hist"."""
        lengths = self.history_lengths[name]
        return float(lengths @ np.arange(len(lengths))) / self.pages
