import keras
import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import InputError
from models.data.dataset import Dataset
from models.retrieval.interactions import Interactions
from models.retrieval.item_features import read_item_features
from models.retrieval.two_tower.two_tower import UNKNOWN_ITEM, TwoTower, TwoTowerConfig
from models.training.lazy_adam import LazyAdam
from tests.models.retrieval.two_tower.test_in_batch_softmax import expected
from tests.models.tiny_dataset import write_tiny_dataset

CONFIG = TwoTowerConfig(dim=8, hidden_units=6, click_steps=5, pay_steps=3, learning_rate=0.01)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"), pages=500, users=60)


@pytest.fixture(scope="module")
def shop(tiny):
    """Dataset, interactions and features."""
    dataset = Dataset(tiny.data)
    interactions = Interactions.from_pages(dataset)
    return dataset, interactions, read_item_features([tiny.embeddings], interactions, dataset).vectors


def made(shop, **changes):
    dataset, interactions, features = shop
    keras.utils.set_random_seed(0)
    model = TwoTower.of(interactions, [features], dataset, CONFIG.model_copy(update=changes))
    random = np.random.default_rng(0)
    for weight in model.trainable_variables:  # what is zero at first would hide mistakes
        weight.assign_add(0.1 * random.normal(size=weight.shape).astype(np.float32))
    return model


@pytest.fixture(scope="module")
def model(shop):
    return made(shop)


@pytest.fixture(scope="module")
def trained(shop):
    dataset, interactions, features = shop
    keras.utils.set_random_seed(0)
    model = TwoTower.of(interactions, [features], dataset, CONFIG)
    model.compile(LazyAdam(CONFIG.learning_rate))
    pages = TwoTower.training_steps(interactions, dataset, CONFIG.model_copy(update={"batch_size": 64}), seed=0)
    model.fit(pages.from_step(0), steps_per_epoch=pages.steps_per_epoch, epochs=10, verbose=0, shuffle=False)
    return model


@pytest.fixture(scope="module")
def batch(shop):
    """Pages with their clicks, histories of which are longer than those that are read."""
    page, labels, _ = next(iter(shop[0].pages("train").batches(32).skip(10)))
    assert page["click_item"].shape[1] > CONFIG.click_steps
    return page, labels


def test_the_loss_is_that_of_numpy_on_the_vectors_of_both_towers(shop, batch):
    model, (page, labels) = made(shop, regularization=0.3, id_dropout=0.0), batch
    users = model.encode_users(page["click_item"], page["pay_item"]).numpy()
    _, items = model.vectors()
    pages, places = np.nonzero(labels.numpy() > 0)
    rows = page["item"].numpy()[pages, places]
    train = shop[1].train
    frequencies = np.bincount(train.items, minlength=120)[rows] / len(train)
    penalty_free = expected(users, items[rows], pages, rows, np.log(np.maximum(frequencies, 1 / len(train))), 0.1)
    # The penalty is of the distinct items that were read: those chosen, and the steps of pages where something was.
    chosen = np.unique(pages)
    clicks, pays = page["click_item"].numpy()[chosen, :5], page["pay_item"].numpy()[chosen, :3]
    read = np.unique(np.maximum(np.concatenate([rows, clicks.ravel(), pays.ravel()]), 0))
    tables = [tf.gather(model._tables[name], read) for name in ("ids", "categories")]
    base = model.items(*tables, [shop[2][read]]).numpy()
    loss = float(model.compute_loss(page, labels))
    assert loss == pytest.approx(penalty_free + 0.3 * np.square(base).sum() / 2 / len(read), rel=1e-4)


def test_scores_are_cosines_whoever_else_is_in_the_batch_and_however_it_is_padded(model, batch):
    page, _ = batch
    scores = model(page).numpy()
    present = page["item"].numpy() >= 0
    assert (np.abs(scores) <= 1).all()
    assert (scores[~present] == 0).all()
    users = model.encode_users(page["click_item"], page["pay_item"]).numpy()
    _, items = model.vectors()
    expected_scores = np.einsum("bcd,bd->bc", items[page["item"].numpy()], users)
    np.testing.assert_allclose(scores[present], expected_scores[present], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1, atol=1e-3)
    for row in (0, 7, 31):
        alone = {name: page[name][row : row + 1] for name in ("item", "click_item", "pay_item")}
        np.testing.assert_allclose(model(alone)[0], scores[row], atol=1e-6)
        steps = int((alone["click_item"] >= 0).numpy().sum())
        tight = {**alone, "click_item": alone["click_item"][:, :steps]}
        np.testing.assert_allclose(model(tight)[0], scores[row], atol=1e-6)


def test_histories_are_read_newest_first_up_to_their_lengths(model):
    history = np.arange(20)[None]
    pays = history[:, :0]
    user = model.encode_users(history, pays).numpy()
    np.testing.assert_allclose(model.encode_users(history[:, :5], pays), user, atol=1e-6)
    assert np.abs(model.encode_users(history[:, 1:], pays) - user).max() > 1e-3
    assert np.abs(model.encode_users(pays, history[:, :5]) - user).max() > 1e-3
    empty = model.encode_users(pays, pays).numpy()
    assert np.linalg.norm(empty) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(model.encode_users(np.full((1, 4), -1), np.full((1, 2), -1)), empty, atol=1e-6)


def test_a_page_without_clicks_and_what_was_not_read_teach_nothing(model, batch):
    page, labels = batch
    none = tf.zeros_like(labels)
    assert float(model.compute_loss(page, none, training=False)) == 0
    with tf.GradientTape() as tape:
        loss = model.compute_loss(page, labels)
    gradient = tf.convert_to_tensor(tape.gradient(loss, model.items.id_embedding.embeddings.value)).numpy()
    chosen = labels.numpy().any(axis=1)
    items = page["item"].numpy()[labels.numpy() > 0]
    read = {*items, *page["click_item"].numpy()[chosen, :5].ravel(), *page["pay_item"].numpy()[chosen, :3].ravel()}
    assert set(np.flatnonzero(gradient.any(axis=1))) <= {UNKNOWN_ITEM, *(row + 1 for row in read if row >= 0)}


def test_it_is_saved_with_what_it_knows(model, batch, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    for one, other in zip(loaded.vectors(), model.vectors(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_allclose(loaded(batch[0]), model(batch[0]), atol=1e-6)
    for one, other in zip(loaded.recommend([3, 5], 7), model.recommend([3, 5], 7), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_an_item_that_was_never_learned_from_is_found_by_its_picture(shop, tiny, trained):
    """Users like two styles, which pictures show: theirs come first among items that are in no train page, too."""
    dataset, interactions, features = shop
    of_users, items = trained.vectors()
    unseen = np.flatnonzero((np.bincount(interactions.train.items, minlength=120) == 0) & features.any(axis=1))
    assert len(unseen) >= 20
    users = np.unique(interactions.train.users)
    found, liked = [], []
    for user in users:
        own = interactions.train.items[interactions.train.users == user]
        tastes = np.argsort(-np.bincount(tiny.styles[own], minlength=6))[:2]
        is_liked = np.isin(tiny.styles[unseen], tastes)
        found.append(is_liked[np.argsort(-items[unseen] @ of_users[user])[:5]].mean())
        liked.append(is_liked.mean())
    assert np.mean(found) > np.mean(liked) + 0.3
    assert (trained._tables["ids"].numpy()[unseen] == UNKNOWN_ITEM).all()
    # Nothing but category and picture says what it is: an item in no table with the same ones has the same vector.
    row = unseen[0]
    category = trained.category_rows([dataset.items()["category"][int(row)].as_py()])
    new = trained.encode_items(np.int32([UNKNOWN_ITEM]), category, [features[row][None]])
    np.testing.assert_allclose(new[0], items[row], atol=1e-6)


def test_what_does_not_fit_is_refused(shop):
    dataset, interactions, features = shop
    for make in (
        lambda: TwoTower.of(interactions, [features], None, CONFIG),
        lambda: TwoTower.training_steps(interactions, None, CONFIG, 0),
    ):
        with pytest.raises(InputError, match="two_tower reads the histories of pages; give a page dataset"):
            make()
    with pytest.raises(InputError, match="`features` must be of the lengths"):
        TwoTower(60, 120, [3], CONFIG).adapt(interactions, [features], dataset)
    with pytest.raises(InputError, match="must be of 5 users and 120 items"):
        TwoTower(5, 120, [8], CONFIG).adapt(interactions, [features], dataset)
    with pytest.raises(InputError, match="knows no users and items yet"):
        TwoTower(60, 120, [8], CONFIG).vectors()
