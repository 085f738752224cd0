import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from models.vision.encoder import ImageEncoder
from models.vision.swin import PatchMerging, Swin, SwinBlock
from models.vision.window_attention import WindowAttention

SMALL = {"patch_size": 4, "dim": 8, "depths": (2, 1), "num_heads": (2, 4), "window": 4}


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)


def small_encoder(dtype: str = "float32", **changes) -> ImageEncoder:
    return ImageEncoder(Swin(**{**SMALL, **changes}, dtype=dtype), embedding_dim=8, dtype=dtype)


def brute_force_attention(layer: WindowAttention, x: np.ndarray) -> np.ndarray:
    """Attends, for every position of one map, to the explicit set of positions that share its shifted window."""
    height, width, channels = x.shape
    dim = channels // layer.num_heads
    (qkv_kernel, qkv_bias), (kernel, bias) = layer.qkv.get_weights(), layer.proj.get_weights()
    table = np.asarray(layer.relative_position_bias_table)
    out = np.zeros_like(x)
    for r in range(height):
        for c in range(width):
            # Shifting by s starts the windows at s, s + window, ...; what lies before s is cut off from the far edge.
            cell = lambda i, j: ((i - layer.shift) // layer.window, (j - layer.shift) // layer.window)  # noqa: E731
            near = [(i, j) for i in range(height) for j in range(width) if cell(i, j) == cell(r, c)]
            for head in range(layer.num_heads):
                at = slice(head * dim, (head + 1) * dim)

                def part(i, j, third, at=at):
                    return (x[i, j] @ qkv_kernel + qkv_bias)[third * channels : (third + 1) * channels][at]

                scores = []
                for i, j in near:
                    row = (r - i + layer.window - 1) * (2 * layer.window - 1) + (c - j + layer.window - 1)
                    scores.append(part(r, c, 0) @ part(i, j, 1) / np.sqrt(dim) + table[row, head])
                weights = np.exp(scores - np.max(scores))
                weights /= weights.sum()
                out[r, c, at] = sum(w * part(i, j, 2) for w, (i, j) in zip(weights, near, strict=True))
    return out @ kernel + bias


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_window_attention_equals_attention_over_explicit_neighbours(shift):
    layer = WindowAttention(num_heads=2, window=4, shift=shift)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 6)).astype(np.float32)
    layer.build(x.shape)
    layer.relative_position_bias_table.assign(np.random.default_rng(1).normal(size=(49, 2)))
    layer.qkv.bias.assign(np.random.default_rng(2).normal(size=18))
    actual = ops.convert_to_numpy(layer(x))
    for one, expected in zip(actual, x, strict=True):
        np.testing.assert_allclose(one, brute_force_attention(layer, expected), atol=1e-5)


def test_window_that_covers_the_map_does_not_shift_and_zero_pads():
    shifted, plain = (WindowAttention(num_heads=2, window=7, shift=shift) for shift in (3, 0))
    x = np.random.default_rng(0).normal(size=(1, 5, 7, 4)).astype(np.float32)
    for layer in (shifted, plain):
        layer.build(x.shape)
    plain.set_weights(shifted.get_weights())
    np.testing.assert_array_equal(shifted(x), plain(x))
    # torchvision keeps the window and pads: the same as padding by hand before the layer.
    padded = np.pad(x, [(0, 0), (0, 2), (0, 0), (0, 0)])
    np.testing.assert_allclose(plain(x), plain(padded)[:, :5], atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (3, 5)])
@pytest.mark.parametrize("shift", [0, 2])
def test_positions_come_back_to_their_places(size, shift):
    layer = WindowAttention(num_heads=1, window=4, shift=shift)
    layer.build((None, None, None, 3))
    # Each position attends to itself alone, and values and projection are the identity.
    layer.qkv.set_weights([np.tile(np.eye(3), 3) * np.repeat([0, 0, 1], 3), np.zeros(9)])
    layer.proj.set_weights([np.eye(3), np.zeros(3)])
    layer.relative_position_bias_table.assign(80.0 * (np.arange(49) == 24)[:, None])
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    np.testing.assert_allclose(layer(x), x, atol=1e-6)


def test_one_side_shifts_alone_where_the_window_covers_the_other():
    layer = WindowAttention(num_heads=1, window=4, shift=2)
    x = np.random.default_rng(0).normal(size=(1, 4, 8, 3)).astype(np.float32)
    base = ops.convert_to_numpy(layer(x))
    x[0, 0, 3] += 1.0  # columns 2-5 form a window; columns 0-1 and 6-7 are apart from it and from each other
    changed = np.abs(ops.convert_to_numpy(layer(x)) - base)[0].max(axis=(0, 2)) > 1e-7
    assert changed.tolist() == [False, False, True, True, True, True, False, False]


def test_patch_merging_joins_neighbours_in_the_published_order():
    layer = PatchMerging()
    layer.build((None, None, None, 1))
    x = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    layer.reduction.kernel.assign(np.eye(4)[:, :2])  # shows the first two of the four neighbours
    merged = ops.convert_to_numpy(layer(x))
    assert merged.shape == (1, 2, 2, 2)
    four = np.array([0, 3, 1, 4], np.float32)  # (0,0), (1,0), (0,1), (1,1)
    expected = (four - four.mean()) / np.sqrt(four.var() + 1e-5)
    np.testing.assert_allclose(merged[0, 0, 0], expected[:2], atol=1e-5)
    layer.reduction.kernel.assign(np.eye(4)[:, 2:])
    corner = np.array([8, 0, 0, 0], np.float32)  # odd maps are padded with zeros
    expected = (corner - corner.mean()) / np.sqrt(corner.var() + 1e-5)
    np.testing.assert_allclose(layer(x)[0, 1, 1], expected[2:], atol=1e-5)


def test_swin_tiny_has_the_published_number_of_parameters():
    assert ImageEncoder(Swin(), embedding_dim=1000).count_params() == 28_288_354


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (1, 3), (37, 50)])
def test_any_picture_size_works(size):
    encoder = small_encoder()
    embeddings = encoder(pictures(3, *size))
    assert embeddings.shape == (3, 8)
    assert keras.backend.standardize_dtype(embeddings.dtype) == "float32"
    assert np.isfinite(ops.convert_to_numpy(embeddings)).all()


def test_pictures_of_a_batch_do_not_influence_each_other():
    encoder = small_encoder()
    batch = pictures(4, 40, 40)
    together = ops.convert_to_numpy(encoder(batch))
    alone = np.concatenate([ops.convert_to_numpy(encoder(batch[i : i + 1])) for i in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_every_weight_learns():
    encoder = small_encoder()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(encoder(pictures(2, 64, 64), training=True) ** 2)
    for weight, gradient in zip(encoder.trainable_weights, tape.gradient(loss, encoder.trainable_weights), strict=True):
        assert gradient is not None, weight.path


def test_saved_encoder_is_the_same(tmp_path):
    encoder = small_encoder(mlp_ratio=2.0, drop_path=0.1, checkpointing=True)
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    assert loaded.backbone.get_config() == encoder.backbone.get_config()
    assert loaded.backbone.depths == (2, 1)
    assert loaded.backbone.checkpointing
    batch = pictures(2, 32, 32)
    np.testing.assert_array_equal(loaded(batch), encoder(batch))


def test_drop_path_leaves_out_whole_branches_of_single_pictures():
    encoder = small_encoder(depths=(1, 1), drop_path=0.5)  # the second block skips half the time
    batch = np.repeat(pictures(1, 32, 32), 64, axis=0)
    outcomes = np.unique(ops.convert_to_numpy(encoder(batch, training=True)).round(4), axis=0)
    assert len(outcomes) == 4  # attention kept or not, perceptron kept or not
    assert len(np.unique(ops.convert_to_numpy(encoder(batch)).round(4), axis=0)) == 1


def test_drop_path_keeps_the_expectation():
    block = SwinBlock(num_heads=2, window=4, drop_path=0.25)
    x = np.repeat(np.random.default_rng(0).normal(size=(1, 4, 4, 8)), 4096, axis=0).astype(np.float32)
    block.build(x.shape)
    block.reduce.set_weights([np.zeros((32, 8)), np.zeros(8)])  # leaves the attention branch
    branch = ops.convert_to_numpy(block(x))[0] - x[0]
    kept = ops.convert_to_numpy(ops.mean((block(x, training=True) - x) / branch, axis=(1, 2, 3)))
    np.testing.assert_allclose(np.unique(kept.round(2)), [0.0, 1.33])
    assert abs(kept.mean() - 1) < 0.04  # four standard errors


def training_gradients(checkpointing, dtype, drop_path):
    """Outputs, gradients, and how often the graph of a training step computes a GELU."""
    keras.utils.set_random_seed(0)  # the same weights and the same draws
    one_stage = {**SMALL, "depths": (2,), "num_heads": (2,)}  # a block of either kind
    swin = Swin(**one_stage, drop_path=drop_path, checkpointing=checkpointing, dtype=dtype)
    swin.build((None, None, None, 3))
    x = tf.constant(pictures(8, 40, 56) / 128 - 1, tf.float32)

    @tf.function(autograph=False)
    def gradients():
        with tf.GradientTape() as tape:
            y = ops.cast(swin(x, training=True), "float32")
            loss = tf.reduce_sum(y**2)
        return y, [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, swin.trainable_variables)]

    computed = sum(operation.type == "Erf" for operation in gradients.get_concrete_function().graph.get_operations())
    return *gradients(), computed


@pytest.mark.parametrize(("dtype", "tolerance", "drop_path"), [("float32", 1e-5, 0.5), ("mixed_float16", 2e-3, 0.0)])
def test_checkpointing_recomputes_to_the_same_gradients(dtype, tolerance, drop_path):
    plain, plain_gradients, once = training_gradients(False, dtype, drop_path)
    checkpointed, gradients, twice = training_gradients(True, dtype, drop_path)
    assert (once, twice) == (2, 4)  # one per block, and again in the backward pass
    np.testing.assert_allclose(checkpointed, plain, atol=tolerance)
    for gradient, expected in zip(gradients, plain_gradients, strict=True):
        scale = np.abs(expected).max()
        assert scale > 0
        np.testing.assert_allclose(gradient / scale, expected / scale, atol=tolerance)


def test_mixed_precision_stays_close():
    encoder = small_encoder()
    half = small_encoder("mixed_float16")
    half.set_weights(encoder.get_weights())
    batch = pictures(2, 32, 32)
    assert keras.backend.standardize_dtype(half(batch).dtype) == "float32"
    np.testing.assert_allclose(half(batch), encoder(batch), atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"num_heads": (2,)}, "one value per stage"), ({"num_heads": (3, 4)}, "must divide the channels")],
)
def test_impossible_architectures_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small_encoder(**arguments)
