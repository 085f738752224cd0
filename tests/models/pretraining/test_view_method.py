"""What holds for every method that compares views of pictures."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.simclr import SimCLR
from models.training.training_state import read_training_state, write_training_state
from models.vision.convnet import ConvNet
from models.vision.encoder import ImageEncoder
from tests.models.courier_batch import mirrored

METHODS = {
    "SimCLR": lambda encoder: SimCLR(encoder, hidden_dim=6, projection_dim=5),
}
every_method = pytest.mark.parametrize("method", METHODS)


def make(method, dropout=0.0, learning_rate=0.05):
    keras.utils.set_random_seed(0)
    encoder = ImageEncoder(ConvNet((4, 4), (0, 1), 3, (1, 1), drop_path=dropout), 6)
    model = METHODS[method](encoder)
    model.compile(keras.optimizers.Adam(learning_rate), run_eagerly=True)
    return model


def draw_batch(numbers, seed=0, padding=0):
    """A batch as `PretrainingPages` makes it, of pictures with these numbers and as many black ones."""
    picture = np.random.default_rng(seed).integers(0, 256, (200, 16, 12, 3)).astype(np.uint8)
    ids = np.concatenate([numbers, np.full(padding, -1)]).astype(np.int32)
    shown = np.where((ids >= 0)[:, None, None, None], picture[ids], 0).astype(np.uint8)
    pages = np.zeros((1, 1), np.int32)
    return {
        "pictures": shown,
        "picture_id": ids,
        "candidate_picture": pages,
        "click_picture": pages,
        "clicked": pages == 0,
    }


def dataset(batches):
    signature = {name: tf.TensorSpec((None, *value.shape[1:]), value.dtype) for name, value in draw_batch([0]).items()}
    made = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)
    return made.apply(tf.data.experimental.assert_cardinality(len(batches)))


def one_step(method, parts):
    """Of one training step: the reports, the gradients, and all variables behind it; a replica for each part."""
    strategy = mirrored([f"CPU:{i}" for i in range(len(parts))])
    with strategy.scope():
        model = make(method)
    gradients = []

    def step(batch):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x=batch, y_pred=model(batch, training=True), training=True)
        own = [tf.convert_to_tensor(g) for g in tape.gradient(loss, model.trainable_weights)]
        return tf.distribute.get_replica_context().all_reduce("SUM", [loss, *own])

    for part in strategy.distribute_datasets_from_function(lambda _: dataset(parts)):
        sums = strategy.run(step, (part,))
        loss, *gradients = (strategy.experimental_local_results(value)[0].numpy() for value in sums)
    states = [keras.ops.convert_to_numpy(state) for state in model.non_trainable_variables]
    return {"loss": loss, **model.get_metrics_result()}, gradients, states


@every_method
def test_two_replicas_learn_what_one_learns(method):
    """Pictures that both have count once."""
    whole = one_step(method, [draw_batch([5, 90, 33, 7, 120], padding=2)])
    divided = one_step(method, [draw_batch([5, 90, 33], padding=1), draw_batch([7, 33, 120, 5])])
    for name in whole[0].keys() - {"pictures"}:
        assert float(divided[0][name]) == pytest.approx(float(whole[0][name]), rel=1e-4, abs=1e-5), name
    for one, two in zip(whole[1], divided[1], strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-3, atol=2e-5)
    for one, two in zip(whole[2], divided[2], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    assert max(np.abs(gradient).max() for gradient in whole[1]) > 1e-3


@every_method
def test_content_of_padding_does_not_matter(method):
    batch = draw_batch([3, 4, 5, 6], padding=3)
    losses = []
    for colour in (0, 200):
        model = make(method)
        batch["pictures"][4:] = colour
        tensors = {name: tf.constant(value) for name, value in batch.items()}
        losses.append(float(model.compute_loss(x=tensors, y_pred=model(tensors, training=True))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@every_method
def test_an_interrupted_run_goes_on_exactly(method):
    """Views, dropped paths and everything else that a method remembers go on as if nothing had happened."""
    batches = [draw_batch(np.random.default_rng(n).permutation(30)[:6], padding=1) for n in range(6)]
    whole = make(method, dropout=0.5)
    whole.fit(dataset(batches), verbose=0)
    first = make(method, dropout=0.5)
    first.fit(dataset(batches[:3]), verbose=0)
    state = {name: array.copy() for name, array in read_training_state(first).items()}
    second = make(method, dropout=0.5)
    second.prepare_fit()
    second.view_seed.state.assign([7, 7])
    write_training_state(second, state)
    second.fit(dataset(batches[3:]), verbose=0)
    expected, actual = read_training_state(whole), read_training_state(second)
    for name, value in expected.items():
        if not name.startswith("metrics"):
            np.testing.assert_array_equal(actual[name], value, err_msg=name)
    assert any((state[name] != value).any() for name, value in expected.items())


@every_method
def test_validation_sees_the_same_views_each_time(method):
    model, batches = make(method), [draw_batch([1, 2, 3, 4])]
    before = [keras.ops.convert_to_numpy(value) for value in model.variables]
    losses = [model.evaluate(dataset(batches), verbose=0, return_dict=True)["loss"] for _ in range(2)]
    assert losses[0] == losses[1]
    for value, expected in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(value), expected)


@every_method
def test_the_loss_of_the_user_takes_the_place_of_the_method_s(method):
    model = make(method)
    model.compile(keras.optimizers.SGD(0.01), loss="mse", metrics=["mse"], run_eagerly=True)
    reported = model.evaluate(dataset([draw_batch([1, 2, 3, 4], padding=2)]), verbose=0, return_dict=True)
    assert reported["mse"] == pytest.approx(reported["loss"], rel=1e-5)
    assert reported["loss"] > 0
