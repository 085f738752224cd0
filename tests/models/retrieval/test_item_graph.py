import numpy as np
import pytest

from models.retrieval import item_graph as module
from models.retrieval.item_graph import item_graph, nearest_items
from tests.models.retrieval.drawn_interactions import draw_features
from tests.models.retrieval.numpy_recommenders import nearest_graph, normalized


@pytest.mark.parametrize("together", [1 << 24, 50])
def test_the_nearest_are_those_of_all_pairs(together, monkeypatch):
    monkeypatch.setattr(module, "_VALUES_TOGETHER", together)
    vectors = draw_features()
    near = nearest_items(vectors, 6)
    assert (near.items[:, 0] == np.arange(24)).all()
    np.testing.assert_allclose(near.cosines[:, 0], 1, rtol=1e-5)
    np.testing.assert_allclose(item_graph(vectors, 6).toarray(), normalized(nearest_graph(vectors, 6)), atol=1e-5)


def test_items_without_a_vector_are_alone_and_a_scale_makes_no_difference():
    vectors = draw_features()
    vectors[[3, 9]] = 0
    graph = item_graph(vectors, 24).toarray()
    assert not graph[[3, 9]].any()
    assert not graph[:, [3, 9]].any()
    assert (graph >= 0).all()
    scaled = vectors * np.random.default_rng(0).uniform(0.1, 9, (24, 1)).astype(np.float32)
    np.testing.assert_allclose(item_graph(scaled, 24).toarray(), graph, atol=1e-5)
    assert nearest_items(vectors, 99).items.shape == (24, 24)
