"""Scored candidates: what reports are made of."""

from typing import NamedTuple

import numpy as np


class Scores(NamedTuple):
    """Scored candidates, page after page.

    Attributes:
        page_ids: bytes, shape `(pages,)`.
        page: number of the candidate's page, shape `(n,)`.
        user: user row of that page, shape `(n,)`.
        timestamp: of that page, epoch milliseconds, shape `(n,)`.
        item: item rows, shape `(n,)`.
        position: where the page showed it, shape `(n,)`.
        clicked: bool, shape `(n,)`.
        converted: 1, 0, or -1 where it is not known, shape `(n,)`.
        dwell_label: seconds of the visit, shape `(n,)`; of clicked candidates alone.
        ctr: float32 click probabilities, shape `(n,)`.
        ctcvr: float32 probabilities of a click and a conversion, shape `(n,)`; `None` if the ranker has none.
        dwell: float32 expected seconds of a visit, shape `(n,)`; `None` if the ranker has none.
    """

    page_ids: np.ndarray
    page: np.ndarray
    user: np.ndarray
    timestamp: np.ndarray
    item: np.ndarray
    position: np.ndarray
    clicked: np.ndarray
    converted: np.ndarray
    dwell_label: np.ndarray
    ctr: np.ndarray
    ctcvr: np.ndarray | None = None
    dwell: np.ndarray | None = None

    def of_candidates(self, chosen: np.ndarray) -> "Scores":
        """The same pages with the chosen candidates (bool of shape `(n,)`, or rows) only."""
        return Scores(self.page_ids, *(None if column is None else column[chosen] for column in self[1:]))
