from collections import Counter

import numpy as np
import pytest

from models.retrieval.dualgnn import DualGnn, co_interaction_graph
from models.retrieval.interactions import Pairs
from tests.models.retrieval.drawn_interactions import draw_interactions
from tests.models.retrieval.numpy_recommenders import BATCH, adjacency, bpr, dense, half_squares, make, unit, weights


def listened_to(neighbours):
    """Counted user by user."""
    train = draw_interactions(30, 24).train
    has = [set(train.items[train.users == user].tolist()) for user in range(30)]
    graph = np.zeros((30, 30))
    for user, items in enumerate(has):
        common = {other: len(items & has[other]) for other in range(30) if other != user and items & has[other]}
        near = sorted(common, key=lambda other: (-common[other], other))[:neighbours]
        total = sum(np.exp(common[other]) for other in near)
        for other in near:
            graph[user, other] = np.exp(common[other]) / total
    return graph


@pytest.mark.parametrize("neighbours", [1, 4, 40])
def test_users_listen_to_those_with_most_items_in_common(neighbours):
    graph = co_interaction_graph(draw_interactions(30, 24).train, 30, 24, neighbours)
    np.testing.assert_allclose(graph.toarray(), listened_to(neighbours), atol=1e-6)
    assert max(Counter(graph.tocoo().row.tolist()).values()) <= neighbours


def test_who_has_nothing_in_common_listens_to_nobody():
    graph = co_interaction_graph(Pairs(np.int32([0, 1, 2]), np.int32([0, 1, 1])), 3, 2, 5)
    np.testing.assert_array_equal(graph.toarray(), [[0, 0, 0], [0, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize(("kinds", "layers", "regularization"), [(1, 0, 0.0), (2, 2, 0.3)])
def test_vectors_and_loss_are_those_of_numpy(kinds, layers, regularization):
    model = make(DualGnn, kinds, layers=layers, regularization=regularization, user_neighbours=4)
    model.kind_weights.assign(np.random.default_rng(0).normal(size=(30, kinds)))
    values = weights(model)
    users, items = 0, 0
    for kind, features in enumerate(model.features):
        projected = dense(values, f"projection_{kind}", features.numpy())
        passed = [unit(np.concatenate([values[f"preferences_{kind}"], projected]))]
        for _ in range(layers):
            passed.append(adjacency() @ passed[-1])
        nodes = np.sum(passed, axis=0)
        users = users + values["kind_weights"][:, kind, None] * nodes[:30]
        items = items + nodes[30:]
    users = users + listened_to(4) @ users
    for made, expected in zip(model.vectors(), (users, items), strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5)
    penalty = half_squares(*(values[f"preferences_{kind}"][BATCH["user"]] for kind in range(kinds)))
    expected = bpr(users, items) / np.log(2) + regularization * (penalty + np.mean(values["kind_weights"] ** 2))
    assert float(model.compute_loss(BATCH)) == pytest.approx(expected, rel=1e-4)
