import numpy as np
import pytest
import tensorflow as tf

from models.retrieval.lattice import Lattice
from tests.models.retrieval.numpy_recommenders import (
    BATCH,
    bpr,
    dense,
    half_squares,
    light_gcn,
    make,
    nearest_graph,
    normalized,
    unit,
    weights,
)


@pytest.mark.parametrize(
    ("kinds", "layers", "item_layers", "share", "regularization"), [(1, 0, 1, 0.9, 0.0), (2, 2, 2, 0.3, 0.2)]
)
def test_vectors_and_loss_are_those_of_numpy(kinds, layers, item_layers, share, regularization):
    options = {"layers": layers, "item_layers": item_layers, "fixed_share": share, "neighbours": 6}
    model = make(Lattice, kinds, regularization=regularization, **options)
    model.kind_logits.assign(np.linspace(0, 0.7, kinds))
    values = weights(model)
    shares = np.exp(values["kind_logits"]) / np.exp(values["kind_logits"]).sum()
    learned, fixed = 0, 0
    for kind, features in enumerate(each.numpy() for each in model.features):
        projected = nearest_graph(dense(values, f"projection_{kind}", features), 6)
        there = features.any(axis=1)
        learned = learned + shares[kind] * projected * there[:, None] * there
        fixed = fixed + shares[kind] * normalized(nearest_graph(features, 6))
    graph = share * fixed + (1 - share) * normalized(learned)
    similar = values["item_embeddings"]
    for _ in range(item_layers):
        similar = graph @ similar
    vectors = light_gcn(np.concatenate([values["user_embeddings"], values["item_embeddings"]]), layers)
    users, items = vectors[:30], vectors[30:] + unit(similar)
    for made, expected in zip(model.vectors(), (users, items), strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-5)
    rows = users[BATCH["user"]], items[BATCH["item"]], items[BATCH["negative"]]
    expected = bpr(users, items) + regularization * half_squares(*rows)
    assert float(model.compute_loss(BATCH)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("share", [1.0, 0.9])
def test_the_projection_learns_from_the_learned_graph_alone(share):
    model = make(Lattice, 1, fixed_share=share)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(BATCH)
    gradient = tape.gradient(loss, model.projections[0].kernel.value)
    assert np.any(gradient) == (share < 1)


def test_the_nearest_are_found_when_an_epoch_begins():
    model = make(Lattice, 1)
    before = model.nearest[0].numpy()
    kernel = model.projections[0].kernel
    kernel.assign(np.random.default_rng(5).normal(size=kernel.shape))
    np.testing.assert_array_equal(model.nearest[0].numpy(), before)
    model.begin_epoch()
    assert not np.array_equal(model.nearest[0].numpy(), before)
