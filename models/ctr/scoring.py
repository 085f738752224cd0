"""Scores pages and measures the scores: the same code for validation and for reports."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models.ctr.ranker import Ranker
from models.data.pages import PADDING
from models.metrics.auc import auc, page_auc
from models.metrics.log_loss import log_loss


class Scores(NamedTuple):
    """Scored candidates, page after page.

    Attributes:
        page_ids: bytes, shape `(pages,)`.
        page: number of the candidate's page, shape `(n,)`.
        item: item rows, shape `(n,)`.
        clicked: bool, shape `(n,)`.
        ctr: float32 click probabilities, shape `(n,)`.
    """

    page_ids: np.ndarray
    page: np.ndarray
    item: np.ndarray
    clicked: np.ndarray
    ctr: np.ndarray

    def of_candidates(self, chosen: np.ndarray) -> "Scores":
        """The same pages with the chosen candidates (bool, shape `(n,)`) only."""
        return Scores(self.page_ids, self.page[chosen], self.item[chosen], self.clicked[chosen], self.ctr[chosen])


def score_pages(ranker: Ranker, pages: Iterable[dict[str, tf.Tensor]]) -> Scores:
    """Scores all candidates.

    Args:
        ranker: the model.
        pages: batches of parsed pages.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    count = 0
    for page in pages:
        ctr = ranker.score({name: values for name, values in page.items() if name != "clicked"})["ctr"].numpy()
        row, column = np.nonzero(page["item"].numpy() != PADDING)
        candidates = (page[name].numpy()[row, column] for name in ("item", "clicked"))
        item, clicked = candidates
        parts.append((page["page_id"].numpy(), count + row, item, clicked == 1, ctr[row, column]))
        count += len(ctr)
    return Scores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def measure(scores: Scores, negative_rate: float = 1.0) -> dict[str, Any]:
    """Metrics of scored candidates: `auc`, `gauc_page_mean`, `log_loss`, and what they were counted on.

    Args:
        scores: the candidates.
        negative_rate: share of the unclicked candidates that is left on their pages, see `log_loss`.
    """
    pages = page_auc(scores.ctr, scores.clicked, scores.page)
    return {
        "auc": auc(scores.ctr, scores.clicked),
        **pages._asdict(),
        "log_loss": log_loss(scores.ctr, scores.clicked, negative_rate),
        "candidates": len(scores.ctr),
        "clicks": int(scores.clicked.sum()),
    }
