import itertools

import numpy as np
import pytest

from models.finetuning.product_search import identity_recalls, search_split


def by_definition(query, query_products, gallery, gallery_products, at):
    """Over all orders of the gallery, sorted stably: the share in which the product is among the first K."""
    found = np.zeros((len(query), len(at)))
    orders = [np.array(order) for order in itertools.permutations(range(len(gallery)))]
    for n, vector in enumerate(query):
        norms = np.linalg.norm(gallery, axis=1) * np.linalg.norm(vector)
        cosines = np.round(np.divide(gallery @ vector, norms, out=np.zeros(len(gallery)), where=norms > 0), 9)
        for order in orders:
            ranked = order[np.argsort(-cosines[order], kind="stable")]
            hits = gallery_products[ranked] == query_products[n]
            found[n] += [hits[:k].any() for k in at]
    return found / len(orders)


@pytest.mark.parametrize("seed", range(4))
def test_recall_equals_the_mean_over_all_orders_of_the_gallery(seed):
    random = np.random.default_rng(seed)
    gallery = random.integers(-1, 2, (6, 2)).astype(np.float32)  # many ties, and zeros
    gallery_products = np.array([0, 0, 1, 1, 2, 3])
    query, query_products = random.integers(-1, 2, (5, 2)).astype(np.float32), np.array([0, 1, 2, 3, 0])
    at = (1, 2, 3, 5, 6, 9)
    found = identity_recalls(query, query_products, gallery, gallery_products, at)
    expected = by_definition(query.astype(float), query_products, gallery.astype(float), gallery_products, at)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_one_embedding_for_all_gains_what_chance_gives():
    products = np.arange(200)
    found = identity_recalls(np.ones((200, 3)), products, np.ones((200, 3)), products, at=(1, 20, 200, 500))
    np.testing.assert_allclose(found, np.broadcast_to([1 / 200, 0.1, 1, 1], (200, 4)), atol=1e-9)


def test_recall_knows_neither_order_nor_scale_nor_who_else_searches():
    random = np.random.default_rng(9)
    gallery, query = random.normal(size=(40, 5)), random.normal(size=(12, 5))
    products = random.integers(0, 20, 40)
    wanted = products[random.permutation(40)[:12]]
    found = identity_recalls(query, wanted, gallery, products)
    order = random.permutation(40)
    scaled = gallery * random.uniform(0.1, 9, (40, 1))
    np.testing.assert_array_equal(identity_recalls(3 * query, wanted, scaled[order], products[order]), found)
    np.testing.assert_array_equal(identity_recalls(query[3:4], wanted[3:4], gallery, products), found[3:4])
    assert (np.diff(found, axis=1) >= 0).all()


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="1 are missing"):
        identity_recalls(np.ones((2, 2)), np.array([0, 5]), np.ones((3, 2)), np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="finite"):
        identity_recalls(np.full((1, 2), np.nan), np.array([0]), np.ones((1, 2)), np.array([0]))


def test_products_are_held_out_with_all_their_pictures():
    random = np.random.default_rng(1)
    products = random.integers(0, 60, 150) * 7
    split = search_split(products, 0.3, seed=4)
    sizes = dict(zip(*np.unique(products, return_counts=True), strict=True))
    out = {*products[split.query].tolist(), *products[split.gallery].tolist()}
    assert len(out) == round(0.3 * len(sizes))
    assert not out & set(products[split.train].tolist())
    assert all(sizes[product] > 1 for product in products[split.train])
    queried = products[split.query].tolist()
    assert sorted(queried) == sorted(product for product in out if sizes[product] > 1)
    assert len(split.query) + len(split.gallery) == sum(sizes[product] for product in out)
    assert not set(split.query.tolist()) & set(split.gallery.tolist())
    distractors = [product for product in out if sizes[product] == 1]
    assert distractors
    assert {*distractors, *queried} == set(products[split.gallery].tolist())
    again = search_split(products, 0.3, seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(again, split, strict=True))
    assert not np.array_equal(search_split(products, 0.3, seed=5).query, split.query)
