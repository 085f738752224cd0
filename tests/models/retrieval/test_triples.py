import numpy as np
import pytest

from beam_pipelines.format.errors import InputError
from models.retrieval.interactions import Pairs
from models.retrieval.triples import TrainingTriples
from tests.models.retrieval.drawn_interactions import draw_interactions


def test_an_epoch_has_every_interaction_once_and_items_that_the_user_has_not():
    train = draw_interactions().train
    triples = TrainingTriples(train, 24, batch_size=50, seed=0)
    assert triples.steps_per_epoch == 3
    known = {*zip(train.users.tolist(), train.items.tolist(), strict=True)}
    epochs = [triples.epoch(number) for number in range(40)]
    for users, items, negatives in epochs:
        assert {*zip(users.tolist(), items.tolist(), strict=True)} == known
        assert len(users) == len(known)
        assert not {*zip(users.tolist(), negatives.tolist(), strict=True)} & known
    assert not np.array_equal(epochs[0][0], epochs[1][0])
    # Uniformly from what is left.
    user = train.users[0]
    drawn = np.concatenate([negatives[users == user] for users, _, negatives in epochs])
    left = np.setdiff1d(np.arange(24), train.items[train.users == user])
    assert set(drawn.tolist()) == set(left.tolist())


@pytest.mark.parametrize("step", [0, 2, 3, 7])
def test_batches_from_a_step_on_are_those_of_the_whole_training(step):
    train = draw_interactions().train

    def first(triples, start, count):
        return [*triples.from_step(start).take(count).as_numpy_iterator()]

    whole = first(TrainingTriples(train, 24, batch_size=50, seed=1), 0, 9)
    rest = first(TrainingTriples(train, 24, batch_size=50, seed=1), step, 9 - step)
    for (batch, labels), (expected, _) in zip(rest, whole[step:], strict=True):
        assert labels.tolist() == [[1, 0]] * len(batch["user"])
        for name in ("user", "item", "negative"):
            np.testing.assert_array_equal(batch[name], expected[name])


def test_users_who_have_everything_are_left_out():
    users, items = np.int32([0, 0, 1]), np.int32([0, 1, 1])
    assert TrainingTriples(Pairs(users, items), 2, 8, 0).epoch(0) == (1, 1, 0)
    with pytest.raises(InputError, match="every user has every item"):
        TrainingTriples(Pairs(users[:2], items[:2]), 2, 8, 0)
