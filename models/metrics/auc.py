"""Exact AUC: over all candidates, and page by page."""

from typing import NamedTuple

import numpy as np


class PageAUC(NamedTuple):
    """AUC of pages.

    Attributes:
        gauc_page_mean: mean AUC over the pages that have one, each page with the same weight; NaN if none has.
        pages: pages with clicked and unclicked candidates, which have an AUC.
        pages_of_one_class: pages without, left out.
    """

    gauc_page_mean: float
    pages: int
    pages_of_one_class: int


def auc(scores: np.ndarray, clicked: np.ndarray) -> float:
    """Probability that a clicked candidate scores higher than an unclicked one; ties count one half.

    Args:
        scores: shape `(n,)`.
        clicked: bool, shape `(n,)`.

    Returns:
        The AUC (the Mann-Whitney statistic, without thresholds), NaN if `clicked` has one class.
    """
    return _group_aucs(scores, clicked, np.zeros(len(scores), np.int64))[0][0] if len(scores) else float("nan")


def page_auc(scores: np.ndarray, clicked: np.ndarray, page: np.ndarray) -> PageAUC:
    """Mean AUC within pages (GAUC).

    Definitions of GAUC differ by the weights of the groups. Here the groups are pages and weigh the same.

    Args:
        scores: shape `(n,)`.
        clicked: bool, shape `(n,)`.
        page: the page of each candidate, int, shape `(n,)`, in any order.
    """
    if not len(scores):
        return PageAUC(float("nan"), 0, 0)
    aucs, _ = _group_aucs(scores, clicked, page)
    valid = np.isfinite(aucs)
    mean = float(aucs[valid].mean()) if valid.any() else float("nan")
    return PageAUC(mean, int(valid.sum()), int((~valid).sum()))


def _group_aucs(scores: np.ndarray, clicked: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUC of each group (NaN for one class), and the groups in order: one sort for all groups."""
    scores, clicked, group = np.asarray(scores), np.asarray(clicked, bool), np.asarray(group)
    if not scores.shape == clicked.shape == group.shape or scores.ndim != 1:
        raise ValueError(
            "`scores`, `clicked` and the pages must be vectors of the same length. "
            f"Received: shapes {scores.shape}, {clicked.shape}, {group.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError("`scores` must not be NaN")
    order = np.lexsort((scores, group))
    scores, clicked, group = scores[order], clicked[order], group[order]
    starts_group = np.r_[True, group[1:] != group[:-1]]
    starts_tie = starts_group | np.r_[True, scores[1:] != scores[:-1]]
    group_start, tie_start = np.flatnonzero(starts_group), np.flatnonzero(starts_tie)
    group_number = np.cumsum(starts_group) - 1
    tie_size = np.diff(np.r_[tie_start, len(scores)])
    # Ranks from 0 inside the group; tied candidates share their mean rank.
    rank = np.repeat(tie_start + (tie_size - 1) / 2, tie_size) - group_start[group_number]
    size = np.diff(np.r_[group_start, len(scores)]).astype(np.float64)
    positives = np.add.reduceat(clicked.astype(np.float64), group_start)
    rank_sum = np.add.reduceat(rank * clicked, group_start)
    pairs = positives * (size - positives)
    wins = rank_sum - positives * (positives - 1) / 2
    with np.errstate(invalid="ignore"):
        return np.where(pairs > 0, wins / np.where(pairs > 0, pairs, 1.0), np.nan), group[group_start]
