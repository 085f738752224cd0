"""DIN's target attention: each candidate looks at a history that all candidates of the page share."""

from typing import Any, Literal

import keras
import tensorflow as tf

Normalization = Literal["softmax", "none"]
_MASKED = -1e9


@keras.saving.register_keras_serializable(package="courier")
class TargetAttention(keras.layers.Layer):
    """Weighs the steps of a history by their relevance to a candidate: `output = sum_t w(q, k_t) k_t`.

    The activation unit `w` is an MLP with one hidden layer on `[q, k, q - k, q * k]`. That concatenation is never made:
    with the layer's kernel split into `W1..W4` along its input, the layer is exactly
    `k @ (W2 - W3) + ((q * k) @ W4) + q @ (W1 + W3) + b`, whose first term is computed once per step, the third once per
    candidate, and whose second is one matrix product with `q * W4`. The activation is ReLU: it has no statistics that
    padding could change, unlike DIN's Dice.

    Padded steps contribute exactly nothing, to values and to gradients. An empty history gives zeros.

    Args:
        units: int. Hidden units of the activation unit.
        normalization: `"softmax"` or `"none"`. Whether the weights of a history sum to one. DIN leaves them as they
            are, so that the output's length tells how strong an interest is.

    Call arguments:
        query: candidates, shape `(batch, candidates, dim)`.
        keys: history steps, shape `(batch, steps, dim)`; also the values that are summed.
        mask: bool, shape `(batch, steps)`, false at padding.
        pairs: optional inputs of the activation unit that belong to a candidate and a step, such as the similarity of
            their pictures: shape `(batch, candidates, steps, features)`.

    Output shape: `(batch, candidates, dim)`.

    Example:

    >>> attention = TargetAttention(units=8)
    >>> attention(tf.ones((2, 3, 4)), tf.ones((2, 5, 4)), tf.ones((2, 5), tf.bool)).shape
    TensorShape([2, 3, 4])

    Reference: Zhou et al., Deep Interest Network for Click-Through Rate Prediction (KDD 2018), equation 3.
    """

    def __init__(self, units: int, normalization: Normalization = "softmax", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"`units` must be at least 1. Received: units={units}")
        if normalization not in ("softmax", "none"):
            raise ValueError(f'`normalization` must be "softmax" or "none". Received: normalization={normalization}')
        self.units = units
        self.normalization = normalization

    def build(self, query_shape: Any, keys_shape: Any, mask_shape: Any = None, pairs_shape: Any = None) -> None:
        """Makes the weights; `kernel` is the kernel on `[q, k, q - k, q * k]`."""
        dim, pair_features = query_shape[-1], 0 if pairs_shape is None else pairs_shape[-1]
        if keys_shape[-1] != dim:
            raise ValueError(f"`query` and `keys` must have the same last size. Received: {dim} and {keys_shape[-1]}")
        self.kernel = self.add_weight(name="kernel", shape=(4 * dim, self.units), initializer="glorot_uniform")
        self.pair_kernel = self.add_weight(
            name="pair_kernel", shape=(pair_features, self.units), initializer="glorot_uniform"
        )
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        self.score_kernel = self.add_weight(name="score_kernel", shape=(self.units,), initializer="random_normal")
        # Softmax does not see a constant.
        self.score_bias = (
            self.add_weight(name="score_bias", shape=(), initializer="zeros") if self.normalization == "none" else 0.0
        )
        self.built = True

    def call(self, query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor, pairs: tf.Tensor | None = None) -> tf.Tensor:
        """Attends; see the class."""
        # `where`, not a product: padding may hold anything, NaN included.
        keys = tf.where(mask[..., None], keys, 0.0)
        weights = self._weights(query, keys, mask[:, None, :], pairs)
        return tf.matmul(weights, keys)

    def _weights(self, query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor, pairs: tf.Tensor | None) -> tf.Tensor:
        batch, candidates, steps = tf.shape(query)[0], tf.shape(query)[1], tf.shape(keys)[1]
        dim = query.shape[-1]
        on_query, on_key, on_difference, on_product = tf.split(self.kernel.value, 4)
        # (batch, candidates * units, dim) @ (batch, dim, steps): the units stay outside of the steps until the ReLU.
        scaled = tf.reshape(query[:, :, None, :] * tf.transpose(on_product), (batch, candidates * self.units, dim))
        hidden = tf.reshape(tf.matmul(scaled, keys, transpose_b=True), (batch, candidates, self.units, steps))
        hidden += tf.transpose(tf.matmul(keys, on_key - on_difference), (0, 2, 1))[:, None]
        hidden += (tf.matmul(query, on_query + on_difference) + self.bias)[..., None]
        if pairs is not None:
            pairs = tf.where(mask[..., None], pairs, 0.0)
            hidden += tf.einsum("bcte,eu->bcut", pairs, self.pair_kernel.value)
        scores = tf.einsum("bcut,u->bct", tf.nn.relu(hidden), self.score_kernel.value) + self.score_bias
        if self.normalization == "none":
            return tf.where(mask, scores, 0.0)
        scores = tf.where(mask, scores, _MASKED)
        largest = tf.maximum(tf.reduce_max(scores, axis=-1, keepdims=True), _MASKED)  # -inf when there are no steps
        exponentials = tf.where(mask, tf.exp(scores - tf.stop_gradient(largest)), 0.0)
        return tf.math.divide_no_nan(exponentials, tf.reduce_sum(exponentials, axis=-1, keepdims=True))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "units": self.units, "normalization": self.normalization}
