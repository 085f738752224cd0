import numpy as np
import pytest
import tensorflow as tf

from models.vision.encoder import ImageEncoder
from models.vision.m6 import M6

PICTURES = np.random.default_rng(0).normal(size=(4, 12, 8, 3)).astype(np.float32)
TOKENS = np.array([[3, 4, -1], [5, -1, -1], [-1, -1, -1], [3, 9, 1]], np.int32)


def make(**options):
    sizes = {"patch_size": 4, "width": 8, "layers": 2, "heads": 2, "experts": 3, "hidden": 6, "vocabulary": 20}
    m6 = M6(**{**sizes, **options})
    m6.build((None, None, None, 3))
    return m6


def test_a_title_is_read_and_its_padding_and_a_missing_one_are_not():
    m6 = make()
    alone, titled = np.asarray(m6(PICTURES)), np.asarray(m6.attend(PICTURES, TOKENS).features)
    assert (np.abs(alone - titled).max(axis=1) > 1e-3).tolist() == [True, True, False, True]
    np.testing.assert_allclose(alone[2], titled[2], rtol=1e-4, atol=1e-5)
    longer = np.pad(TOKENS, [[0, 0], [0, 2]], constant_values=-1)
    np.testing.assert_allclose(m6.attend(PICTURES, longer).features, titled, rtol=1e-4, atol=1e-5)


def test_order_matters_of_patches_and_of_tokens():
    m6 = make()
    moved = np.concatenate([PICTURES[:, 4:], PICTURES[:, :4]], axis=1)
    assert np.abs(np.asarray(m6(moved)) - np.asarray(m6(PICTURES))).max() > 1e-3
    one, other = (m6.attend(PICTURES[:1], np.array([order])).features for order in ([3, 4, 9], [9, 4, 3]))
    assert np.abs(np.asarray(one) - np.asarray(other)).max() > 1e-4


def test_items_do_not_see_each_other_and_padding_takes_no_place():
    m6 = make(capacity_factor=None)
    whole = m6.attend(PICTURES, TOKENS, training=True)
    alone = [m6.attend(PICTURES[i : i + 1], TOKENS[i : i + 1], training=True).features[0] for i in range(4)]
    np.testing.assert_allclose(whole.features, alone, rtol=1e-4, atol=1e-5)
    assert float(whole.choices) == 2 * 2 * (4 * 6 + 6)  # blocks, experts each, patches and tokens
    limited, valid = make(capacity_factor=0.5), np.array([1, 1, 0, 1], bool)
    other = PICTURES.copy()
    other[2] = 9
    one, two = (limited.attend(pictures, TOKENS, valid, training=True) for pictures in (PICTURES, other))
    np.testing.assert_allclose(np.asarray(one.features)[valid], np.asarray(two.features)[valid], atol=1e-5)
    assert float(one.dropped) == float(two.dropped) > 0
    assert float(limited.attend(PICTURES, TOKENS, valid).dropped) == 0  # outside training


def test_an_encoder_of_pictures_alone_embeds_any_size():
    encoder = ImageEncoder(make(), 5)
    assert encoder(np.zeros((2, 12, 8, 3), np.uint8)).shape == (2, 5)
    assert encoder(np.zeros((2, 16, 16, 3), np.uint8)).shape == (2, 5)
    with pytest.raises(ValueError, match="`width` must be a multiple of 4"):
        make(width=6)


def test_tokens_that_no_title_has_get_no_gradient():
    m6 = make()
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(m6.attend(PICTURES, TOKENS).features[:, 0] ** 2)
    gradient = np.asarray(tf.convert_to_tensor(tape.gradient(total, m6.token_table.value)))
    largest = np.abs(gradient).max(axis=1)
    assert {row for row in range(20) if largest[row] > 0} == {1, 3, 4, 5, 9}
