"""Bootstrap over independent units (users): metrics that are ratios of sums over units, resampled in one product."""

import numpy as np

SAMPLES = 1000
LEVEL = 0.95
_BLOCK = 2**14  # units whose counts are converted to float at once


def bootstrap_counts(units: int, seed: int = 0, samples: int = SAMPLES) -> np.ndarray:
    """How often each unit is drawn when as many as there are are drawn with replacement.

    Args:
        units: how many there are.
        seed: of the draws: whatever is measured with the same counts is paired.
        samples: how often it is done.

    Returns:
        uint8 `(units, samples)`; each column sums to `units`.
    """
    rng = np.random.default_rng(seed)
    counts = np.empty((samples, units), np.uint8)
    for row in counts:
        row[:] = np.bincount(rng.integers(0, units, units), minlength=units)
    return np.ascontiguousarray(counts.T)


def resampled_sums(values: np.ndarray, counts: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Sums over units, as they are and resampled.

    Args:
        values: float64 `(k, n)`, what `n` of the units add to `k` sums; the other units add nothing.
        counts: of `bootstrap_counts`, `(all units, samples)`.
        units: which these are, int `(n,)`.

    Returns:
        float64 `(k, 1 + samples)`: column 0 is the sum over the units, the others are bootstrap samples (in float32
        precision).
    """
    resampled = np.zeros((len(values), counts.shape[1]))
    for first in range(0, len(units), _BLOCK):
        block = slice(first, first + _BLOCK)
        resampled += values[:, block].astype(np.float32) @ counts[units[block]].astype(np.float32)
    return np.concatenate([values.sum(axis=1, keepdims=True), resampled], axis=1)


def interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of level `LEVEL`.

    Args:
        samples: `(..., samples)` bootstrap samples; those where a metric is undefined (NaN) are left out.

    Returns:
        Lower and upper ends, `(...,)` each; NaN where no sample is defined.
    """
    ends = np.full((2, *samples.shape[:-1]), np.nan)
    defined = np.isfinite(samples).any(axis=-1)
    if defined.any():
        ends[:, defined] = np.nanquantile(samples[defined], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
    return ends[0], ends[1]
