import numpy as np
import pytest

from models.retrieval.mgcn import Mgcn
from tests.models.retrieval.numpy_recommenders import (
    BATCH,
    adjacency,
    bpr,
    dense,
    half_squares,
    info_nce,
    light_gcn,
    make,
    nearest_graph,
    normalized,
    sigmoid,
    weights,
)


@pytest.mark.parametrize(("kinds", "item_layers", "regularization", "contrast"), [(1, 1, 0.0, 0.0), (2, 2, 0.2, 0.5)])
def test_vectors_and_loss_are_those_of_numpy(kinds, item_layers, regularization, contrast):
    options = {"regularization": regularization, "contrast_weight": contrast, "neighbours": 6}
    model = make(Mgcn, kinds, item_layers=item_layers, **options)
    values = weights(model)
    behaviour = light_gcn(np.concatenate([values["user_embeddings"], values["item_embeddings"]]), 2)
    views = []
    for kind, features in enumerate(each.numpy() for each in model.features):
        gate = sigmoid(dense(values, f"gate_{kind}", dense(values, f"projection_{kind}", features)))
        items = values["item_embeddings"] * gate
        for _ in range(item_layers):
            items = normalized(nearest_graph(features, 6)) @ items
        views.append(np.concatenate([adjacency()[:30, 30:] @ items, items]))
    logits = np.exp([dense(values, "query", np.tanh(dense(values, "attention", view)))[:, 0] for view in views])
    shared = sum(weight[:, None] * view for weight, view in zip(logits / logits.sum(axis=0), views, strict=True))
    side = shared
    for kind, view in enumerate(views):
        side = side + sigmoid(dense(values, f"preference_{kind}", behaviour)) * (view - shared)
    side = side / (kinds + 1)
    users, items = (behaviour + side)[:30], (behaviour + side)[30:]
    for made, expected in zip(model.vectors(), (users, items), strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-5)
    rows = users[BATCH["user"]], items[BATCH["item"]], items[BATCH["negative"]]
    expected = bpr(users, items) + regularization * half_squares(*rows)
    for nodes in (BATCH["user"], 30 + BATCH["item"]):
        expected += contrast * info_nce(side[nodes], behaviour[nodes], 0.2)
    assert float(model.compute_loss(BATCH)) == pytest.approx(expected, rel=1e-4)
