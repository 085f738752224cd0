"""How well similarity to a user's clicks orders a page: a training-free measure of image embeddings."""

import numpy as np

from models.data.pages import PADDING
from models.metrics.auc import PageAUC, page_auc


def similarity_gauc(embeddings: np.ndarray, pages: dict[str, np.ndarray], *, most_similar: int = 5) -> PageAUC:
    """Scores each candidate with the mean of its largest cosines to the user's clicks, and averages the pages' AUC.

    Args:
        embeddings: `(pictures, dim)` by picture number.
        pages: `candidate_picture`, `(pages, candidates)`, and `click_picture`, `(pages, clicks)`, picture numbers,
            -1 = padding, at least one click per page; `clicked`, bool `(pages, candidates)`.
        most_similar: how many cosines are averaged (all, where a user has fewer clicks).
    """
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    scores = np.zeros(pages["candidate_picture"].shape)
    for page, (candidates, clicks) in enumerate(zip(pages["candidate_picture"], pages["click_picture"], strict=True)):
        cosines = unit[candidates] @ unit[clicks[clicks != PADDING]].T
        scores[page] = np.sort(cosines, axis=1)[:, -most_similar:].mean(axis=1)
    scores = scores.round(10)  # equal similarities are ties, whatever the order in which they were summed up
    valid = pages["candidate_picture"] != PADDING
    return page_auc(scores[valid], pages["clicked"][valid], np.nonzero(valid)[0])
