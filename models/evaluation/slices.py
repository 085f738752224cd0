"""Kinds of candidates that a report looks at one by one."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

_DAY = 86_400_000
_AGE_STARTS = (0, 7, 30, 90, 365)
"""First days of the bins of item age."""


class Slices(NamedTuple):
    """Divides candidates into kinds.

    Attributes:
        title: what the candidates are divided by.
        values: names of the kinds that occur, in the order to show them.
        number: of each candidate's kind, int, shape `(n,)`.
    """

    title: str
    values: tuple[str, ...]
    number: np.ndarray


def by_category(items: pa.Table, item: np.ndarray) -> Slices:
    """By the items' category, those with the most candidates first.

    Args:
        items: the item table, with `category`.
        item: item row of each candidate, shape `(n,)`.
    """
    categories = items["category"].combine_chunks().fill_null("").dictionary_encode()
    names = [name or "(none)" for name in categories.dictionary.to_pylist()]
    number = categories.indices.to_numpy()[item]
    order = np.argsort(-np.bincount(number, minlength=len(names)), kind="stable")
    return _occurring("category", [names[n] for n in order], np.argsort(order)[number])


def by_item_age(items: pa.Table, item: np.ndarray, timestamp: np.ndarray) -> Slices:
    """By the days from the items' `published_at` to the page; before publication counts as day 0.

    Args:
        items: the item table, with `published_at` in epoch milliseconds; without a date, the age is unknown.
        item: item row of each candidate, shape `(n,)`.
        timestamp: of each candidate's page, epoch milliseconds, shape `(n,)`.
    """
    column = items["published_at"]
    unknown = column.is_null().to_numpy()[item]
    days = (timestamp - column.fill_null(0).to_numpy()[item]) // _DAY
    number = np.searchsorted(_AGE_STARTS, np.maximum(days, 0), side="right") - 1
    ends = [start - 1 for start in _AGE_STARTS[1:]]
    names = [f"{start}-{end} days" for start, end in zip(_AGE_STARTS, ends, strict=False)]
    names += [f"{_AGE_STARTS[-1]} days or more", "unknown"]
    return _occurring("item age", names, np.where(unknown, len(_AGE_STARTS), number))


def by_count(title: str, count: np.ndarray) -> Slices:
    """By 0, 1, 2-3, 4-7, 8-15, ...

    Args:
        title: what is counted.
        count: int, shape `(n,)`; below 0 counts as 0.
    """
    number = np.frexp(np.maximum(count, 0).astype(np.float64))[1]
    starts = [0, *(2**n for n in range(int(number.max(initial=0))))]
    names = ["0", "1", *(f"{start}-{2 * start - 1}" for start in starts[2:])]
    return _occurring(title, names, number)


def by_flag(title: str, names: tuple[str, str], flag: np.ndarray) -> Slices:
    """By a bool, shape `(n,)`: `names` are of `False` and of `True`."""
    return _occurring(title, names, flag.astype(np.int64))


def _occurring(title: str, names: "list[str] | tuple[str, ...]", number: np.ndarray) -> Slices:
    occurring, number = np.unique(number, return_inverse=True)
    return Slices(title, tuple(names[n] for n in occurring), number)
