"""How much of their space embeddings use: what tells a collapse from learning."""

import numpy as np

_SMALLEST_NORM = 1e-12


def effective_rank(embeddings: np.ndarray) -> float:
    """The number of directions that embeddings spread over, between 1 and the smaller of their number and length.

    It is the exponential of the entropy of the singular values, normalised to a sum of 1: 1 where all embeddings lie on
    one line, `dim` where all directions are used alike. Rows are scaled to unit length first, because everything that
    is learnt or computed from embeddings here is a cosine. Their mean is not removed: embeddings that are all alike but
    for noise are collapsed, and shall have a rank of 1 instead of that of the noise.

    Args:
        embeddings: `(n, dim)`; zero rows do not count.

    Returns:
        The rank; 0 if all rows are zero, NaN if some value is not finite.

    Reference: Roy and Vetterli, The effective rank: a measure of effective dimensionality (2007).
    """
    unit = _unit(embeddings)
    if not np.isfinite(unit).all():
        return float("nan")
    # The eigenvalues of the smaller Gram matrix are the squares of the singular values.
    gram = unit.T @ unit if unit.shape[0] > unit.shape[1] else unit @ unit.T
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0.0))
    if not singular.any():
        return 0.0
    share = singular / singular.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def mean_cosine(embeddings: np.ndarray) -> float:
    """The mean cosine of two different embeddings: near 1 where all are alike.

    Args:
        embeddings: `(n, dim)`.

    Returns:
        The mean over all pairs, NaN for fewer than two rows.
    """
    unit = _unit(embeddings)
    n = len(unit)
    if n < 2:
        return float("nan")
    total = unit.sum(axis=0)
    return float((total @ total - (unit * unit).sum()) / (n * (n - 1)))


def _unit(embeddings: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(embeddings, np.float64)
    if embeddings.ndim != 2:
        raise ValueError(f"`embeddings` must have shape (n, dim). Received: shape {embeddings.shape}")
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), _SMALLEST_NORM)
