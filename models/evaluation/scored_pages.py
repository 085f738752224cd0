"""Pages with what a ranker predicts for their candidates: what all figures are computed from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import tensorflow as tf
from scipy.special import expit

from models.data.pages import PADDING
from models.ranker.calibrator import Calibrator, to_logits

if TYPE_CHECKING:
    from models.ranker.ranker import Ranker

_SMALLEST = np.float32(1e-30)


class ScoredPages(NamedTuple):
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

    def select(self, candidates: np.ndarray) -> ScoredPages:
        """The same pages with some of the candidates: bool of shape `(n,)`, or their numbers."""
        return ScoredPages(self.page_ids, *(None if column is None else column[candidates] for column in self[1:]))

    def calibrated(self, calibrator: Calibrator) -> ScoredPages:
        """What the ranker predicts once it has a calibrator, if it has none yet.

        Args:
            calibrator: of the click probability; that of click and conversion follows it.
        """
        ctr = expit(calibrator.apply_numpy(to_logits(self.ctr))).astype(np.float32)
        if self.ctcvr is None:
            return self._replace(ctr=ctr)
        return self._replace(ctr=ctr, ctcvr=self.ctcvr / np.maximum(self.ctr, _SMALLEST) * ctr)


def score_pages(ranker: Ranker, pages: Iterable[dict[str, tf.Tensor]]) -> ScoredPages:
    """Scores all candidates.

    Args:
        ranker: the model; `score` gives `ctr`, and `ctcvr` and `dwell` if it learned them.
        pages: batches of parsed pages, labels included.
    """
    parts: list[tuple[np.ndarray | None, ...]] = []
    count = 0
    for page in pages:
        outputs = ranker.score({name: values for name, values in page.items() if name != "clicked"})
        row, column = np.nonzero(page["item"].numpy() != PADDING)
        user, timestamp = (page[name].numpy()[row] for name in ("user", "timestamp"))
        item, position, clicked, converted, dwell_label = (
            page[name].numpy()[row, column] for name in ("item", "position", "clicked", "converted", "dwell")
        )
        predictions = (
            outputs[name].numpy()[row, column] if name in outputs else None for name in ("ctr", "ctcvr", "dwell")
        )
        labels = (clicked == 1, converted, dwell_label)
        parts.append((page["page_id"].numpy(), count + row, user, timestamp, item, position, *labels, *predictions))
        count += len(page["user"])
    return ScoredPages(*(None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True)))
