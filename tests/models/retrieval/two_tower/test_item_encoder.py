import numpy as np

from models.retrieval.two_tower.item_encoder import ItemEncoder

IDS, CATEGORIES = np.int32([0, 1, 5]), np.int32([2, 0, 2])
FEATURES = [np.float32([[1, 2], [0, 0], [3, -1]])]


def made(dropout=0.0):
    encoder = ItemEncoder(5, 3, [2], 4, dropout)
    encoder.build()
    return encoder


def test_an_item_is_the_sum_of_its_parts():
    encoder = made()
    ids, categories, projection = (weight.numpy() for weight in encoder.weights)
    expected = ids[IDS] + categories[CATEGORIES] + FEATURES[0] @ projection
    np.testing.assert_allclose(encoder(IDS, CATEGORIES, FEATURES), expected, rtol=1e-5)


def test_training_takes_a_share_of_the_ids_for_unknown():
    encoder = made(dropout=0.4)
    ids, features = np.full(4000, 3, np.int32), [np.zeros((4000, 2), np.float32)]
    unknown, known = encoder(np.int32([0, 3]), np.int32([1, 1]), [features[0][:2]]).numpy()
    drawn = encoder(ids, np.ones_like(ids), features, training=True).numpy()
    is_unknown = np.isclose(drawn, unknown).all(axis=1)
    assert (is_unknown | np.isclose(drawn, known).all(axis=1)).all()
    assert 0.36 < is_unknown.mean() < 0.44
