import numpy as np
import pytest

from benchmarks.hm.similarity_pages import SimilarityPages
from benchmarks.pictures.sample_tuned import taste_by_clicks


def test_shoppers_count_by_how_likely_they_made_the_clicks():
    chance = np.array([[0.9, 0.1, 0.5, 0.2], [0.1, 0.9, 0.4, 0.8]])
    pages = SimilarityPages(
        user=np.array([0, 1, 2]),
        candidates=np.array([[2, 3], [2, 3], [2, 3]]),
        clicked=np.array([[True, False]] * 3),
        clicks=np.array([[0, -1], [1, 1], [-1, -1]]),
    )
    scores = taste_by_clicks(np.log(chance), pages)
    for page, made in enumerate([[0.9, 0.1], [0.01, 0.81], [1, 1]]):
        weight = np.array(made) / sum(made)
        assert scores[page] == pytest.approx(weight @ chance[:, [2, 3]])
