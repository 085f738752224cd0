import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import InputError
from models.retrieval.bpr import Bpr
from models.retrieval.interactions import Interactions, Pairs
from models.retrieval.methods import METHODS, find_method
from models.retrieval.recommender import Recommender
from tests.models.retrieval.drawn_interactions import draw_features, draw_interactions
from tests.models.retrieval.numpy_recommenders import BATCH, make

RANDOM = {"bm3": {"dropout": 0.0}}
RECOMMENDERS = [name for name, kind in METHODS.items() if issubclass(kind, Recommender)]


def made(name):
    kind = METHODS[name]
    return make(kind, 0 if kind.reads_features == "never" else 2, **RANDOM.get(name, {}))


def test_methods_are_found_by_name_and_by_place():
    assert {name: find_method(name) for name in METHODS} == METHODS
    assert find_method("models.retrieval.bpr:Bpr") is Bpr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bqr", "must be one of bpr.*, or MODULE:CLASS. Received: bqr"),
        ("nowhere.at_all:Model", "nowhere.at_all:Model cannot be imported: No module named 'nowhere'"),
        ("models.retrieval.bpr:Bqr", "cannot be imported: .*no attribute 'Bqr'"),
        ("models.retrieval.bpr:BprConfig", "is no class derived from Retriever"),
    ],
)
def test_others_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        find_method(name)
    assert "nowhere" not in sys.modules


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_all_that_is_trained_has_a_gradient(name):
    model = made(name)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(BATCH)
    for weight, gradient in zip(
        model.trainable_variables, tape.gradient(loss, [each.value for each in model.trainable_variables]), strict=True
    ):
        assert gradient is not None, weight.path
        assert np.isfinite(tf.convert_to_tensor(gradient)).all(), weight.path


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_a_loaded_model_has_the_same_vectors(name, tmp_path):
    model = made(name)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    for one, other in zip(loaded.vectors(), model.vectors(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_another_order_of_items_changes_nothing(name):
    """Neither vectors nor loss depend on how items are numbered."""
    model, other = made(name), made(name)
    order = np.random.default_rng(0).permutation(24)
    place = np.argsort(order).astype(np.int32)
    drawn = draw_interactions()
    parts = (Pairs(part.users, place[part.items]) for part in (drawn.train, drawn.validation, drawn.test))
    for weight, own in zip(other.trainable_variables, model.trainable_variables, strict=True):
        rows = {24: order, 54: np.concatenate([np.arange(30), 30 + order])}.get(own.shape[0], slice(None))
        weight.assign(own.numpy()[rows])
    features = [each.numpy()[order] for each in model.features]
    other.adapt(Interactions(drawn.user_ids, drawn.item_ids, *parts), features)
    for own, renamed, rows in zip(model.vectors(), other.vectors(), (slice(None), order), strict=True):
        np.testing.assert_allclose(renamed, own[rows], rtol=1e-4, atol=1e-6)
    batch = {**BATCH, "item": place[BATCH["item"]], "negative": place[BATCH["negative"]]}
    assert float(other.compute_loss(batch)) == pytest.approx(float(model.compute_loss(BATCH)), rel=1e-5)


@pytest.mark.parametrize("name", [name for name in RECOMMENDERS if METHODS[name].reads_features == "always"])
def test_features_are_needed(name):
    with pytest.raises(InputError, match="`feature_dims` must be at least one length"):
        METHODS[name](30, 24)
    with pytest.raises(InputError, match="`features` must be of the lengths"):
        METHODS[name](30, 24, [4]).adapt(draw_interactions(), [draw_features()])
