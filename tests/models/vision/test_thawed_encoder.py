import keras
import numpy as np
import pytest
import tensorflow as tf

from models.vision.convnet import ConvNet
from models.vision.efficientnet_lite import EfficientNetLite
from models.vision.encoder import ImageEncoder
from models.vision.thawed_encoder import ThawedEncoder

SIZE = (24, 17)  # 17: the map of an odd width


def encoder_of(frozen: int, stages=(1, 3, 4), **options) -> ImageEncoder:
    keras.utils.set_random_seed(0)
    return ImageEncoder(EfficientNetLite(stages=stages, frozen_stages=frozen, **options), embedding_dim=5)


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (6, *SIZE, 3)).astype(np.uint8)


@pytest.mark.parametrize("frozen", [1, 2, 4])
@pytest.mark.parametrize("batch_statistics", [False, True])
def test_it_gives_the_embeddings_and_gradients_of_the_whole_encoder(pictures, frozen, batch_statistics):
    encoder = encoder_of(frozen, batch_statistics=batch_statistics)
    thawed = ThawedEncoder(encoder, SIZE)
    kept = np.concatenate([thawed.frozen(pictures[:4]), thawed.frozen(pictures[4:])])
    assert kept.shape == (6, thawed.length)
    options = {"valid": np.arange(6) < 5} if batch_statistics else {}
    found = {}
    for name, network, inputs in (("whole", encoder, pictures), ("thawed", thawed, kept)):
        with tf.GradientTape() as tape:
            embeddings = network(inputs, training=True, **options)
            loss = tf.reduce_sum(tf.sin(embeddings))
        weights = [weight.value for weight in network.trainable_weights]
        found[name] = [embeddings, *tape.gradient(loss, weights)]
    assert len(found["whole"]) > 1
    for one, other in zip(found["whole"], found["thawed"], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def test_frozen_stages_drop_no_block(pictures):
    encoder = encoder_of(4, drop_path=0.9)
    np.testing.assert_array_equal(encoder(pictures, training=True), encoder(pictures))


def test_weights_are_those_of_the_encoder(pictures):
    encoder = encoder_of(2)
    thawed = ThawedEncoder(encoder, SIZE)
    copy = encoder_of(2)
    copy.set_weights([weight + 0.1 for weight in thawed.get_weights()])
    for weight in thawed.trainable_weights:
        weight.assign_add(0.1)
    assert len(thawed.trainable_weights) < len(encoder.weights)
    assert all(
        np.array_equal(one, other) for one, other in zip(copy.trainable_weights, encoder.trainable_weights, strict=True)
    )


@pytest.mark.parametrize("backbone", [EfficientNetLite(stages=(1,)), ConvNet(widths=[4], depths=[1])])
def test_an_encoder_without_frozen_stages_is_refused(backbone):
    with pytest.raises(ValueError, match="`encoder` must have a backbone with frozen stages"):
        ThawedEncoder(ImageEncoder(backbone, embedding_dim=3), SIZE)
