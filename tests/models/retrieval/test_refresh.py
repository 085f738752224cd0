import keras
import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.manifest import ids_sha256
from models.data.dataset import Dataset
from models.data.pages import page_records
from models.retrieval.bpr import Bpr, BprConfig
from models.retrieval.interactions import Interactions
from models.retrieval.item_features import FeatureSource, read_item_features
from models.retrieval.refresh import refresh_retrieval
from models.retrieval.run import RetrievalMetadata, RetrievalRun
from models.retrieval.two_tower.two_tower import TwoTower, TwoTowerConfig
from tests.models.saved_embeddings import save_embeddings
from tests.models.tiny_dataset import write_tiny_dataset

GONE = 20  # items of the earlier dataset that the later one has not
CONFIG = TwoTowerConfig(dim=8, hidden_units=6, click_steps=5, pay_steps=3)


def saved(path, model, interactions, features):
    metadata = RetrievalMetadata(
        method="bpr" if isinstance(model, Bpr) else "two_tower",
        seed=0,
        interactions_sha256=interactions.digest(),
        counts={},
        dataset_digest=None,
        item_ids_sha256=ids_sha256(interactions.item_ids),
        user_ids_sha256=ids_sha256(interactions.user_ids),
        window=None,
        features=features,
        validation={"epoch": 1},
        test=None,
        notice="",
    )
    path.mkdir()
    return RetrievalRun.save(path, model, metadata, interactions, {})


def pairs_of(pairs):
    return set(zip(pairs.users.tolist(), pairs.items.tolist(), strict=True))


def features_of(record):
    return tf.train.Example.FromString(record).features.feature


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("refresh")


@pytest.fixture(scope="module")
def earlier(root):
    """A retriever with random weights, of 120 items."""
    dataset = Dataset(write_tiny_dataset(root / "earlier", pages=200).data)
    vectors = np.random.default_rng(0).normal(size=(120, 5)).astype(np.float32)
    save_embeddings(root / "embeddings", vectors, np.arange(120) % 7 != 0, dataset)
    interactions = Interactions.from_pages(dataset)
    features = read_item_features([root / "embeddings"], interactions, dataset)
    keras.utils.set_random_seed(0)
    model = TwoTower.of(interactions, [features.vectors], dataset, CONFIG)
    random = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign_add(0.3 * random.normal(size=weight.shape).astype(np.float32))
    return saved(root / "run", model, interactions, (features.sources,))


@pytest.fixture(scope="module")
def later(root, earlier):
    """A dataset without the first of these items, with new ones and new users, and embeddings of its items.

    Its last item looks like the last one of the earlier dataset, which nobody had chosen there, and has its category.
    """
    tiny = write_tiny_dataset(root / "later", pages=200, items=128, users=45, seed=1, first_item=GONE)
    dataset = Dataset(tiny.data)
    vectors = np.random.default_rng(1).normal(size=(128, 5)).astype(np.float32)
    vectors[: 120 - GONE] = np.load(root / "embeddings/embeddings.npy")[GONE:]
    vectors[127] = vectors[119 - GONE]
    save_embeddings(root / "later_embeddings", vectors, vectors.any(axis=1), dataset)
    return dataset


@pytest.fixture(scope="module")
def refreshed(root, earlier, later):
    return refresh_retrieval(earlier, later, root / "refreshed", embeddings=[[root / "later_embeddings"]])


def test_known_items_keep_their_vectors_and_new_ones_enter_by_category_and_picture(earlier, refreshed):
    assert refreshed.item_ids[:2] == ["item00020", "item00021"]
    old, new = np.asarray(earlier.item_vectors), np.asarray(refreshed.item_vectors)
    assert new.shape == (128, 8)
    np.testing.assert_allclose(new[: 120 - GONE], old[GONE:], atol=1e-6)
    seen = earlier.model.seen
    assert 119 not in seen.items
    assert {119 % 4, 127 % 4} == {3}  # which is the category
    np.testing.assert_allclose(new[127], old[119], atol=1e-6)
    assert np.abs(new[126] - new[127]).max() > 0.1


def test_users_have_the_histories_of_the_end_and_all_that_they_chose(earlier, later, refreshed):
    model, seen = refreshed.model, refreshed.model.seen
    assert refreshed.user_vectors.shape == (45, 8)
    newest = {}
    for split in ("pretrain", "train", "test"):
        for record in page_records(later, split).as_numpy_iterator():
            page = {name: [*each.int64_list.value] for name, each in features_of(record).items()}
            newest[page["user"][0]] = max(page, newest.get(page["user"][0], page), key=lambda each: each["timestamp"])
    for user in (3, 44):
        page = newest[user]
        clicks = [item for item, clicked in zip(page["item"], page["clicked"], strict=True) if clicked]
        told = model.encode_users(np.array([clicks + page["click_item"]]), np.array([page["pay_item"]]))
        np.testing.assert_allclose(refreshed.user_vectors[user], told[0], atol=1e-6)

    before, chosen = earlier.model.seen, Interactions.from_all_pages(later).train
    had = {(user, item - GONE) for user, item in pairs_of(before) if item >= GONE}
    assert pairs_of(seen) == had | pairs_of(chosen)
    assert had - pairs_of(chosen)
    assert len(seen) == len(pairs_of(seen))
    user = int(chosen.users[0])
    best = refreshed.recommend([f"user{user:05d}"], k=128)[0]
    assert len(best) == 128 - (seen.users == user).sum()
    assert not {refreshed.item_ids[item] for item in seen.items[seen.users == user]} & set(best)


def test_what_cannot_take_new_items_is_refused(root, earlier, later, tmp_path):
    def refresh(run, *embeddings):
        refresh_retrieval(run, later, tmp_path / "refused", embeddings=[[each] for each in embeddings])

    dataset = Dataset(root / "earlier/data")
    interactions = Interactions.from_pages(dataset)
    bpr = saved(tmp_path / "bpr", Bpr.of(interactions, [], None, BprConfig(dim=4)), interactions, ())
    with pytest.raises(InputError, match=r"`data`: bpr has learned a vector of each item .*: two_tower$"):
        refresh(bpr)
    right = root / "later_embeddings"
    with pytest.raises(InputError, match=r"`embeddings` must be of 1 kinds, as in training\. Received: 2"):
        refresh(earlier, right, right)
    with pytest.raises(InputError, match=r"must be 1 sources, as in training \(embeddings\)\. Received: 2"):
        refresh_retrieval(earlier, later, tmp_path / "refused", embeddings=[[right, right]])
    np.save(tmp_path / "vectors.npy", np.load(right / "embeddings.npy"))
    with pytest.raises(InputError, match="must be a directory of embeddings, as embeddings was in training"):
        refresh(earlier, tmp_path / "vectors.npy")
    save_embeddings(tmp_path / "other", np.ones((128, 5), np.float32), dataset=later, weights_sha256="others")
    with pytest.raises(InputError, match="must be of the space of embeddings, but their encoders differ"):
        refresh(earlier, tmp_path / "other")
    save_embeddings(tmp_path / "longer", np.ones((128, 6), np.float32), dataset=later)
    with pytest.raises(InputError, match=r"must have 5 numbers per item, as embeddings\. Received: 6"):
        refresh(earlier, tmp_path / "longer")
    with pytest.raises(ArtifactError, match="made for the items of another dataset"):
        refresh(earlier, root / "embeddings")
    unscaled = (FeatureSource(name="x", dim=5, sha256=""),)
    with pytest.raises(ArtifactError, match="does not say how its features were scaled; train it again"):
        refresh(saved(tmp_path / "unscaled", earlier.model, interactions, (unscaled,)), right)
    assert not (tmp_path / "refused").exists()
