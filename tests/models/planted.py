"""Points in planted clusters."""

import numpy as np


def planted(n, clusters, dim, seed=0, spread=0.05, of=None):
    """Points around random centers: those of `of`, another seed, if given."""
    rng = np.random.default_rng(seed if of is None else of)
    centers = rng.normal(size=(clusters, dim)).astype(np.float32)
    rng = np.random.default_rng((seed, 1))
    return (centers[rng.integers(clusters, size=n)] + spread * rng.normal(size=(n, dim))).astype(np.float32)
