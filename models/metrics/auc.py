"""Exact AUC: over all candidates, and group by group."""

from typing import NamedTuple

import numpy as np


class GroupAUC(NamedTuple):
    """AUC inside each group (GAUC): definitions differ by what a group is and by how groups weigh.

    Attributes:
        group: the groups that occur, ascending, shape `(groups,)`.
        auc: of each, NaN where it has one class, shape `(groups,)`.
        size: candidates of each, int, shape `(groups,)`.
    """

    group: np.ndarray
    auc: np.ndarray
    size: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        """Whether a group has clicked and unclicked candidates, and so an AUC: bool, shape `(groups,)`."""
        return ~np.isnan(self.auc)

    def mean(self) -> float:
        """Mean over the groups that have an AUC, each with the same weight; NaN if none has."""
        return float(self.auc[self.valid].mean()) if self.valid.any() else float("nan")

    def mean_by_impressions(self) -> float:
        """Mean over the groups that have an AUC, weighted by their candidates; NaN if none has."""
        valid = self.valid
        return float(np.average(self.auc[valid], weights=self.size[valid])) if valid.any() else float("nan")


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
    aucs = group_auc(scores, clicked, np.zeros(len(scores), np.int64)).auc
    return float(aucs[0]) if len(aucs) else float("nan")


def page_auc(scores: np.ndarray, clicked: np.ndarray, page: np.ndarray) -> PageAUC:
    """Mean AUC within pages.

    Args:
        scores: shape `(n,)`.
        clicked: bool, shape `(n,)`.
        page: the page of each candidate, int, shape `(n,)`, in any order.
    """
    pages = group_auc(scores, clicked, page)
    return PageAUC(pages.mean(), int(pages.valid.sum()), int((~pages.valid).sum()))


def group_auc(scores: np.ndarray, clicked: np.ndarray, group: np.ndarray) -> GroupAUC:
    """AUC of each group: one sort for all groups.

    Args:
        scores: shape `(n,)`.
        clicked: bool, shape `(n,)`.
        group: the group of each candidate, int, shape `(n,)`, in any order.

    Raises:
        ValueError: the shapes differ or a score is NaN.
    """
    scores, clicked = _checked(scores, clicked)
    group = np.asarray(group)
    if group.shape != scores.shape:
        raise ValueError(f"`group` must be of the same length as `scores`. Received: {group.shape}, {scores.shape}")
    if not len(scores):
        return GroupAUC(group, np.zeros(0), np.zeros(0, np.int64))
    order = np.lexsort((scores, group))
    scores, clicked, group = scores[order], clicked[order], group[order]
    starts_group = np.r_[True, group[1:] != group[:-1]]
    starts_tie = starts_group | np.r_[True, scores[1:] != scores[:-1]]
    group_start, tie_start = np.flatnonzero(starts_group), np.flatnonzero(starts_tie)
    group_number = np.cumsum(starts_group) - 1
    tie_size = np.diff(np.r_[tie_start, len(scores)])
    # Ranks from 0 inside the group; tied candidates share their mean rank.
    rank = np.repeat(tie_start + (tie_size - 1) / 2, tie_size) - group_start[group_number]
    size = np.diff(np.r_[group_start, len(scores)])
    positives = np.add.reduceat(clicked.astype(np.float64), group_start)
    rank_sum = np.add.reduceat(rank * clicked, group_start)
    pairs = positives * (size - positives)
    wins = rank_sum - positives * (positives - 1) / 2
    return GroupAUC(group[group_start], np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan), size)


def placements(scores: np.ndarray, clicked: np.ndarray) -> np.ndarray:
    """Each candidate's part in the AUC, which is their mean over the clicked and also their mean over the unclicked.

    Args:
        scores: shape `(n,)`.
        clicked: bool, shape `(n,)`.

    Returns:
        Of a clicked candidate the share of unclicked ones that score lower, of an unclicked one the share of clicked
        ones that score higher; ties count one half. float64 `(n,)`, NaN if `clicked` has one class.

    Reference: DeLong et al., Comparing the areas under two or more correlated receiver operating characteristic curves
    (1988).

    Raises:
        ValueError: the shapes differ or a score is NaN.
    """
    scores, clicked = _checked(scores, clicked)
    result = np.full(len(scores), np.nan)
    positives = int(clicked.sum())
    negatives = len(scores) - positives
    if not positives or not negatives:
        return result
    order = np.argsort(scores)
    sorted_scores, sorted_clicked = scores[order], clicked[order]
    tie_start = np.flatnonzero(np.r_[True, sorted_scores[1:] != sorted_scores[:-1]])
    tie_size = np.diff(np.r_[tie_start, len(scores)])
    tied_clicked = np.add.reduceat(sorted_clicked.astype(np.int64), tie_start)
    tied_unclicked = tie_size - tied_clicked
    lower = np.cumsum(tied_unclicked) - tied_unclicked / 2
    higher = positives - np.cumsum(tied_clicked) + tied_clicked / 2
    result[order] = np.where(
        sorted_clicked, np.repeat(lower / negatives, tie_size), np.repeat(higher / positives, tie_size)
    )
    return result


def _checked(scores: np.ndarray, clicked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, clicked = np.asarray(scores), np.asarray(clicked, bool)
    if scores.shape != clicked.shape or scores.ndim != 1:
        raise ValueError(
            f"`scores` and `clicked` must be vectors of the same length. Received: {scores.shape}, {clicked.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError(f"`scores` must not be NaN. Received: {int(np.isnan(scores).sum())} of {len(scores)} are")
    return scores, clicked
