import numpy as np
import pytest

from models.retrieval.mmgcn import Mmgcn
from tests.models.retrieval.numpy_recommenders import BATCH, adjacency, bpr, dense, half_squares, make, unit, weights


def leaky(x):
    return np.where(x > 0, x, 0.01 * x)


@pytest.mark.parametrize(("kinds", "layers", "regularization"), [(1, 1, 0.0), (2, 3, 0.3)])
def test_vectors_and_loss_are_those_of_numpy(kinds, layers, regularization):
    model = make(Mmgcn, kinds, layers=layers, regularization=regularization)
    values = weights(model)
    neighbours = adjacency() > 0
    mean = neighbours / np.maximum(neighbours.sum(axis=1, keepdims=True), 1)
    total = 0
    for kind, features in enumerate(model.features):
        projected = dense(values, f"projection_{kind}", features.numpy())
        nodes = unit(np.concatenate([values[f"preferences_{kind}"], projected]))
        for layer in range(layers):
            passed = leaky(dense(values, f"neighbours_{kind}_{layer}", mean @ nodes))
            own = leaky(dense(values, f"self_{kind}_{layer}", nodes)) + values["id_embeddings"]
            nodes = leaky(dense(values, f"both_{kind}_{layer}", np.concatenate([passed, own], axis=1)))
        total = total + nodes / kinds
    for made, expected in zip(model.vectors(), (total[:30], total[30:]), strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-6)
    ids = values["id_embeddings"]
    rows = [ids[BATCH["user"]], ids[30 + BATCH["item"]], ids[30 + BATCH["negative"]]]
    rows += [values[f"preferences_{kind}"][BATCH["user"]] for kind in range(kinds)]
    expected = bpr(total[:30], total[30:]) + regularization * half_squares(*rows)
    assert float(model.compute_loss(BATCH)) == pytest.approx(expected, rel=1e-5)
