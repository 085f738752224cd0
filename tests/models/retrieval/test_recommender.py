import keras
import numpy as np
import pytest

from beam_pipelines.format.errors import InputError
from models.retrieval.bpr import Bpr
from models.retrieval.recommender import Recommender
from models.retrieval.triples import TrainingTriples
from models.training.lazy_adam import LazyAdam
from tests.models.retrieval.drawn_interactions import KINDS, draw_features, draw_interactions


def fitted(epochs=30):
    interactions = draw_interactions()
    keras.utils.set_random_seed(0)
    model = Bpr(30, 24, config={"dim": 8, "regularization": 0.01})
    model.adapt(interactions)
    model.compile(LazyAdam(0.05))
    triples = TrainingTriples(interactions.train, 24, 40, seed=0)
    model.fit(triples.from_step(0), steps_per_epoch=triples.steps_per_epoch, epochs=epochs, verbose=0)
    return model, interactions


def test_it_recommends_what_suits_and_never_what_was_learned_from():
    model, interactions = fitted()
    items, scores = model.recommend(np.arange(30), k=20)
    train = {*zip(interactions.train.users.tolist(), interactions.train.items.tolist(), strict=True)}
    recommended = {(user, item) for user in range(30) for item in items[user].tolist()}
    assert len(recommended) == 600
    assert not recommended & train
    assert (np.diff(scores, axis=1) <= 0).all()
    users, vectors = model.vectors()
    np.testing.assert_allclose(scores[3], (users[3] @ vectors.T)[items[3]], rtol=1e-5)
    assert (items[:, 0] % KINDS == np.arange(30) % KINDS).mean() > 0.5  # about 4 of the 20 items left are

    everything, scores = model.recommend([5], k=99)
    assert everything.shape == (1, 24)
    assert (everything == -1).sum() == (interactions.train.users == 5).sum()
    assert np.isneginf(scores[everything == -1]).all()


def test_a_saved_model_recommends_the_same(tmp_path):
    model, _ = fitted(epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert loaded.config == model.config
    for one, other in zip(loaded.recommend([2, 7]), model.recommend([2, 7]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_does_not_belong_together_is_refused():
    model = Bpr(30, 24)
    with pytest.raises(InputError, match="knows no interactions yet"):
        model.recommend([0])
    with pytest.raises(InputError, match=r"`interactions` must be of 30 users and 24 items\. Received: 9 and 24"):
        model.adapt(draw_interactions(users=9))
    with pytest.raises(InputError, match="`features` must be of the lengths"):
        model.adapt(draw_interactions(), [draw_features()])
    with pytest.raises(InputError, match="`feature_dims` must be empty for Bpr"):
        Bpr(30, 24, [5])


class Counting(Recommender):
    """Counts its epochs."""

    epochs = 0

    def begin_epoch(self):
        self.epochs += 1


def test_an_epoch_begins_once_for_stock_callbacks_too():
    model = Counting(3, 3)
    model.compile("sgd")
    for callback in (None, [keras.callbacks.Callback()]):
        with pytest.raises(NotImplementedError):
            model.fit(
                TrainingTriples(draw_interactions().train, 24, 9, 0).from_step(0), steps_per_epoch=1, callbacks=callback
            )
    assert model.epochs == 2
