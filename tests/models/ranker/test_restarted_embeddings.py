import numpy as np
import pytest
import tensorflow as tf

from models.ranker.config import TrainingConfig
from models.ranker.ranker import Ranker, default_optimizer
from models.ranker.restarted_embeddings import RestartedEmbeddings
from tests.models.ranker.ranker_pages import CONFIG, gradients_of

STEPS = 2


@pytest.fixture
def trained(make, page):
    """A ranker of two members after an epoch of two steps."""
    ranker = make("cluster_id", CONFIG.model_copy(update={"members": 2}))
    ranker.compile(default_optimizer(TrainingConfig()))
    ranker.optimizer.build(ranker.trainable_variables)
    for _ in range(STEPS):
        ranker.optimizer.apply_gradients(zip(gradients_of(ranker, page)[1], ranker.trainable_variables, strict=True))
    return ranker


def begin(ranker, epoch, seed=0):
    callback = RestartedEmbeddings(STEPS, seed)
    callback.set_model(ranker)
    callback.on_epoch_begin(epoch)
    return values(ranker)


def values(ranker):
    return [variable.numpy() for variable in ranker.trainable_variables]


def slots(optimizer, index):
    return [each[index].numpy() for each in (optimizer._momentums, optimizer._velocities, optimizer._lags)]


def test_ids_begin_anew_and_all_else_goes_on(trained):
    before, optimizer = values(trained), trained.optimizer
    moved = [slots(optimizer, n) for n in range(len(before))]
    after = begin(trained, 1)
    fresh = {id(layer.embeddings) for member in trained.members for layer in member.id_embeddings()}
    named = [v.path for v in trained.trainable_variables if id(v) in fresh]
    assert len(named) == len(fresh) == 2 * 5  # item, category, cluster, user and country
    assert not [path for path in named if "age" in path or "text" in path]
    for number, (variable, average) in enumerate(zip(trained.trainable_variables, optimizer.averages(), strict=True)):
        if id(variable) in fresh:
            assert (after[number] != before[number]).mean() > 0.99
            assert np.abs(after[number]).max() <= 0.05
            assert not np.any(np.concatenate([slot.ravel() for slot in slots(optimizer, number)]))
            np.testing.assert_array_equal(average, after[number])
        else:
            np.testing.assert_array_equal(after[number], before[number])
            np.testing.assert_array_equal(slots(optimizer, number), moved[number])
    tables = [after[n].ravel()[:8] for n, v in enumerate(trained.trainable_variables) if id(v) in fresh]
    assert len(np.unique(np.stack(tables), axis=0)) == len(tables)


def test_with_adam_all_rows_of_ids_move_on(make, page):
    ranker = make("none", CONFIG.model_copy(update={"largest_embedding": 0.01}))
    begins = Ranker.from_config(ranker.get_config()).members[0].items.features.embeddings["item_id"].embeddings
    assert 0.005 < np.abs(begins.numpy()).max() <= 0.01
    ids = ranker.members[0].items.features.embeddings["item_id"].embeddings
    ranker.compile(default_optimizer(TrainingConfig(optimizer="adam", average_weights=False)))
    ranker.optimizer.build(ranker.trainable_variables)
    gradients = gradients_of(ranker, page)[1]
    ranker.optimizer.apply_gradients(zip(gradients, ranker.trainable_variables, strict=True))
    first = ids.numpy()
    none = [tf.zeros(variable.shape) for variable in ranker.trainable_variables]
    ranker.optimizer.apply_gradients(zip(none, ranker.trainable_variables, strict=True))
    assert np.abs(ids.numpy() - first).max() > 0  # by their momentum
    begin(ranker, 1)
    assert np.abs(ids.numpy()).max() <= 0.05


def test_new_values_depend_on_seed_and_epoch_alone(trained):
    first = begin(trained, 1)
    for other, same in ((begin(trained, 1), True), (begin(trained, 1, seed=1), False)):
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True)) == same
    trained.optimizer.iterations.assign(2 * STEPS)
    assert not all(np.array_equal(a, b) for a, b in zip(first, begin(trained, 2), strict=True))


def test_an_epoch_that_has_begun_goes_on(trained):
    """The first one; and those that a run goes on in, whether steps or validation alone are left."""
    before = values(trained)
    for epoch, steps in ((0, 0), (0, STEPS), (1, STEPS + 1), (1, 2 * STEPS)):
        trained.optimizer.iterations.assign(steps)
        for ours, theirs in zip(begin(trained, epoch), before, strict=True):
            np.testing.assert_array_equal(ours, theirs)
