"""How well predictions of a quantity order it."""

import numpy as np
from scipy import stats


def xauc(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Probability that of two candidates with different labels the larger one is predicted larger; ties count one half.

    For labels of two values it is the AUC.

    Args:
        predictions: shape `(n,)`.
        labels: shape `(n,)`.

    Returns:
        The share of pairs, NaN if all labels are equal.

    Reference: Zhan et al., Deconfounding duration bias in watch-time prediction for video recommendation (2022).
    """
    n = len(labels)
    pairs = n * (n - 1) / 2
    different = [pairs - _tied_pairs(values) for values in (predictions, labels)]
    if not different[1]:
        return float("nan")
    if not different[0]:
        return 0.5
    # Kendall's tau-b is the concordant less the discordant pairs over the geometric mean of these two.
    surplus = stats.kendalltau(predictions, labels).statistic * np.sqrt(different[0] * different[1])
    return float((1 + surplus / different[1]) / 2)


def _tied_pairs(values: np.ndarray) -> float:
    counts = np.unique(values, return_counts=True)[1].astype(np.float64)
    return float((counts * (counts - 1) / 2).sum())
