import numpy as np
import pytest
import tensorflow as tf
from scipy.special import erf, softmax

from models.text.bert import Bert

TOKENS = np.array([[2, 5, 6, 3], [2, 9, 3, -1], [7, -1, -1, -1], [-1, -1, -1, -1]], np.int32)


def drawn_bert(**options):
    bert = Bert(**{"vocabulary": 12, "layers": 2, "width": 8, "heads": 2, "hidden": 6, "positions": 5, **options})
    bert.build((None, None))
    rng = np.random.default_rng(0)
    for weight in bert.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    return bert


def reference(bert, title):
    """One title without padding, in NumPy, head by head."""
    token, position, kind = (np.asarray(table) for table in (bert.token_table, bert.position_table, bert.type_table))

    def dense(layer, x):
        return x @ np.asarray(layer.kernel) + np.asarray(layer.bias)

    def norm(layer, x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * np.asarray(layer.gamma) + np.asarray(layer.beta)

    x = norm(bert.norm, np.stack([token[t] + position[i] + kind[0] for i, t in enumerate(title)]))
    for block in bert.blocks:
        queries, keys, values = np.split(dense(block.attention.qkv, x), 3, axis=1)
        size = bert.width // bert.heads
        heads = []
        for head in range(bert.heads):
            part = slice(head * size, (head + 1) * size)
            weights = softmax(queries[:, part] @ keys[:, part].T / np.sqrt(size), axis=1)
            heads.append(weights @ values[:, part])
        x = norm(block.attention_norm, x + dense(block.attention.out, np.concatenate(heads, axis=1)))
        hidden = dense(block.expand, x)
        x = norm(block.norm, x + dense(block.reduce, hidden * (1 + erf(hidden / np.sqrt(2))) / 2))
    return x


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_of_a_slow_forward_pass_title_by_title(pooling):
    bert = drawn_bert(pooling=pooling)
    vectors = np.asarray(bert(TOKENS))
    for title, vector in zip(TOKENS[:3], vectors[:3], strict=True):
        states = reference(bert, title[title >= 0])
        np.testing.assert_allclose(vector, states.mean(0) if pooling == "mean" else states[0], rtol=1e-4, atol=1e-5)
    assert (vectors[3] == 0).all()  # nothing to read


def test_padding_changes_nothing():
    bert = drawn_bert()
    longer = np.pad(TOKENS, [[0, 0], [0, 1]], constant_values=-1)
    np.testing.assert_allclose(bert(longer), bert(TOKENS), rtol=1e-5, atol=1e-6)


def test_tokens_that_no_title_has_get_no_gradient():
    bert = drawn_bert()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(bert(TOKENS) ** 2)
    gradient = np.asarray(tf.convert_to_tensor(tape.gradient(loss, bert.token_table.value)))
    used = {int(token) for token in TOKENS.ravel() if token >= 0}
    for token in range(12):
        assert np.abs(gradient[token]).max() > 0 if token in used else (gradient[token] == 0).all()


def test_titles_longer_than_the_positions_are_refused():
    with pytest.raises(ValueError, match="at most 5 long"):
        drawn_bert()(np.zeros((1, 6), np.int32))
    with pytest.raises(ValueError, match="`pooling` must be one of"):
        Bert(5, pooling="max")
