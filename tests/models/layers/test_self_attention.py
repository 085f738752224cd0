import numpy as np
import pytest

from models.layers.self_attention import SelfAttention

X = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
VALID = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)


def test_what_padding_holds_changes_nothing():
    attention = SelfAttention(2)
    other = np.where(VALID[..., None], X, 100 * X[::-1])
    np.testing.assert_allclose(
        np.asarray(attention(other, VALID))[VALID], np.asarray(attention(X, VALID))[VALID], rtol=1e-5
    )


def test_one_valid_position_attends_to_itself():
    attention = SelfAttention(4)
    alone = np.asarray(attention(X, np.arange(5) == np.array([[2], [2]])))
    values = X[:, 2] @ np.asarray(attention.qkv.kernel)[:, 16:]
    expected = values @ np.asarray(attention.out.kernel)
    np.testing.assert_allclose(alone, np.repeat(expected[:, None], 5, axis=1), rtol=1e-4, atol=1e-5)


def test_order_does_not_matter():
    attention, order = SelfAttention(2), [3, 1, 4, 0, 2]
    np.testing.assert_allclose(
        attention(X[:, order], VALID[:, order]), np.asarray(attention(X, VALID))[:, order], rtol=1e-4, atol=1e-6
    )


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="must divide the width 8"):
        SelfAttention(3)(X, VALID)
