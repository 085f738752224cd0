"""Histories of pages: what a user did before each of them, found for all users of a bucket at once.

A history holds one step per moment and item, strictly before the page, newest first; at equal times by item row.
"""

import dataclasses
import itertools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Steps:
    """Steps of one kind of all owners (users): by owner, then newest first, then by item.

    Attributes:
        owner, time, item: `(steps,)`.
    """

    owner: np.ndarray
    time: np.ndarray
    item: np.ndarray

    @classmethod
    def of(cls, owner: np.ndarray, time: np.ndarray, item: np.ndarray) -> "Steps":
        """Sorts steps and keeps one per owner, time and item."""
        order = sort_rows(owner, time.max(initial=0) - time, item)
        owner, time, item = owner[order], time[order], item[order]
        first = starts_group(owner, time, item)
        return cls(owner[first], time[first], item[first])

    def where(self, mask: np.ndarray) -> "Steps":
        """Some of the steps."""
        return Steps(self.owner[mask], self.time[mask], self.item[mask])

    def before(
        self, owner: np.ndarray, time: np.ndarray, reach: int, limit: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds the newest steps of each page strictly before it.

        Args:
            owner, time: `(pages,)`.
            reach: how much older than the page a step may be.
            limit: steps kept per page.

        Returns:
            `start` and `stop`, `(pages,)`: the page's history is `start:stop`; and where the limit cut it.
        """
        moments = np.unique(np.concatenate([self.time, time]))
        oldest = len(moments)
        # One ascending key for "by owner, then newest first".
        steps = self.owner * (oldest + 1) + oldest - 1 - np.searchsorted(moments, self.time)
        first = owner * (oldest + 1) + oldest - 1
        start = np.searchsorted(steps, first - np.searchsorted(moments, time), side="right")
        stop = np.searchsorted(steps, first - np.searchsorted(moments, time - reach), side="right")
        return start, np.minimum(stop, start + limit), stop - start > limit


@dataclasses.dataclass(frozen=True)
class History:
    """One history of each page.

    Attributes:
        item, time: `(steps,)`, shared by the pages.
        start, stop: `(pages,)`: the history of page `i` is `start[i]:stop[i]`.
    """

    item: np.ndarray
    time: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    @classmethod
    def empty(cls, pages: int) -> "History":
        """No steps."""
        nothing = np.zeros(0, np.int64)
        return cls(nothing, nothing, np.zeros(pages, np.int64), np.zeros(pages, np.int64))


def find_carts(
    added: Steps, removed: Steps, user: np.ndarray, time: np.ndarray, limit: int
) -> tuple[History, np.ndarray]:
    """What is in the cart at each page, newest first, and where the limit cut it.

    One walk through each user's moments, oldest first, with the cart as a dict from item to row of `added`: a dict
    keeps the order of insertion, so its end is what was put in last.
    """
    start, stop = np.zeros((2, len(user)), np.int64)
    cut = np.zeros(len(user), bool)
    pages = np.flatnonzero(np.isin(user, added.owner))
    # At one moment a page comes first (strictly before), then what is added, then what is removed.
    kind = np.repeat([0, 1, 2], [len(pages), len(added.owner), len(removed.owner)])
    row = np.concatenate([pages, np.arange(len(added.owner)), np.arange(len(removed.owner))])
    item = np.concatenate([np.zeros(len(pages), np.int64), added.item, removed.item])
    who = np.concatenate([user[pages], added.owner, removed.owner])
    when = np.concatenate([time[pages], added.time, removed.time])
    order = sort_rows(who, when, kind, item.max(initial=0) - item)
    steps: list[int] = []
    cart: dict[int, int] = {}
    owner = first = -1
    for u, k, r, i in zip(*(column[order].tolist() for column in (who, kind, row, item)), strict=True):
        if u != owner:
            cart, owner, first = {}, u, -1
        if k:
            cart.pop(i, None)
            if k == 1:
                cart[i] = r
            first = -1
        elif cart:
            if first < 0:  # pages between two changes share their steps
                first = len(steps)
                steps += itertools.islice(reversed(cart.values()), limit)
            start[r], stop[r], cut[r] = first, len(steps), len(cart) > limit
    rows = np.array(steps, np.int64)
    return History(added.item[rows], added.time[rows], start, stop), cut


def sort_rows(*columns: np.ndarray) -> np.ndarray:
    """Sorts rows by columns of non-negative integers, the first one first; equal rows keep their order."""
    key = np.zeros(len(columns[0]), np.int64)
    bits = [int(column.max(initial=0)).bit_length() for column in columns]
    if sum(bits) > 63:
        return np.lexsort(columns[::-1])
    for column, width in zip(columns, bits, strict=True):  # one sort by all of them is faster than one by each
        key = (key << width) | column
    return np.argsort(key, kind="stable")


def starts_group(*columns: np.ndarray) -> np.ndarray:
    """Where a row of sorted columns differs from the one before."""
    starts = np.ones(len(columns[0]), bool)
    starts[1:] = False
    for column in columns:
        starts[1:] |= column[1:] != column[:-1]
    return starts
