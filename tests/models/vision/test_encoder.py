import keras
import numpy as np
import pytest
from keras import ops

from beam_pipelines.format.errors import InputError
from models.config import load_config
from models.vision.backbone import MEAN, STDDEV
from models.vision.config import (
    ConvNetConfig,
    EfficientNetLiteConfig,
    EncoderConfig,
    SwinConfig,
    build_encoder,
    load_pretrained,
)
from models.vision.convnet import ConvNet
from models.vision.efficientnet_lite import EfficientNetLite
from models.vision.encoder import ImageEncoder
from models.vision.swin import Swin
from models.vision.torch_checkpoint import read_torch_checkpoint
from tests.models.fixtures.make_swin_fixtures import HERE, TINY

BACKBONES = {
    "swin": SwinConfig(dim=8, depths=(1, 2), num_heads=(2, 4)),
    "convnet": ConvNetConfig(widths=(8, 16), depths=(1, 1)),
    "efficientnet_lite": EfficientNetLiteConfig(stages=(1, 2)),
}
each_backbone = pytest.mark.parametrize("name", BACKBONES)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def encoder_of(name: str, dtype: str = "float32") -> ImageEncoder:
    return build_encoder(EncoderConfig(embedding_dim=6, backbone=BACKBONES[name]), dtype)


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)


@each_backbone
def test_embeddings_are_projected_features_of_normalised_pictures(name):
    encoder = encoder_of(name)
    batch = pictures(3, 32, 40)
    mean, stddev = {"efficientnet_lite": (127.0, 128.0)}.get(name, (np.array(MEAN), STDDEV))
    features = ops.convert_to_numpy(encoder.backbone(((batch - mean) / stddev).astype(np.float32)))
    assert features.shape == (3, encoder.backbone.features)
    kernel, bias = encoder.projection.get_weights()
    np.testing.assert_allclose(encoder(batch), features @ kernel + bias, atol=1e-5)


@each_backbone
def test_without_a_projection_kernel_only_the_bias_is_left(name):
    encoder = encoder_of(name)
    bias = np.arange(6, dtype=np.float32)
    encoder.projection.set_weights([np.zeros((encoder.backbone.features, 6)), bias])
    np.testing.assert_array_equal(encoder(pictures(2, 32, 32)), np.tile(bias, (2, 1)))


@each_backbone
def test_the_order_of_pictures_changes_nothing_but_the_order(name):
    encoder = encoder_of(name)
    batch = pictures(4, 24, 24)
    np.testing.assert_allclose(encoder(batch[::-1]), encoder(batch)[::-1], atol=1e-5)


@each_backbone
def test_no_gradient_reaches_another_picture(name):
    import tensorflow as tf

    backbone = encoder_of(name).backbone
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(backbone(x, training=True)[0] ** 2)
    gradient = tape.gradient(loss, x).numpy()
    assert np.abs(gradient[0]).max() > 0
    assert np.abs(gradient[1]).max() == 0


@each_backbone
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_saved_encoder_is_the_same(name, dtype, tmp_path):
    encoder = encoder_of(name, dtype)
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    assert loaded.backbone.get_config() == encoder.backbone.get_config()
    assert (loaded.embedding_dim, loaded.dtype_policy.name) == (6, dtype)
    batch = pictures(2, 32, 32)
    assert keras.backend.standardize_dtype(loaded(batch).dtype) == "float32"
    np.testing.assert_array_equal(loaded(batch), encoder(batch))


@each_backbone
def test_a_configuration_builds_its_backbone(name):
    encoder = encoder_of(name)
    assert type(encoder.backbone) is {"swin": Swin, "convnet": ConvNet, "efficientnet_lite": EfficientNetLite}[name]
    config, arguments = encoder.backbone.get_config(), BACKBONES[name].model_dump(exclude={"name"})
    assert {key: config[key] for key in arguments} == arguments


def test_without_a_projection_features_are_the_embeddings(tmp_path):
    encoder = build_encoder(EncoderConfig(embedding_dim=None, backbone=BACKBONES["convnet"]))
    batch = pictures(3, 32, 24)
    features = encoder.backbone(((batch - np.array(MEAN)) / STDDEV).astype(np.float32))
    np.testing.assert_allclose(encoder(batch), features, atol=1e-5)
    assert encoder.embedding_dim == encoder.backbone.features
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(loaded(batch), encoder(batch))
    copy = encoder.with_precision("mixed_bfloat16")
    np.testing.assert_allclose(copy(batch), features, rtol=0.05, atol=0.05)
    assert (loaded.projection, copy.projection) == (None, None)


def test_the_length_of_embeddings_must_be_positive():
    with pytest.raises(ValueError, match=r"`embedding_dim` must be at least 1. Received: 0"):
        ImageEncoder(ConvNet((8,), (1,)), embedding_dim=0)


def test_published_weights_fill_the_backbone_and_leave_the_projection(tmp_path):
    path = HERE / "torchvision.pth"
    section = "{name: swin, " + ", ".join(f"{key}: {value}" for key, value in TINY.items()) + "}"
    section = section.replace("(", "[").replace(")", "]")
    config = load_config(EncoderConfig, None, [f"backbone={section}", f"weights={path}"])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(EncoderConfig, str(tmp_path / "config.yaml")) == config
    encoder = build_encoder(config)
    projection = encoder.projection.get_weights()
    assert load_pretrained(encoder, config).publisher == "torchvision"
    np.testing.assert_array_equal(encoder.backbone.norm.gamma, read_torch_checkpoint(path)["norm.weight"])
    for before, after in zip(projection, encoder.projection.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_without_a_file_weights_stay_random():
    encoder = encoder_of("swin")
    before = encoder.get_weights()
    assert load_pretrained(encoder, EncoderConfig(backbone=BACKBONES["swin"])) is None
    for one, two in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_mistakes_about_weights_are_one_clear_line():
    config = load_config(EncoderConfig, None, ["weights=nowhere.pth", "backbone={name: swin}"])
    with pytest.raises(InputError, match=r"no weight file nowhere.pth"):
        load_pretrained(build_encoder(config), config)
    with pytest.raises(InputError, match=r"are for the backbones swin and efficientnet_lite. Received: convnet"):
        load_config(EncoderConfig, None, ["weights=swin.pth", "backbone={name: convnet}"])
    for backbone, received in (
        ("swin", "swin"),
        ("efficientnet_lite, variant: 1", "efficientnet_lite of variant 1"),
    ):
        with pytest.raises(InputError, match=f"weights efficientnet_lite0 are for .* Received: {received}"):
            load_config(EncoderConfig, None, ["weights=efficientnet_lite0", f"backbone={{name: {backbone}}}"])
    with pytest.raises(InputError, match=r"stages must ascend. Received: \[3, 2\]"):
        load_config(EncoderConfig, None, ["backbone={name: efficientnet_lite, stages: [3, 2]}"])
