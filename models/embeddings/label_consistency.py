"""KNN label consistency: how often the nearest neighbours of an item carry its label."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

UNLABELLED = -1


class LabelConsistency(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: NaN without seeds.
        standard_error: of the mean; NaN with fewer than two groups of seeds.
        seeds: that count.
        left_out: seeds without a label or without a neighbour that has one.
    """

    mean: float
    standard_error: float
    seeds: int
    left_out: int


def label_codes(values: Sequence[str]) -> np.ndarray:
    """Numbers texts: int64 `(n,)`, equal for equal texts, -1 for empty ones."""
    _, codes = np.unique(np.array(values, object), return_inverse=True)
    return np.where(np.array([bool(value) for value in values], bool), codes, UNLABELLED)


def title_groups(titles: np.ndarray) -> np.ndarray:
    """Numbers products: items of one title are one, an item without a title is one of its own.

    Args:
        titles: int `(items,)`, of `label_codes`.

    Returns:
        int64 `(items,)`.
    """
    return np.where(titles == UNLABELLED, titles.max(initial=0) + 1 + np.arange(len(titles)), titles)


def label_shares(seed_labels: np.ndarray, neighbour_labels: np.ndarray) -> np.ndarray:
    """Share of each seed's neighbours that carry the seed's label.

    Neighbours without a label do not count. Seeds are independent of each other here, so that blocks of them can be
    measured one after another.

    Args:
        seed_labels: int `(n,)`, -1 = no label.
        neighbour_labels: int `(n, k)`, likewise.

    Returns:
        float64 `(n,)`, NaN where the seed has no label or no neighbour has one.
    """
    if neighbour_labels.ndim != 2 or seed_labels.shape != neighbour_labels.shape[:1]:
        raise ValueError(
            "`seed_labels` must have shape (n,) and `neighbour_labels` (n, k). "
            f"Received: {seed_labels.shape} and {neighbour_labels.shape}"
        )
    labelled = (neighbour_labels != UNLABELLED).sum(axis=1)
    same = (neighbour_labels == seed_labels[:, None]).sum(axis=1)
    counts = (seed_labels != UNLABELLED) & (labelled > 0)
    return np.where(counts, same / np.maximum(labelled, 1), np.nan)


def label_consistency(shares: np.ndarray, groups: np.ndarray | None = None) -> LabelConsistency:
    """Averages the shares of all seeds, each with the same weight.

    The mean of differences of two embeddings' shares and its standard error come from here, too: they are paired.

    Args:
        shares: `(seeds,)`, of `label_shares`; NaN is left out and counted.
        groups: int `(seeds,)`: seeds of one group depend on each other, such as the colours of one product. Without
            it every seed is a group of its own.

    Reference: "KNN consistency of scene and style" of the companion article on SwAV, MoCo v2 and M6, which gives no
    errors; those of groups are Liang and Zeger's (1986).
    """
    counts = np.isfinite(shares)
    values = shares[counts]
    n = len(values)
    if not n:
        return LabelConsistency(float("nan"), float("nan"), 0, len(shares))
    mean = float(values.mean())
    _, group = np.unique(np.arange(n) if groups is None else groups[counts], return_inverse=True)
    residuals = np.bincount(group, weights=values - mean)
    g = len(residuals)
    error = float(np.sqrt(np.square(residuals).sum() * g / (g - 1)) / n) if g > 1 else float("nan")
    return LabelConsistency(mean, error, n, len(shares) - n)


def chance_consistency(labels: np.ndarray) -> float:
    """The consistency of neighbours that are drawn at random among the other items with a label.

    Args:
        labels: int `(items,)`, -1 = no label.

    Returns:
        The probability that two different items share their label, NaN with fewer than two items.
    """
    counts = np.bincount(labels[labels != UNLABELLED]).astype(np.float64)
    n = counts.sum()
    return float((counts * (counts - 1)).sum() / (n * (n - 1))) if n > 1 else float("nan")
