"""Pages for logs that name none: a user's rows, cut where the user paused."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class SessionPages(NamedTuple):
    """Rows put into pages.

    Attributes:
        order: `(rows,)`, the rows by user, then time.
        page, position: `(rows,)`, in that order: number of the page, and place on it.
        start: `(pages,)`, where each page begins in that order.
    """

    order: np.ndarray
    page: np.ndarray
    position: np.ndarray
    start: np.ndarray

    def ids(self, user: pa.ChunkedArray, time: np.ndarray) -> pa.ChunkedArray:
        """The ID of every row's page, in `order`: its user and its first moment, which no other page shares."""
        first = self.order[self.start]
        pages = pc.binary_join_element_wise(user.take(pa.array(first)), pa.array(time[first].astype(str)), "-")
        return pages.take(pa.array(self.page))

    def with_both_classes(self, clicked: np.ndarray) -> int:
        """How many pages have a click and a non-click; `clicked` is in `order`."""
        clicks, rows = np.bincount(self.page, clicked), np.bincount(self.page)
        return int(((clicks > 0) & (clicks < rows)).sum())


def cut_sessions(
    user: pa.ChunkedArray, time: np.ndarray, item: pa.ChunkedArray, gap: int, feed: np.ndarray | None = None
) -> SessionPages:
    """Cuts every user's rows into pages.

    A page ends where the user paused for longer than `gap`, or went to another feed. Pages of a user never overlap in
    time and rows of one moment share a page, so what precedes a page strictly has really happened before it.

    Args:
        user, item: `(rows,)`, IDs.
        time: `(rows,)`. At equal times, rows are ordered by feed, then item, which no outcome decides.
        gap: in the unit of `time`.
        feed: `(rows,)` numbers, or `None` if there is only one.
    """
    feed = np.zeros(len(time), np.int64) if feed is None else feed
    user, item = (pc.rank(ids, tiebreaker="dense").to_numpy().astype(np.int64) for ids in (user, item))
    order = np.lexsort((item, feed, time, user))
    user, time, feed = user[order], time[order], feed[order]
    step = np.diff(time)
    starts = np.ones(len(order), bool)
    starts[1:] = (np.diff(user) != 0) | (step > gap) | ((step > 0) & (np.diff(feed) != 0))
    start = np.flatnonzero(starts)
    page = np.cumsum(starts) - 1
    return SessionPages(order, page, np.arange(len(order)) - start[page], start)
