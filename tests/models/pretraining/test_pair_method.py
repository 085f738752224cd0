"""What holds for every method that compares two vectors of each picture."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.clip import Clip
from models.pretraining.m6_moe import M6MoE
from models.pretraining.mask_clip import MaskClip
from models.pretraining.moco_v2 import MoCoV2
from models.pretraining.simclr import SimCLR
from models.pretraining.simsiam import SimSiam
from models.pretraining.swav import SwAV
from models.pretraining.title_contrast import TitleContrast
from models.text.bert import Bert
from models.text.encoder import TextEncoder
from models.training.training_state import read_training_state, write_training_state
from models.vision.convnet import ConvNet
from models.vision.encoder import ImageEncoder
from models.vision.m6 import M6
from tests.models.courier_batch import draw_titles, mirrored


def clip(encoder):
    bert = Bert(12, 1, 8, 2, positions=4, dropout=encoder.backbone.drop_path)
    return Clip(encoder, TitleContrast(TextEncoder(bert, 6), 0.2))


def m6(encoder):
    backbone = M6(4, 8, 1, 2, 3, 6, capacity_factor=None, vocabulary=12)
    return M6MoE(ImageEncoder(backbone, 6), title_share=0.7, balance_weight=0.1)


def mask_clip(encoder):
    text_encoder = TextEncoder(Bert(12, 1, 8, 2, positions=4, dropout=encoder.backbone.drop_path), 6)
    return MaskClip(encoder, TitleContrast(text_encoder, 0.2), momentum=0.8, hidden_dim=5)


METHODS = {
    "MaskCLIP": mask_clip,
    "CLIP": clip,
    "M6": m6,
    "SimCLR": lambda encoder: SimCLR(encoder, hidden_dim=6, projection_dim=5),
    "SimSiam": lambda encoder: SimSiam(encoder, projection_dim=6, hidden_dim=4),
    "MoCoV2": lambda encoder: MoCoV2(encoder, queue_length=9, momentum=0.8, hidden_dim=6, projection_dim=5),
    "SwAV": lambda encoder: SwAV(
        encoder, prototypes=3, small_crops=1, freeze_steps=1, queue_length=5, hidden_dim=6, projection_dim=5
    ),
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
        "tokens": draw_titles(ids),
    }


def dataset(batches):
    signature = {name: tf.TensorSpec((None, *value.shape[1:]), value.dtype) for name, value in draw_batch([0]).items()}
    made = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)
    return made.apply(tf.data.experimental.assert_cardinality(len(batches)))


def two_steps(method, batches, replicas):
    """What is reported of training steps, what they change, and all variables behind them."""
    strategy = mirrored([f"CPU:{i}" for i in range(replicas)])
    with strategy.scope():
        model = make(method)
        model.compile(keras.optimizers.SGD(0.5), run_eagerly=True)
    before = [value.numpy() for value in model.trainable_variables]
    data = strategy.distribute_datasets_from_function(lambda _: dataset(batches))
    logs = model.fit(data, steps_per_epoch=2, verbose=0, shuffle=False).history
    learnt = [value.numpy() - old for value, old in zip(model.trainable_variables, before, strict=True)]
    return logs, learnt, [keras.ops.convert_to_numpy(value) for value in model.variables]


@every_method
def test_two_replicas_learn_what_one_learns(method):
    """Pictures that both have count once."""
    whole = [draw_batch([5, 90, 33, 7, 120], padding=2), draw_batch([1, 90, 2, 3])]
    parts = [
        draw_batch([5, 90, 33], padding=1),
        draw_batch([7, 33, 120, 5]),
        draw_batch([1, 90]),
        draw_batch([2, 3], padding=1),
    ]
    (logs, learnt, after), (logs_2, _, after_2) = two_steps(method, whole, 1), two_steps(method, parts, 2)
    for name in logs.keys() - {"pictures"}:
        assert logs_2[name] == pytest.approx(logs[name], rel=1e-3, abs=1e-5), name
    for one, two in zip(after, after_2, strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-3, atol=1e-4)
    assert max(np.abs(change).max() for change in learnt) > 1e-2


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
    batches = [draw_batch(np.random.default_rng(n).permutation(30)[:6], padding=1) for n in range(3)]
    whole = make(method, dropout=0.5)
    whole.fit(dataset(batches), verbose=0)
    first = make(method, dropout=0.5)
    first.fit(dataset(batches[:2]), verbose=0)
    state = {name: array.copy() for name, array in read_training_state(first).items()}
    second = make(method, dropout=0.5)
    second.prepare_fit()
    for seed in {"view_seed", "mask_seed"} & {*vars(second)}:
        getattr(second, seed).state.assign([7, 7])
    write_training_state(second, state)
    second.fit(dataset(batches[2:]), verbose=0)
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


def test_a_step_is_traced_once_whatever_the_number_of_pictures():
    model = make("SimSiam")
    traces = []

    def train_step(data):
        traces.append(data)
        return SimSiam.train_step(model, data)

    model.train_step = train_step
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(dataset([draw_batch([3, 4, 5]), draw_batch([6, 7]), draw_batch([8])]), verbose=0)
    assert len(traces) == 1
