"""Pages with what a ranker predicts for their candidates: what all figures are computed from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf
from scipy.special import expit

from models.data.pages import LABELS, PADDING
from models.ranker.calibrator import Calibrator, to_logits

if TYPE_CHECKING:
    from models.ranker.ranker import Ranker

_OUTPUTS = ("ctr", "ctcvr", "dwell")
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
        columns = {name: column for name, column in self._asdict().items() if name != "page_ids"}
        selected: dict[str, Any] = {name: None if c is None else c[candidates] for name, c in columns.items()}
        return self._replace(**selected)

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
    parts: list[dict[str, np.ndarray]] = []
    count = 0
    for page in pages:
        outputs = ranker.score({name: values for name, values in page.items() if name not in LABELS})
        row, column = np.nonzero(page["item"].numpy() != PADDING)
        parts.append(
            {
                "page_ids": page["page_id"].numpy(),
                "page": count + row,
                **{name: page[name].numpy()[row] for name in ("user", "timestamp")},
                **{name: page[name].numpy()[row, column] for name in ("item", "position", "converted")},
                "clicked": page["clicked"].numpy()[row, column] == 1,
                "dwell_label": page["dwell"].numpy()[row, column],
                **{name: outputs[name].numpy()[row, column] for name in _OUTPUTS if name in outputs},
            }
        )
        count += len(page["user"])
    return ScoredPages(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
