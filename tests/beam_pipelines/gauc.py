"""GAUC in plain NumPy, to measure what simple signals can rank on generated logs."""

import numpy as np


def gauc(page: np.ndarray, clicked: np.ndarray, score: np.ndarray) -> float:
    """Mean AUC of the pages that have both outcomes, weighted by their candidates."""
    page = np.unique(page, return_inverse=True)[1]
    order = np.argsort(page, kind="stable")
    bounds = np.flatnonzero(np.diff(page[order])) + 1
    total = weight = 0.0
    for rows in np.split(order, bounds):
        positive, negative = score[rows][clicked[rows] == 1], score[rows][clicked[rows] == 0]
        if len(positive) and len(negative):
            difference = positive[:, None] - negative
            total += len(rows) * ((difference > 0).mean() + 0.5 * (difference == 0).mean())
            weight += len(rows)
    return total / weight
