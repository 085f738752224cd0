"""Page IDs that are used again, by another user or by the same one after a pause: they would merge pages into one.

A counter that begins again every day does this, and a name such as "home", a query or a URL in place of a page's ID.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.pages.histories import sort_rows, starts_group

SEVERAL_USERS = "page of several users"
AFTER_A_PAUSE = "page ID used again after a pause"


class Example(NamedTuple):
    """What a user did under a page ID that is used again.

    Attributes:
        page_id, user_id: the IDs.
        first, last: time of the first and of the last row, in epoch milliseconds.
    """

    page_id: str
    user_id: str
    first: int
    last: int

    @classmethod
    def longest(cls, examples: Sequence["Example"]) -> "Example":
        """The one that lasts longest; of equal ones the first of the IDs."""
        return min(examples, key=lambda example: (example.first - example.last, example))


@dataclasses.dataclass(frozen=True)
class ReusedPages:
    """The impressions whose page ID is used again, by page ID, then user, then time.

    A use of a page ID is the rows of one user, without a long pause between one row and the next.

    Attributes:
        row: `(rows,)`: which row of all impressions it is.
        page, user, time: `(rows,)`.
        shared: bool `(rows,)`: whether several users use the page ID.
        owned: `(rows,)`: number of the page ID and user.
        use: `(rows,)`: number of the use.
        named: how many pairs of a page ID and a user there are among all impressions.
    """

    row: np.ndarray
    page: np.ndarray
    user: np.ndarray
    time: np.ndarray
    shared: np.ndarray
    owned: np.ndarray
    use: np.ndarray
    named: int

    @classmethod
    def find(
        cls,
        page: np.ndarray,
        user: np.ndarray,
        time: np.ndarray,
        page_ids: Sequence[str],
        shared_pages: Collection[str],
        gap: int,
    ) -> "ReusedPages":
        """Finds them.

        Args:
            page, user, time: `(impressions,)`, `page` as index into `page_ids`.
            page_ids: the distinct ones.
            shared_pages: page IDs that have rows of several users, among these impressions or others.
            gap: the longest pause within a page, in milliseconds.
        """
        shared = np.zeros(len(page_ids), bool)
        if shared_pages:
            several = frozenset(shared_pages)
            shared[:] = [page_id in several for page_id in page_ids]
        first, last = np.full(len(page_ids), np.iinfo(np.int64).max), np.zeros(len(page_ids), np.int64)
        np.minimum.at(first, page, time)
        np.maximum.at(last, page, time)
        row = np.flatnonzero((shared | (last - first > gap))[page])  # hardly any: only these are sorted
        row = row[sort_rows(page[row], user[row], time[row])]
        new = starts_group(page[row], user[row])
        owned = np.cumsum(new) - 1
        begins = new.copy()
        begins[1:] |= np.diff(time[row]) > gap
        again = shared[page[row]] | (np.bincount(owned, begins) > 1)[owned]
        named = len(page_ids) + int(new.sum()) - len(np.unique(page[row]))
        use = np.cumsum(begins) - 1
        row, owned, use = row[again], owned[again], use[again]
        return cls(row, page[row], user[row], time[row], shared[page[row]], owned, use, named)

    def counters(self) -> dict[str, int]:
        """How many pairs of a page ID and a user there are, and how many whose page ID is used again."""
        return {
            "pages.named": self.named,
            "pages.of_several_users": len(np.unique(self.owned[self.shared])),
            "pages.after_a_pause": len(np.unique(self.owned[~self.shared])),
        }

    def rows_by_reason(self, impressions: int) -> dict[str, pa.Array]:
        """Why impressions cannot be used as they are: reason to where it holds, bool `(impressions,)`."""
        found = {}
        for reason, here in self._by_reason().items():
            mask = np.zeros(impressions, bool)
            mask[self.row[here]] = True
            found[reason] = pa.array(mask)
        return found

    def examples(self, page_ids: Sequence[str], user_ids: pa.Array) -> dict[str, Example]:
        """Reason to one page ID that it holds for: the one that lasts longest, of equal ones the first of the IDs.

        Args:
            page_ids: as in `find`.
            user_ids: IDs by user.
        """
        found = {}
        for reason, here in self._by_reason().items():
            start = np.flatnonzero(here & starts_group(self.owned))
            stop = np.searchsorted(self.owned, self.owned[start], side="right") - 1
            longest = np.argmax(self.time[stop] - self.time[start])
            page_id, user_id = page_ids[self.page[start[longest]]], user_ids[int(self.user[start[longest]])].as_py()
            found[reason] = Example(page_id, user_id, int(self.time[start[longest]]), int(self.time[stop[longest]]))
        return found

    def split(self, page_ids: pa.Array, user_ids: pa.Array) -> pa.Array:
        """Makes each use a page of its own, PAGE@USER@MOMENT with the time of its first row; other pages stay.

        The new ID depends on the use alone: it stays the same when logs of more days are read.

        Args:
            page_ids: of all impressions, `(impressions,)`.
            user_ids: IDs by user.
        """
        start = np.flatnonzero(starts_group(self.use))
        page = page_ids.take(pa.array(self.row[start]))
        user, time = user_ids.take(pa.array(self.user[start])), pa.array(self.time[start]).cast(pa.string())
        use = np.full(len(page_ids), -1)
        use[self.row] = np.cumsum(starts_group(self.use)) - 1
        name = pc.binary_join_element_wise(page, user, time, "@").take(pa.array(use, mask=use < 0))
        return pc.coalesce(name, page_ids)

    def _by_reason(self) -> dict[str, np.ndarray]:
        """Reason to where it holds, bool `(rows,)`; reasons that hold nowhere are left out."""
        reasons = {SEVERAL_USERS: self.shared, AFTER_A_PAUSE: ~self.shared}
        return {reason: here for reason, here in reasons.items() if here.any()}
