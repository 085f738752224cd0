"""Pages on which similarity to a user's click history is measured, and intervals of what is measured there.

All rankings of a study order the same pages: whole pages of a split with an earlier click, a clicked and an unclicked
candidate. `beam_pipelines.build` takes care that a history ends before its page.
"""

from typing import NamedTuple

import numpy as np

from models.data.dataset import Dataset
from models.data.pages import PADDING, PageLengths, page_batches
from models.metrics.auc import auc
from models.pretraining.monitor.similarity_gauc import similarity_scores

CLICKS = 50
"""Latest clicks that a candidate is compared with."""

_DRAWS = 2000


class SimilarityPages(NamedTuple):
    """Pages of one split.

    Attributes:
        user: `(pages,)`, whose page it is.
        candidates: item rows `(pages, candidates)`, -1 = padding.
        clicked: bool `(pages, candidates)`.
        clicks: item rows `(pages, CLICKS)` of the user's latest clicks, newest first, -1 = padding.
    """

    user: np.ndarray
    candidates: np.ndarray
    clicked: np.ndarray
    clicks: np.ndarray


class Estimate(NamedTuple):
    """A mean over pages and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def read_pages(dataset: Dataset, split: str, has_image: np.ndarray) -> SimilarityPages:
    """Reads the pages of a split.

    Args:
        dataset: the page dataset.
        split: `pretrain`, `train` or `test`.
        has_image: bool `(items,)`; the other items are left out of candidates and histories.
    """
    lengths = PageLengths(candidates=dataset.manifest.max_candidates, click=CLICKS, pay=0, cart=0)
    batches = list(page_batches(dataset, split, lengths, batch_size=1024).as_numpy_iterator())
    user, item, clicked, click = (
        np.concatenate([batch[name] for batch in batches]) for name in ("user", "item", "clicked", "click_item")
    )
    candidates, clicks = (np.where(has_image[rows], rows, PADDING) for rows in (item, click))
    valid = candidates != PADDING
    clicked = (clicked == 1) & valid
    keep = (clicks != PADDING).any(axis=1) & clicked.any(axis=1) & (valid & ~clicked).any(axis=1)
    return SimilarityPages(user[keep], candidates[keep], clicked[keep], clicks[keep])


def page_aucs(scores: np.ndarray, pages: SimilarityPages) -> np.ndarray:
    """AUC of each page, `(pages,)`, from scores `(pages, candidates)`; the mean is the GAUC."""
    valid = pages.candidates != PADDING
    return np.array([auc(s[v], c[v]) for s, c, v in zip(scores, pages.clicked, valid, strict=True)])


def similarity_aucs(embeddings: np.ndarray, pages: SimilarityPages) -> np.ndarray:
    """`page_aucs` of SimScore.

    Args:
        embeddings: `(items, dim)` by item row.
        pages: what to order.
    """
    return page_aucs(similarity_scores(embeddings, pages.candidates, pages.clicks), pages)


def user_bootstrap(values: np.ndarray, user: np.ndarray) -> Estimate:
    """Mean over pages with the interval of a bootstrap over users, for the pages of a user depend on each other.

    Every call draws the same users. The interval of the differences of two rankings' values is therefore a paired one.

    Args:
        values: `(pages,)`.
        user: `(pages,)`, whose page it is.
    """
    users, index = np.unique(user, return_inverse=True)
    totals, counts = np.bincount(index, weights=values), np.bincount(index)
    drawn = np.random.default_rng(0).multinomial(len(users), np.full(len(users), 1 / len(users)), size=_DRAWS)
    low, high = np.quantile(drawn @ totals / (drawn @ counts), (0.025, 0.975))
    return Estimate(float(np.mean(values)), float(low), float(high))
