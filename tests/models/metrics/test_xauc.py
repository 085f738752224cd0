import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.metrics.auc import auc
from models.metrics.xauc import xauc


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 25), st.sampled_from([2, 5, 1000]))
def test_xauc_counts_pairs(seed, n, levels):
    rng = np.random.default_rng(seed)
    predictions, labels = rng.integers(0, levels, n), rng.integers(0, levels, n).astype(float)
    higher = labels[:, None] > labels[None]
    ordered = (predictions[:, None] > predictions[None]) + 0.5 * (predictions[:, None] == predictions[None])
    expected = ordered[higher].mean() if higher.any() else np.nan
    np.testing.assert_allclose(xauc(predictions, labels), expected, rtol=1e-9, atol=1e-12)
    if levels == 2:
        np.testing.assert_allclose(xauc(predictions, labels), auc(predictions, labels > 0), rtol=1e-9, atol=1e-12)
