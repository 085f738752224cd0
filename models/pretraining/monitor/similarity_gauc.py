"""How well similarity to a user's clicks orders a page: a training-free measure of image embeddings."""

import numpy as np

from models.data.pages import PADDING
from models.metrics.auc import PageAUC, page_auc

_GATHERED = 2**24  # embedding values gathered at once


def similarity_scores(
    embeddings: np.ndarray, candidates: np.ndarray, clicks: np.ndarray, *, most_similar: int = 5
) -> np.ndarray:
    """Scores each candidate with the mean of its largest cosines to the user's clicks (SimScore).

    Args:
        embeddings: `(n, dim)`; a zero row has cosine 0 to all others.
        candidates: int `(pages, candidates)`, rows of `embeddings`, -1 = padding.
        clicks: int `(pages, clicks)`, rows of `embeddings`, -1 = padding, at least one click per page.
        most_similar: how many cosines are averaged (all, where a user has fewer clicks).

    Returns:
        `(pages, candidates)`, meaningless where padded.
    """
    lengths = np.maximum(np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings)), 1e-12)
    averaged = np.minimum((clicks != PADDING).sum(axis=1), most_similar)
    scores = np.zeros(candidates.shape, embeddings.dtype)
    together = max(1, _GATHERED // (embeddings.shape[1] * (candidates.shape[1] + clicks.shape[1])))
    for first in range(0, len(candidates), together):
        some = slice(first, first + together)
        c, k = candidates[some], clicks[some]
        cosines = embeddings[c] @ embeddings[k].swapaxes(1, 2)
        cosines /= lengths[c][:, :, None] * lengths[k][:, None, :]
        cosines = np.where(k[:, None, :] != PADDING, cosines, -np.inf)
        largest = np.sort(cosines, axis=2)[:, :, -most_similar:]
        scores[some] = np.where(largest > -np.inf, largest, 0).sum(axis=2) / averaged[some, None]
    return scores.round(6)  # equal similarities are ties, whatever the order in which they were summed up


def similarity_gauc(embeddings: np.ndarray, pages: dict[str, np.ndarray], *, most_similar: int = 5) -> PageAUC:
    """Orders each page by `similarity_scores` and averages the pages' AUC.

    Args:
        embeddings: `(pictures, dim)` by picture number.
        pages: `candidate_picture`, `(pages, candidates)`, and `click_picture`, `(pages, clicks)`, picture numbers,
            -1 = padding, at least one click per page; `clicked`, bool `(pages, candidates)`.
        most_similar: see `similarity_scores`.
    """
    scores = similarity_scores(
        embeddings, pages["candidate_picture"], pages["click_picture"], most_similar=most_similar
    )
    valid = pages["candidate_picture"] != PADDING
    return page_auc(scores[valid], pages["clicked"][valid], np.nonzero(valid)[0])
