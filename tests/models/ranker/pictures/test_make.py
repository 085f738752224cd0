"""A click model of pictures, which learns before the ranker."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.features.spec import FeatureSizes
from models.metrics.gauc import GAUC
from models.ranker.config import AttentionConfig, RankerConfig, RankerLengths
from models.ranker.picture_ranker import PictureRanker
from models.ranker.pictures.picture_din import PictureDin
from models.ranker.pictures.pictures import Pictures
from models.ranker.ranker import Ranker
from tests.models.layers.test_target_attention import attention_by_definition, make_inputs
from tests.models.ranker.ranker_pages import inputs_of, labels_of, sigmoid
from tests.models.saved_embeddings import save_embeddings
from tests.models.taste_dataset import write_taste_dataset


def made(dim, seed=0):
    layer = PictureDin(dim)
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.normal(0, 0.3, weight.shape))
    return layer


def by_definition(layer, candidates, steps, mask, cosines):
    """The tower in NumPy, of plain matrix products."""
    projection = np.float64(layer.projection.kernel)
    query, keys = candidates @ projection, steps @ projection
    found, _, _ = attention_by_definition(layer.attention, query, keys, mask, [cosines])
    hidden = np.concatenate([query, found, query * found], axis=-1)
    for dense in (layer.hidden, layer.vector):
        hidden = np.maximum(hidden @ np.float64(dense.kernel) + np.float64(dense.bias), 0)
    return hidden, (hidden @ np.float64(layer.logit.kernel) + np.float64(layer.logit.bias))[..., 0]


@pytest.mark.parametrize(
    ("batch", "candidates", "steps", "dim"), [(1, 1, 1, 1), (2, 3, 5, 4), (3, 5, 2, 7), (2, 3, 0, 4)]
)
def test_the_tower_equals_its_definition(batch, candidates, steps, dim):
    query, keys, mask, (cosines,) = make_inputs(batch, candidates, steps, dim, pair_features=1)
    layer = made(dim)
    said, expected = layer(query, keys, mask, cosines), by_definition(layer, query, keys, mask, cosines)
    for mine, theirs in zip(said, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    # Padding, and a step without a picture, may hold anything.
    other = np.where(mask[..., None], keys, 1e6).astype(np.float32)
    for mine, theirs in zip(layer(query, other, mask, cosines), said, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_new_tower_says_that_it_has_learned_nothing():
    layer = PictureDin(4)
    query, keys, mask, (cosines,) = make_inputs(2, 3, 5, 4, pair_features=1)
    assert not layer.is_trained()
    assert not layer(query, keys, mask, cosines)[1].numpy().any()
    assert made(4).is_trained()
    again = PictureDin.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_log_odds_are_a_sum_over_histories_and_the_ranker_reads_them(make, page):
    """Of each history alone, by the definition, with the cosines that the tables give."""
    ranker = make("make")
    picture_ranker = PictureRanker(ranker)
    picture_ranker.bias.assign(0.7)
    pictures = ranker.items.pictures
    vectors = pictures.tables["image"].numpy()
    mean, deviation = pictures.tables["image_similarity"].numpy()
    (tower,) = pictures.towers
    candidates = vectors[page["item"]]
    expected = np.full(page["item"].shape, 0.7)
    for name in ranker.histories:
        rows = page[f"{name}_item"].numpy()
        steps = vectors[rows] * (rows >= 0)[..., None]
        mask = steps.any(axis=-1)
        both = candidates.any(axis=-1)[:, :, None] & mask[:, None, :]
        cosines = np.where(both, (candidates @ steps.transpose(0, 2, 1) - mean) / deviation, 0)
        vector, logit = by_definition(tower, candidates, steps, mask, cosines)
        expected += logit
        pooled = ranker._page_inputs(inputs_of(page)).histories[name].pooled[-1].numpy()
        shown = page["item"].numpy() >= 0
        np.testing.assert_allclose(pooled[shown], np.concatenate([vector, logit[..., None]], -1)[shown], atol=1e-4)
    scores = picture_ranker(inputs_of(page))["ctr"].numpy()
    np.testing.assert_allclose(scores[shown], sigmoid(expected)[shown], rtol=1e-4)
    assert not scores[~shown].any()
    loss = picture_ranker.compute_loss(inputs_of(page), labels_of(page))
    clicked, odds = page["clicked"].numpy()[shown] == 1, expected[shown]
    np.testing.assert_allclose(loss, np.mean(np.logaddexp(0, odds) - clicked * odds), rtol=1e-4)
    # A page counts as its weight says: at none, not at all.
    weight = tf.constant(np.arange(len(shown)) % 2, tf.float32)
    loss = picture_ranker.compute_loss(inputs_of(page) | {"loss_weight": weight}, labels_of(page))
    counted = np.broadcast_to((weight.numpy() == 1)[:, None], shown.shape)[shown]
    np.testing.assert_allclose(loss, np.mean((np.logaddexp(0, odds) - clicked * odds)[counted]), rtol=1e-4)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Shoppers who click the colour that they clicked before, and embeddings that know the colour."""
    directory = tmp_path_factory.mktemp("shop")
    dataset = write_taste_dataset(directory / "data")
    rng = np.random.default_rng(0)
    vectors = (np.eye(4, 6)[np.arange(61) % 4] + 0.1 * rng.normal(size=(61, 6))).astype(np.float32)
    return dataset, save_embeddings(directory / "embeddings", vectors, np.arange(61) < 60, dataset)


CONFIG = RankerConfig(
    lengths=RankerLengths(click=6, pay=0, cart=0),
    derived_inputs=False,
    embedding_dim=4,
    item_dim=4,
    attention=AttentionConfig(recent_steps=0, histories="none"),
    mlp_units=(8,),
)


def test_pictures_learn_first_and_the_ranker_leaves_them_alone(shop):
    dataset, embeddings = shop
    pages = dataset.pages("pretrain")
    keras.utils.set_random_seed(0)
    ranker = Ranker.adapt(pages, pictures=embeddings, image_feature="make", config=CONFIG, allow_window_overlap=True)
    ranker.compile(metrics=[GAUC()])
    with pytest.raises(ValueError, match="What the image feature make reads learns before the ranker"):
        ranker.fit(pages.batches(32))
    picture_ranker = PictureRanker(ranker)
    picture_ranker.compile(keras.optimizers.Adam(0.01))
    history = picture_ranker.fit(pages.batches(32), epochs=8, verbose=0, shuffle=False).history["loss"]
    assert history[-1] < 0.5 * history[0]
    picture_ranker.give_to(ranker)
    learned = [weight.copy() for weight in ranker.items.pictures.towers[0].get_weights()]
    assert not set(map(id, ranker.items.pictures.towers[0].variables)) & set(map(id, ranker.trainable_variables))
    assert ranker.fit(pages.batches(32), epochs=4, verbose=0).history["gauc"][-1] > 0.9
    for now, before in zip(ranker.items.pictures.towers[0].get_weights(), learned, strict=True):
        np.testing.assert_array_equal(now, before)


def test_the_newest_steps_alone_count():
    rng = np.random.default_rng(0)
    pictures = Pictures("make", FeatureSizes(items=80, users=1, item={}, user={}, image_dims=(4,)))
    vectors = rng.normal(size=(81, 4)).astype(np.float32)
    pictures.fill({"image": vectors, "image_similarity": np.array([0, 1], np.float32)})
    for variable in pictures.towers[0].variables:
        variable.assign(rng.normal(0, 0.3, variable.shape))

    def said(steps):
        mask = tf.ones((1, len(steps)), tf.bool)
        return pictures.compare([vectors[None, :3]], [tf.constant(vectors[None, steps])], mask).pooled[0].numpy()

    steps = np.arange(10, 70)
    whole = said(steps)
    np.testing.assert_allclose(said(steps[:50]), whole, rtol=1e-5)
    assert np.abs(said(steps[:49]) - whole).max() > 1e-4
