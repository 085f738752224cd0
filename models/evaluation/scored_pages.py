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

TASKS = ("ctcvr", "long_visit")
"""Outputs besides `ctr` that are probabilities of an outcome."""
_OUTPUTS = ("ctr", *TASKS, "dwell")
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
        long_visit: float32 probabilities of a click and a long visit, shape `(n,)`; `None` if the ranker has none.
        long_visit_seconds: dwell time from which on the ranker calls a visit long.
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
    long_visit: np.ndarray | None = None
    long_visit_seconds: float = 0.0

    def select(self, candidates: np.ndarray) -> ScoredPages:
        """The same pages with some of the candidates: bool of shape `(n,)`, or their numbers."""
        whole = ("page_ids", "long_visit_seconds")
        columns = {name: column for name, column in self._asdict().items() if name not in whole}
        selected: dict[str, Any] = {name: None if c is None else c[candidates] for name, c in columns.items()}
        return self._replace(**selected)

    def outcome(self, task: str) -> tuple[np.ndarray, np.ndarray]:
        """What a task of `TASKS` predicts: whether it happened, and whether that is known; bool `(n,)` each."""
        if task == "long_visit":
            return self.clicked & (self.dwell_label >= self.long_visit_seconds), np.ones(len(self.clicked), bool)
        return self.clicked & (self.converted == 1), self.converted >= 0

    def calibrated(self, calibrator: Calibrator) -> ScoredPages:
        """What the ranker predicts once it has a calibrator, if it has none yet.

        Args:
            calibrator: of the click probability; those of a click and what follows it change by its factor.
        """
        ctr = expit(calibrator.apply_numpy(to_logits(self.ctr))).astype(np.float32)
        factor = ctr / np.maximum(self.ctr, _SMALLEST)
        tasks = {task: getattr(self, task) for task in TASKS}
        changed: dict[str, Any] = {task: p if p is None else p * factor for task, p in tasks.items()}
        return self._replace(ctr=ctr, **changed)


def score_pages(ranker: Ranker, pages: Iterable[dict[str, tf.Tensor]]) -> ScoredPages:
    """Scores all candidates.

    Args:
        ranker: the model; `score` gives `ctr`, and `ctcvr`, `long_visit` and `dwell` if it learned them.
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
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return ScoredPages(**columns, long_visit_seconds=ranker.config.long_visit_seconds)
