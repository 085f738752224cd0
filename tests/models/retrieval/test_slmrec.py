import itertools

import numpy as np
import pytest
import tensorflow as tf

from models.retrieval.slmrec import SlmRec
from tests.models.retrieval.numpy_recommenders import (
    BATCH,
    dense,
    half_squares,
    info_nce,
    light_gcn,
    make,
    weights,
)


@pytest.mark.parametrize(("kinds", "regularization", "view_weight"), [(0, 0.0, 0.0), (1, 0.2, 0.3), (2, 0.0, 0.1)])
def test_vectors_and_loss_are_those_of_numpy(kinds, regularization, view_weight):
    model = make(SlmRec, kinds, layers=2, regularization=regularization, view_weight=view_weight)
    values = weights(model)
    items = [values["item_embeddings"]]
    items += [dense(values, f"projection_{kind}", features.numpy()) for kind, features in enumerate(model.features)]
    views = [light_gcn(np.concatenate([values["user_embeddings"], each]), 2) for each in items]
    together = np.concatenate(views, axis=1)
    user_vectors = dense(values, "of_users", together[:30])
    item_vectors = dense(values, "of_items", together[30:])
    for made, expected in zip(model.vectors(), (user_vectors, item_vectors), strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-6)
    expected = info_nce(user_vectors[BATCH["user"]], item_vectors[BATCH["item"]], 0.2)
    for one, other in itertools.combinations(range(kinds + 1), 2):
        first, second = (
            dense(values, f"space_{one}_{other}_{side}", views[view][30:][BATCH["item"]])
            for view, side in ((one, "one"), (other, "other"))
        )
        expected += view_weight * info_nce(first, second, 0.5)
    rows = values["user_embeddings"][BATCH["user"]], values["item_embeddings"][BATCH["item"]]
    expected += regularization * half_squares(*rows)
    assert float(model.compute_loss(BATCH)) == pytest.approx(expected, rel=1e-4)


def test_spaces_of_views_learn_from_the_contrast_of_views_alone():
    model = make(SlmRec, 1, view_weight=0.0)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(BATCH)
    assert not any(np.any(each) for each in tape.gradient(loss, [space.kernel.value for space in model.spaces[0]]))
