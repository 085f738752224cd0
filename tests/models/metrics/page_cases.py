"""Scored pages for property tests, and the AUC that counts pairs."""

import numpy as np
from hypothesis import strategies as st


def auc_by_pairs(scores, clicked):
    positive, negative = scores[clicked][:, None], scores[~clicked][None]
    if not positive.size or not negative.size:
        return np.nan
    return np.mean((positive > negative) + 0.5 * (positive == negative))


@st.composite
def scored_pages(draw):
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    levels = draw(st.sampled_from([1, 3, 1000]))  # few levels: many ties
    return rng.integers(0, levels, n) / levels, rng.random(n) < draw(st.sampled_from([0.1, 0.5])), rng.integers(0, 6, n)
