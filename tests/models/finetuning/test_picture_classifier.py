import keras
import numpy as np
import pytest
import tensorflow as tf

from models.finetuning.picture_classifier import PictureClassifier, label_ranks
from models.finetuning.product_encoder import ProductEncoder
from models.vision.convnet import ConvNet
from models.vision.encoder import ImageEncoder


def make_encoder():
    keras.utils.set_random_seed(0)
    return ImageEncoder(ConvNet(widths=[4, 8], depths=[0, 0], kernel=3, grid=[1, 1]), 6)


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (8, 12, 8, 3)).astype(np.uint8)


def test_ranks_put_equal_logits_before_the_label():
    logits = tf.constant([[3.0, 1, 2], [1, 1, 1], [0, 5, 5], [0, 1, 2]])
    assert label_ranks(logits, tf.constant([0, 2, 1, 0])).numpy().tolist() == [1, 3, 2, 3]


def test_metrics_are_shares_of_the_labelled_pictures(pictures):
    model = PictureClassifier(make_encoder(), classes=7)
    model.compile("sgd")
    labels = np.array([0, 1, 2, 3, 4, 5, -1, -1])
    measured = model.evaluate(
        tf.data.Dataset.from_tensor_slices((pictures, labels)).batch(3), return_dict=True, verbose=0
    )
    ranks = label_ranks(model(pictures), tf.constant(labels)).numpy()[:6]
    assert measured["top1"] == pytest.approx((ranks <= 1).mean())
    assert measured["top5"] == pytest.approx((ranks <= 5).mean())


@pytest.mark.parametrize("make", [lambda: PictureClassifier(make_encoder(), 3), lambda: ProductEncoder(make_encoder())])
def test_two_replicas_equal_one(make, pictures):
    targets = np.array([0, 1, 2, 0, 1, 2, 0, 0])
    trained = []
    for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
        strategy = tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())
        with strategy.scope():
            model = make()
            model.compile(keras.optimizers.SGD(0.5))
        batches = tf.data.Dataset.from_tensor_slices((pictures, targets)).batch(8)
        losses = model.fit(batches, epochs=3, verbose=0, shuffle=False).history["loss"]
        trained.append((losses, model.get_weights()))
    (one, weights), (two, others) = trained
    np.testing.assert_allclose(two, one, rtol=1e-4)
    assert one[0] != one[-1]
    for actual, expected in zip(others, weights, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="`classes` must be at least 2"):
        PictureClassifier(make_encoder(), classes=1)
    with pytest.raises(ValueError, match="`temperature` must be more than 0"):
        ProductEncoder(make_encoder(), temperature=0)
