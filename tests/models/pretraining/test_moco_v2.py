import keras
import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.moco_v2 import MoCoV2, enqueue, queue_contrast
from models.vision.efficientnet_lite import EfficientNetLite
from models.vision.encoder import ImageEncoder
from tests.models.courier_batch import Table


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def draw(rows, length, dim, seed=0):
    rng = np.random.default_rng(seed)
    return [unit(rng.normal(size=(n, dim))) for n in (rows, rows, length)], rng.random((rows, length)) < 0.7


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("length", [1, 20])
@pytest.mark.parametrize("dim", [2, 16])
@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_equals_the_equation(rows, length, dim, temperature):
    (queries, keys, queue), possible = draw(rows, length, dim, rows)
    expected = []
    for i in range(rows):
        own = queries[i].astype(float) @ keys[i] / temperature
        others = [queries[i].astype(float) @ queue[j] / temperature for j in range(length) if possible[i, j]]
        expected.append(np.log(1 + sum(np.exp(other - own) for other in others)))
    actual = queue_contrast(queries, keys, queue, possible=possible, temperature=temperature)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_collapse_is_the_logarithm_of_the_queue_and_the_key():
    same = unit(np.ones((4, 3)))
    loss = queue_contrast(same, same, unit(np.ones((50, 3))), possible=np.ones((4, 50), bool), temperature=0.2)
    np.testing.assert_allclose(loss, np.log(51), rtol=1e-6)


def test_the_order_of_the_queue_does_not_matter():
    (queries, keys, queue), possible = draw(3, 12, 4)
    order = np.random.default_rng(1).permutation(12)
    first, second = (
        queue_contrast(queries, keys, queue[o], possible=possible[:, o], temperature=0.2)
        for o in (np.arange(12), order)
    )
    np.testing.assert_allclose(first, second, rtol=1e-5)


def test_a_queue_has_the_last_keys_in_their_order():
    queue, came = np.zeros(5, np.int32), []
    for first, many in ((1, 2), (3, 1), (4, 9), (13, 3), (16, 0)):
        came += range(first, first + many)
        queue = enqueue(queue, np.arange(first, first + many, dtype=np.int32)).numpy()
        assert queue.tolist() == [0] * (5 - len(came)) + came[-5:]


def make(momentum=0.9, **options):
    keras.utils.set_random_seed(0)
    model = MoCoV2(Table(), queue_length=6, momentum=momentum, hidden_dim=6, projection_dim=5, **options)
    model.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    model.prepare_fit()
    return model


def batch(*picture_id):
    pictures = np.tile(np.array(picture_id)[:, None, None, None] % 250, (1, 2, 2, 3)).astype(np.uint8)
    return {"pictures": tf.constant(pictures), "picture_id": tf.constant(picture_id, tf.int32)}


def test_keys_join_the_queue_behind_the_loss_without_padding():
    model = make(augmentation_strength=0.0)
    before = model.queue.numpy()
    np.testing.assert_allclose(np.linalg.norm(before, axis=1), 1, rtol=1e-5)
    step = batch(11, 12, -1, 13)
    y_pred = model(step, training=True)
    loss = float(model.compute_loss(x=step, y_pred=y_pred, training=True))
    queries, keys = unit(y_pred["view_1"].numpy()), unit(y_pred["view_2"].numpy())
    counted = [0, 1, 3]
    expected = queue_contrast(queries, keys, before, possible=np.ones((4, 6), bool), temperature=0.2)
    assert loss == pytest.approx(expected.numpy()[counted].mean(), rel=1e-5)
    np.testing.assert_allclose(model.queue.numpy(), np.concatenate([before[3:], keys[counted]]), rtol=1e-5)
    assert model.queue_picture.numpy().tolist() == [-1, -1, -1, 11, 12, 13]

    # A picture that comes again is not told from its own earlier key.
    model.queue.assign(np.repeat(keys[:1], 6, axis=0))
    model.queue_picture.assign([11] * 6)
    again = batch(11)
    y_pred = model(again, training=False)
    assert float(model.compute_loss(x=again, y_pred=y_pred, training=False)) == pytest.approx(0, abs=1e-6)
    assert model.queue_picture.numpy().tolist() == [11] * 6  # validation leaves the queue alone


@pytest.mark.parametrize("momentum", [0.0, 0.75, 1.0])
def test_the_key_encoder_follows_after_the_step(momentum):
    model = make(momentum)
    keys = [weight.numpy() for weight in (*model.key_encoder.weights, *model.key_head.weights)]
    originals = (*model.encoder.weights, *model.head.weights)
    for key, original in zip(keys, originals, strict=True):
        np.testing.assert_array_equal(key, original.numpy())
    model.train_step(batch(1, 2, 3))
    followed = (*model.key_encoder.weights, *model.key_head.weights)
    for before, now, original in zip(keys, followed, originals, strict=True):
        if momentum in (0.0, 1.0):
            np.testing.assert_array_equal(now.numpy(), before if momentum else original.numpy())
        else:
            np.testing.assert_allclose(now.numpy(), 0.75 * before + 0.25 * original.numpy(), rtol=1e-5, atol=1e-7)
    assert max(np.abs(k - o.numpy()).max() for k, o in zip(keys, originals, strict=True)) > 1e-3


def test_keys_and_queue_have_no_gradient():
    model = make()
    step = batch(1, 2, 3)
    watched = [*model.key_encoder.weights, *model.key_head.weights, model.queue]
    with tf.GradientTape() as tape:
        tape.watch([weight.value for weight in watched])
        loss = model.compute_loss(x=step, y_pred=model(step, training=True))
    assert all(gradient is None for gradient in tape.gradient(loss, [weight.value for weight in watched]))
    assert not {id(weight) for weight in watched} & {id(weight) for weight in model.trainable_weights}


def test_batch_statistics_are_refused():
    encoder = ImageEncoder(EfficientNetLite(stages=(1,), batch_statistics=True), None)
    with pytest.raises(ValueError, match="`encoder` must not normalize over batches"):
        MoCoV2(encoder)
