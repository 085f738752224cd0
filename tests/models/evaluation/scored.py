"""Scores of made-up rankers."""

import numpy as np
from scipy.special import expit

from models.evaluation.scored_pages import ScoredPages

DAY = 86_400_000


def scored(pages=60, users=25, candidates=6, noises=(1.0, 0.3), seed=0, levels=None):
    """Scores of rankers on the same candidates; less noise is better."""
    rng = np.random.default_rng(seed)
    page = np.repeat(np.arange(pages), rng.integers(1, candidates + 1, pages))
    user, n = rng.integers(0, users, pages)[page] * 3 + 7, len(page)
    truth = rng.normal(-0.8, 1, n)
    clicked = rng.random(n) < expit(truth)
    result = {}
    for number, noise in enumerate(noises):
        ctr = expit(truth + rng.normal(0, noise, n)).astype(np.float32)
        ctr = ctr if levels is None else np.float32(np.round(ctr * levels) / levels)
        result[f"ranker{number}"] = ScoredPages(
            page_ids=np.array([b"p%d" % p for p in range(pages)]),
            page=page,
            user=user,
            timestamp=np.full(n, 400 * DAY),
            item=rng.integers(0, 40, n),
            position=np.arange(n) % 5,
            clicked=clicked,
            converted=(clicked & (truth > 0)).astype(np.int64),
            dwell_label=np.where(clicked, 20 * expit(truth), 0).astype(np.float32),
            ctr=ctr,
        )
    return result
