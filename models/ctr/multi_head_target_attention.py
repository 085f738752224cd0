"""Multi-head target attention: each candidate looks at the whole of a long history that its page shares."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

_MASKED = -1e9


@keras.saving.register_keras_serializable(package="courier")
class MultiHeadTargetAttention(keras.layers.Layer):
    """Exact scaled dot-product attention of candidates over all steps of their page's history.

    Head `h` of candidate `c` gives `sum_t softmax_t(logit[h, c, t]) (k_t @ V_h)` with

    `logit[h, c, t] = (q_c @ Q_h + b_h) . (k_t @ K_h) / sqrt(head_dim) + sum_f w[f, h] pair_f[c, t]`.

    Where a history has far more steps than its page has candidates, as in training, no step is projected: `(q_c @ Q_h +
    b_h) @ K_h^T` is a vector that meets the steps as they are, and the values are projected after they are summed. To
    rank a page of many candidates the steps are projected first, since a head is smaller than a step. Both are the same
    sums in another order. Time and memory are `O(batch * heads * candidates * steps)`.

    Keys have no bias, which softmax would not see. Values have none, so that an empty history gives zeros, and there is
    no projection of the concatenated heads: the layer that reads them has one.

    Padded steps contribute exactly nothing, to values and to gradients. The softmax is computed in the variables' type,
    under mixed precision too.

    Args:
        heads: int. Number of heads.
        head_dim: int. Size of a head's queries, keys and values.
        pair_features: int. Number of tensors in `pairs`.

    Call arguments:
        query: candidates, shape `(batch, candidates, query_dim)`.
        keys: history steps, shape `(batch, steps, key_dim)`; also the values that are summed.
        mask: bool, shape `(batch, steps)`, false at padding, where `keys` may hold anything, and `pairs` any finite
            numbers.
        pairs: `pair_features` tensors that tell something about a candidate and a step, such as whether they are of the
            same category: each of shape `(batch, candidates, steps)`.
        training: whether to assume few candidates, instead of counting them.

    Output shape: `(batch, candidates, heads * head_dim)`.

    Example:

    >>> attention = MultiHeadTargetAttention(heads=2, head_dim=4)
    >>> attention(tf.ones((2, 3, 6)), tf.ones((2, 5, 6)), tf.ones((2, 5), tf.bool)).shape
    TensorShape([2, 3, 8])

    Reference: Vaswani et al., Attention Is All You Need (NeurIPS 2017), section 3.2; as the exact search of long
    histories in Pi et al., Search-based User Interest Modeling with Lifelong Sequential Behavior Data for Click-Through
    Rate Prediction (CIKM 2020), section 3.3.
    """

    def __init__(self, heads: int, head_dim: int, pair_features: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, value, least in (
            ("heads", heads, 1),
            ("head_dim", head_dim, 1),
            ("pair_features", pair_features, 0),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}. Received: {name}={value}")
        self.heads = heads
        self.head_dim = head_dim
        self.pair_features = pair_features

    def build(self, query_shape: Any, keys_shape: Any) -> None:
        """Makes the weights; the heads lie side by side in the last axis of a kernel."""
        width = self.heads * self.head_dim
        # `autocast`: half precision would round the logits.
        self.query_kernel = self.add_weight(name="query_kernel", shape=(query_shape[-1], width), autocast=False)
        self.query_bias = self.add_weight(name="query_bias", shape=(width,), initializer="zeros", autocast=False)
        self.key_kernel = self.add_weight(name="key_kernel", shape=(keys_shape[-1], width), autocast=False)
        self.value_kernel = self.add_weight(name="value_kernel", shape=(keys_shape[-1], width), autocast=False)
        self.pair_kernel = self.add_weight(
            name="pair_kernel",
            shape=(self.pair_features, self.heads),
            initializer="zeros",
            trainable=self.pair_features > 0,  # an empty one has no gradient
            autocast=False,
        )
        self.built = True

    def call(
        self,
        query: tf.Tensor,
        keys: tf.Tensor,
        mask: tf.Tensor,
        pairs: Sequence[tf.Tensor] | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Attends; see the class."""
        pairs = pairs or ()
        if len(pairs) != self.pair_features:
            raise ValueError(f"`pairs` must hold pair_features={self.pair_features} tensors. Received: {len(pairs)}")
        query, keys, pairs = tf.nest.map_structure(lambda x: tf.cast(x, self.variable_dtype), (query, keys, [*pairs]))
        # `where`, not a product: padding may hold anything, NaN included. An empty history sums up zeros.
        keys = tf.where(mask[..., None], keys, 0)
        batch, candidates, steps = tf.shape(query)[0], tf.shape(query)[1], tf.shape(keys)[1]
        query = tf.matmul(query, self.query_kernel.value) + self.query_bias.value
        query = tf.reshape(query / math.sqrt(self.head_dim), (batch, candidates, self.heads, self.head_dim))
        key_kernel, value_kernel = (
            tf.reshape(kernel.value, (-1, self.heads, self.head_dim)) for kernel in (self.key_kernel, self.value_kernel)
        )
        biases = None
        if pairs:
            stacked = tf.reshape(tf.stack(pairs, axis=1), (batch, self.pair_features, candidates * steps))
            biases = tf.matmul(self.pair_kernel.value, stacked, transpose_a=True)

        def attend(query: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
            """Of queries `(n, rows, dim)` over steps `(n, steps, dim)`; there are `n * rows` candidates of heads."""
            # Every pass over `(n, rows, steps)` counts; nothing else here is as large. The mask costs none: it is one
            # more column of the keys, which each query multiplies with one.
            query = tf.concat([query, tf.ones_like(query[..., :1])], axis=-1)
            keys = tf.concat([keys, tf.cast(tf.where(mask, 0.0, _MASKED), keys.dtype)[..., None]], axis=-1)
            logits = tf.matmul(query, keys, transpose_b=True)
            if biases is not None:
                logits += tf.reshape(biases, tf.shape(logits))
            return _weighted_sums(logits, values)

        def by_candidate() -> tf.Tensor:
            vectors = tf.einsum("bche,dhe->bhcd", query, key_kernel)
            vectors = tf.reshape(vectors, (batch, self.heads * candidates, keys.shape[-1]))
            summed = tf.reshape(attend(vectors, keys, keys, mask), (batch, self.heads, candidates, keys.shape[-1]))
            return tf.einsum("bhcd,dhe->bche", summed, value_kernel)

        def by_step() -> tf.Tensor:
            pages = batch * self.heads
            heads = tf.reshape(tf.transpose(query, (0, 2, 1, 3)), (pages, candidates, self.head_dim))
            projected = (tf.einsum("btd,dhe->bhte", keys, kernel) for kernel in (key_kernel, value_kernel))
            projected = [tf.reshape(each, (pages, steps, self.head_dim)) for each in projected]
            summed = attend(heads, *projected, tf.repeat(mask, self.heads, axis=0))
            return tf.transpose(tf.reshape(summed, (batch, self.heads, candidates, self.head_dim)), (0, 2, 1, 3))

        # To project the steps costs `dim * head_dim` each and saves every candidate `dim - head_dim`.
        dim = keys.shape[-1]
        many = candidates * (dim - self.head_dim) > dim * self.head_dim
        values = by_candidate() if training or dim <= self.head_dim else tf.cond(many, by_step, by_candidate)
        values = tf.reshape(values, (batch, candidates, self.heads * self.head_dim))
        return tf.cast(values, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        arguments = {"heads": self.heads, "head_dim": self.head_dim, "pair_features": self.pair_features}
        return {**super().get_config(), **arguments}


@tf.custom_gradient
def _weighted_sums(logits: tf.Tensor, values: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    """`softmax(logits) @ values`, of `(n, rows, steps)` and `(n, steps, dim)`.

    The gradient of the softmax needs the sum of its weights times their gradients. That is the product of the output
    with its own gradient, which is small, and saves two passes over the logits (Dao et al., FlashAttention, NeurIPS
    2022, appendix B).
    """
    weights = tf.nn.softmax(logits)
    sums = tf.matmul(weights, values)

    def gradient(on_sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        on_weights = tf.matmul(on_sums, values, transpose_b=True)
        on_logits = weights * (on_weights - tf.reduce_sum(on_sums * sums, axis=-1, keepdims=True))
        return on_logits, tf.matmul(weights, on_sums, transpose_a=True)

    return sums, gradient
