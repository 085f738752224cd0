import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import erf

from models.vision.convnet import EPSILON, ConvNet


def conv_reference(x, kernel, bias, stride, depthwise=False):
    """'same' convolution of one picture, position by position."""
    side = kernel.shape[0]
    rows, columns = -(-x.shape[0] // stride), -(-x.shape[1] // stride)
    missing = [max((n - 1) * stride + side - length, 0) for n, length in zip((rows, columns), x.shape[:2], strict=True)]
    x = np.pad(x, [*((m // 2, m - m // 2) for m in missing), (0, 0)])
    out = []
    for row, column in np.ndindex(rows, columns):
        patch = x[row * stride : row * stride + side, column * stride : column * stride + side]
        if depthwise:
            out.append((patch * kernel[..., 0]).sum(axis=(0, 1)) + bias)
        else:
            out.append(np.tensordot(patch, kernel, 3) + bias)
    return np.array(out).reshape(rows, columns, -1)


def norm_reference(x, layer):
    gamma, beta = (np.array(w) for w in layer.weights)
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPSILON) * gamma + beta


def reference(net: ConvNet, picture: np.ndarray) -> np.ndarray:
    """The network written out for one picture."""
    x, features = picture.astype(np.float64), []
    for stage in range(len(net.widths)):
        kernel, bias = (np.array(w) for w in net.reductions[stage].weights)
        if stage:
            x = conv_reference(norm_reference(x, net.reduction_norms[stage]), kernel, bias, 2)
        else:
            x = norm_reference(conv_reference(x, kernel, bias, 4), net.reduction_norms[stage])
        for block in net.blocks[stage]:
            hidden = conv_reference(x, *(np.array(w) for w in block.depthwise.weights), 1, depthwise=True)
            hidden = norm_reference(hidden, block.norm) @ np.array(block.expand.kernel) + np.array(block.expand.bias)
            hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
            x = x + hidden @ np.array(block.reduce.kernel) + np.array(block.reduce.bias)
        features.append(norm_reference(x, net.feature_norms[stage]).mean(axis=(0, 1)))
    rows, columns = net.grid
    for row, column in np.ndindex(rows, columns):
        top, left = row * x.shape[0] // rows, column * x.shape[1] // columns
        bottom, right = -(-(row + 1) * x.shape[0] // rows), -(-(column + 1) * x.shape[1] // columns)
        features.append(x[top:bottom, left:right].mean(axis=(0, 1)))
    return np.concatenate(features)


def randomised(net: ConvNet) -> ConvNet:
    """With weights that are all different, biases and scales too."""
    net.build((None, None, None, 3))
    rng = np.random.default_rng(0)
    for weight in net.weights:
        weight.assign(np.array(weight) + rng.normal(0, 0.2, weight.shape))
    return net


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((24, 16), {"widths": (4, 6), "depths": (1, 2), "kernel": 3}),
        ((24, 16), {"widths": (4,), "depths": (0,), "grid": (1, 1)}),
        ((24, 17), {"widths": (4,), "depths": (0,), "grid": (1, 3)}),
        ((23, 16), {"widths": (4,), "depths": (0,), "grid": (2, 1)}),
        ((30, 17), {"widths": (4, 6, 8), "depths": (1, 0, 1), "kernel": 5, "grid": (2, 3)}),
        ((5, 4), {"widths": (4, 6), "depths": (1, 1), "kernel": 3, "grid": (2, 2)}),
    ],
)
def test_features_equal_the_network_written_out(size, settings):
    net = randomised(ConvNet(**settings))
    pictures = np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)
    features = np.array(net(pictures))
    assert features.shape == (2, net.features)
    np.testing.assert_allclose(features, [reference(net, p) for p in pictures], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(tf.function(net)(pictures), features, rtol=1e-4, atol=1e-4)


def test_a_constant_grid_cell_is_the_cell():
    """Closed form: with no blocks, a picture of one colour gives the same features in every cell."""
    net = randomised(ConvNet(widths=(4,), depths=(0,), grid=(3, 2)))
    features = np.array(net(np.full((1, 24, 16, 3), 0.3, np.float32)))[0]
    cells = features[4:].reshape(6, 4)
    np.testing.assert_allclose(cells, np.tile(cells[0], (6, 1)), atol=1e-6)


def test_drop_path_skips_whole_branches_in_training_only():
    keras.utils.set_random_seed(0)
    net = randomised(ConvNet(widths=(4,), depths=(2,), kernel=3, drop_path=0.5))
    pictures = np.tile(np.random.default_rng(0).normal(size=(1, 16, 16, 3)), (64, 1, 1, 1)).astype(np.float32)
    plain, dropped = np.array(net(pictures)), np.array(net(pictures, training=True))
    np.testing.assert_allclose(plain, np.tile(plain[:1], (64, 1)), atol=1e-5)
    # The first block is always kept, the second kept (and doubled) or not: two kinds of pictures.
    assert len(np.unique(dropped.round(4), axis=0)) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (4, 8), "depths": (1,)}, "`depths` must have one value per stage"),
        ({"grid": (3,)}, "`grid` must have two values"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ConvNet(**settings)
