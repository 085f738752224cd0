"""DIN's target attention: each candidate looks at a history that all candidates of the page share."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import keras
import tensorflow as tf

from models.layers.dice import Dice

Normalization = Literal["softmax", "none"]
Activation = Literal["relu", "dice"]

_MASKED = -1e9


@keras.saving.register_keras_serializable(package="courier")
class TargetAttention(keras.layers.Layer):
    """Weighs the steps of a history by their relevance to a candidate: `output = sum_t w(q, k_t) k_t`.

    The activation unit `w` is an MLP with one hidden layer on `[q, k, q - k, q * k]` and the pairs. That concatenation
    is never made: with the layer's kernel split into `W1..W4` along its input, the layer is exactly
    `k @ (W2 - W3 + diag(q) W4) + q @ (W1 + W3) + b`, a matrix product of the keys with a kernel of the candidate's own.
    It is as simple the other way round, with a kernel of each step, which inference uses where there are fewer of them.

    Nor do the moments that Dice needs take a pass over the hidden units, which dwarf all else: `x = W k + c` has the
    mean `W mean(k) + c` and the variance `W cov(k) W^T`.

    Padding contributes exactly nothing, to values, gradients and moving averages. An empty history gives zeros.

    Args:
        units: int. Hidden units of the activation unit.
        normalization: `"softmax"` or `"none"`. Whether the weights of a history sum to one. DIN leaves them as they
            are, so that the output's length tells how strong an interest is.
        activation: `"relu"` or `"dice"`. Of the hidden units; DIN's is Dice.
        pair_features: int. Number of tensors in `pairs`.

    Call arguments:
        query: candidates, shape `(batch, candidates, dim)`.
        keys: history steps, shape `(batch, steps, dim)`; also the values that are summed.
        mask: bool, shape `(batch, steps)`, false at padding, where `keys` and `pairs` may hold anything.
        pairs: `pair_features` further inputs of the activation unit that belong to a candidate and a step, such as the
            similarity of their pictures: each of shape `(batch, candidates, steps)`.
        query_mask: optional bool, shape `(batch, candidates)`, false at padding, which then is left out of Dice's
            moments.
        training: whether Dice uses the batch's moments and updates their moving averages.

    Output shape: `(batch, candidates, dim)`.

    Example:

    >>> attention = TargetAttention(units=8)
    >>> attention(tf.ones((2, 3, 4)), tf.ones((2, 5, 4)), tf.ones((2, 5), tf.bool)).shape
    TensorShape([2, 3, 4])

    Reference: Zhou et al., Deep Interest Network for Click-Through Rate Prediction (KDD 2018), equations 3 and 9.
    """

    def __init__(
        self,
        units: int,
        normalization: Normalization = "softmax",
        activation: Activation = "relu",
        pair_features: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"`units` must be at least 1. Received: units={units}")
        if normalization not in ("softmax", "none"):
            raise ValueError(f'`normalization` must be "softmax" or "none". Received: normalization={normalization}')
        if activation not in ("relu", "dice"):
            raise ValueError(f'`activation` must be "relu" or "dice". Received: activation={activation}')
        if pair_features < 0:
            raise ValueError(f"`pair_features` must be at least 0. Received: pair_features={pair_features}")
        self.units = units
        self.normalization = normalization
        self.activation = activation
        self.pair_features = pair_features
        self.dice = Dice(dtype=self.dtype_policy, name="dice") if activation == "dice" else None

    def build(self, query_shape: Any, keys_shape: Any) -> None:
        """Makes the weights; `kernel` is the kernel on `[q, k, q - k, q * k]`."""
        dim = query_shape[-1]
        if keys_shape[-1] != dim:
            raise ValueError(f"`query` and `keys` must have the same last size. Received: {dim} and {keys_shape[-1]}")
        # `autocast`: half precision would round the scores.
        self.kernel = self.add_weight(name="kernel", shape=(4 * dim, self.units), autocast=False)
        self.pair_kernel = self.add_weight(
            name="pair_kernel",
            shape=(self.pair_features, self.units),
            initializer="glorot_uniform",
            trainable=self.pair_features > 0,  # an empty one has no gradient
            autocast=False,
        )
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros", autocast=False)
        self.score_kernel = self.add_weight(
            name="score_kernel", shape=(self.units,), initializer="random_normal", autocast=False
        )
        # Softmax does not see a constant.
        self.score_bias = (
            self.add_weight(name="score_bias", shape=(), initializer="zeros", autocast=False)
            if self.normalization == "none"
            else None
        )
        if self.dice is not None:
            self.dice.build((self.units,))
        self.built = True

    def call(
        self,
        query: tf.Tensor,
        keys: tf.Tensor,
        mask: tf.Tensor,
        pairs: Sequence[tf.Tensor] | None = None,
        query_mask: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Attends; see the class."""
        weights, keys = self._weights(query, keys, mask, pairs, query_mask, training)
        return tf.cast(tf.matmul(weights, keys), self.compute_dtype)

    def attention_weights(
        self, query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor, pairs: Sequence[tf.Tensor] | None = None
    ) -> tf.Tensor:
        """How much each step counts for each candidate, outside of training; 0 at padding.

        Args:
            query, keys, mask, pairs: as in the call.

        Returns:
            Shape `(batch, candidates, steps)`. The sum of the keys by these weights is the output.
        """
        weights, _ = self._weights(query, keys, mask, pairs)
        return tf.where(mask[:, None, :], weights, 0)

    def _weights(
        self,
        query: tf.Tensor,
        keys: tf.Tensor,
        mask: tf.Tensor,
        pairs: Sequence[tf.Tensor] | None,
        query_mask: tf.Tensor | None = None,
        training: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Weights of the steps, anything at padding, and the keys with zeros there."""
        pairs = pairs or ()
        if len(pairs) != self.pair_features:
            raise ValueError(f"`pairs` must hold pair_features={self.pair_features} tensors. Received: {len(pairs)}")
        query, keys, pairs = tf.nest.map_structure(lambda x: tf.cast(x, self.variable_dtype), (query, keys, [*pairs]))
        # `where`, not a product: padding may hold anything, NaN included. The sum of the keys adds zeros there.
        keys = tf.where(mask[..., None], keys, 0)
        if query_mask is not None:
            query = tf.where(query_mask[..., None], query, 0)
        pairs = tf.where(mask[:, None, None, :], tf.stack(pairs, axis=2), 0) if pairs else None
        if training:
            scores = self._scores_by_candidate(query, keys, pairs, mask, query_mask, training=True)
        else:
            # The fewer kernels the better: a page that is ranked often has more candidates than the unit sees steps.
            scores = tf.cond(
                tf.shape(query)[1] < tf.shape(keys)[1],
                lambda: self._scores_by_candidate(query, keys, pairs, mask),
                lambda: self._scores_by_step(query, keys, pairs),
            )
        if self.score_bias is not None:
            return scores + self.score_bias.value, keys
        return tf.nn.softmax(scores + tf.cast(tf.where(mask, 0.0, _MASKED), scores.dtype)[:, None, :]), keys

    def _scores_by_candidate(
        self,
        query: tf.Tensor,
        keys: tf.Tensor,
        pairs: tf.Tensor | None,
        mask: tf.Tensor,
        query_mask: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Scores `(batch, candidates, steps)` with a kernel of each candidate."""
        on_query, on_key, on_difference, _ = tf.split(self.kernel.value, 4)
        kernels = self._kernels(query, on_query + on_difference, on_key - on_difference)
        inputs = _Inputs(tf.concat([keys, tf.cast(mask, keys.dtype)[..., None]], axis=-1), pairs)
        if self.dice is None:
            return self._relu_scores(kernels, inputs)
        moments = self.dice.moving_mean.value, self.dice.moving_variance.value
        if training:
            moments = self.dice.pool_moments(*_moments(kernels, inputs, mask, query_mask))
        return self._dice_scores(self.dice, kernels, inputs, *moments)

    def _scores_by_step(self, query: tf.Tensor, keys: tf.Tensor, pairs: tf.Tensor | None) -> tf.Tensor:
        """Scores `(batch, candidates, steps)` with a kernel of each step.

        The hidden layer is as simple in the candidate as in the step: `q @ (W1 + W3 + diag(k) W4) + k @ (W2 - W3) + b`.
        """
        on_query, on_key, on_difference, _ = tf.split(self.kernel.value, 4)
        kernels = self._kernels(keys, on_key - on_difference, on_query + on_difference)
        by_step = None if pairs is None else tf.transpose(pairs, (0, 3, 2, 1))
        inputs = _Inputs(tf.concat([query, tf.ones_like(query[..., :1])], axis=-1), by_step)
        if self.dice is None:
            scores = self._relu_scores(kernels, inputs)
        else:
            moments = self.dice.moving_mean.value, self.dice.moving_variance.value
            scores = self._dice_scores(self.dice, kernels, inputs, *moments)
        return tf.transpose(scores, (0, 2, 1))

    def _kernels(self, rows: tf.Tensor, on_rows: tf.Tensor, on_others: tf.Tensor) -> "_Kernels":
        """What each candidate multiplies the steps with, or each step the candidates.

        Args:
            rows: shape `(batch, rows, dim)`.
            on_rows, on_others: kernels on these alone, and on what they are multiplied with: `(dim, units)`.
        """
        on_product = tf.split(self.kernel.value, 4)[3]
        on_others = rows[:, :, None, :] * tf.transpose(on_product) + tf.transpose(on_others)
        biases = tf.matmul(rows, on_rows) + self.bias.value
        return _Kernels(tf.concat([on_others, biases[..., None]], axis=-1), self.pair_kernel.value)

    def _relu_scores(self, kernels: "_Kernels", inputs: "_Inputs") -> tf.Tensor:
        """`score_kernel . relu(hidden units)`."""
        return tf.matmul(self.score_kernel.value[None], tf.nn.relu(_products(kernels, inputs)))[:, :, 0]

    def _dice_scores(
        self, dice: Dice, kernels: "_Kernels", inputs: "_Inputs", mean: tf.Tensor, variance: tf.Tensor
    ) -> tf.Tensor:
        """`score_kernel . dice(hidden units)`, with the hidden units standardised by their kernels."""
        deviation = tf.sqrt(variance + dice.epsilon)
        on_vectors, on_pairs = kernels
        on_vectors = tf.concat([on_vectors[..., :-1], on_vectors[..., -1:] - mean[:, None]], axis=-1)
        kernels = _Kernels(on_vectors / deviation[:, None], on_pairs / deviation)
        # With z = (x - mean) / deviation and shift = mean / deviation, dice(x) = (1 - alpha) deviation (z + shift)
        # sigmoid(z) + alpha x, and the sum over units of the latter is one more product with the inputs.
        alpha, score_kernel = dice.alpha.value, self.score_kernel.value
        gated, linear = (1 - alpha) * score_kernel * deviation, alpha * score_kernel
        scores = _sum_gated(_products(kernels, inputs), mean / deviation, gated)
        weights = linear * deviation
        summed = _Kernels(
            tf.einsum("brui,u->bri", kernels.on_vectors, weights)[:, :, None],
            tf.linalg.matvec(kernels.on_pairs, weights)[:, None],
        )
        return scores + _products(summed, inputs)[:, :, 0] + tf.reduce_sum(linear * mean)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "units": self.units,
            "normalization": self.normalization,
            "activation": self.activation,
            "pair_features": self.pair_features,
        }


class _Inputs(NamedTuple):
    """What hidden units are made of, zeros at padded steps.

    Attributes:
        vectors: `[k, 1]`, which all candidates share, or `[q, 1]`, which all steps share, `(batch, columns, dim + 1)`.
        pairs: `(batch, rows, pair_features, columns)`, or None if there are none.
    """

    vectors: tf.Tensor
    pairs: tf.Tensor | None


class _Kernels(NamedTuple):
    """What makes hidden units of `_Inputs`.

    Attributes:
        on_vectors: of each candidate or step, `(batch, rows, units, dim + 1)`.
        on_pairs: of all, `(pair_features, units)`.
    """

    on_vectors: tf.Tensor
    on_pairs: tf.Tensor


def _products(kernels: _Kernels, inputs: _Inputs) -> tf.Tensor:
    """Hidden units `(batch, rows, units, columns)`.

    One product per page with the vectors and a thin one with the pairs: faster than a product per row with both, for
    which the vectors are repeated. Units stay outside of the columns: no transposition of the largest tensor.
    """
    batch, rows, units, size = tf.unstack(tf.shape(kernels.on_vectors))
    on_vectors = tf.reshape(kernels.on_vectors, (batch, rows * units, size))
    hidden = tf.matmul(on_vectors, inputs.vectors, transpose_b=True)
    hidden = tf.reshape(hidden, (batch, rows, units, tf.shape(inputs.vectors)[1]))
    return hidden if inputs.pairs is None else hidden + tf.matmul(kernels.on_pairs, inputs.pairs, transpose_a=True)


@tf.custom_gradient
def _sum_gated(z: tf.Tensor, shift: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    """`sum_u weights[u] (z + shift[u]) sigmoid(z)`, in as few passes over `z` as its gradient allows.

    Args:
        z: shape `(batch, rows, units, columns)`.
        shift, weights: shape `(units,)`.

    Output shape: `(batch, rows, columns)`.
    """
    share = tf.sigmoid(z)
    gated = (z + shift[:, None]) * share

    def gradient(on_sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        on_units = on_sums[..., None]
        on_weights = tf.reduce_sum(tf.matmul(gated, on_units), axis=(0, 1, 3))
        on_shift = weights * tf.reduce_sum(tf.matmul(share, on_units), axis=(0, 1, 3))
        slope = share + gated * (1 - share)
        return slope * (weights[:, None] * on_sums[:, :, None, :]), on_shift, on_weights

    return tf.matmul(weights[None], gated)[:, :, 0], gradient


def _moments(
    kernels: _Kernels, inputs: _Inputs, mask: tf.Tensor, query_mask: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Number, mean and variance of the present hidden units of candidates with steps, none of which is made.

    Page by page, by the law of total variance.
    """
    keys, pairs = inputs
    on_keys, on_pairs = kernels.on_vectors, tf.transpose(kernels.on_pairs)
    batch, candidates, units, size = tf.unstack(tf.shape(on_keys))
    steps = tf.reduce_sum(tf.cast(mask, keys.dtype), axis=1)
    # The sum of squared distances does not change when the mean that they are taken from does.
    centre = tf.math.divide_no_nan(tf.reduce_sum(keys, axis=1, keepdims=True), steps[:, None, None])
    centred = tf.where(mask[..., None], keys - tf.stop_gradient(centre), 0)
    rows = tf.reshape(on_keys, (batch, candidates * units, size))
    means = tf.matmul(rows, centre, transpose_b=True)
    squares = tf.reduce_sum(tf.matmul(rows, tf.matmul(centred, centred, transpose_a=True)) * rows, axis=-1)
    means, squares = (tf.reshape(moment, (batch, candidates, units)) for moment in (means, squares))
    if pairs is not None:
        centre = tf.math.divide_no_nan(tf.reduce_sum(pairs, axis=3, keepdims=True), steps[:, None, None, None])
        pairs = tf.where(mask[:, None, None], pairs - tf.stop_gradient(centre), 0)
        means += tf.matmul(on_pairs, centre)[..., 0]
        with_keys = tf.matmul(on_keys, tf.matmul(pairs, centred[:, None]), transpose_b=True)
        among_pairs = tf.matmul(on_pairs, tf.matmul(pairs, pairs, transpose_b=True))
        squares += tf.reduce_sum((2 * with_keys + among_pairs) * on_pairs, axis=-1)
        squares = tf.maximum(squares, 0)  # rounding
    present = (
        tf.ones((batch, candidates, 1), steps.dtype)
        if query_mask is None
        else tf.cast(query_mask, steps.dtype)[..., None]
    )
    counts = present * steps[:, None, None]
    count = tf.reduce_sum(counts)
    mean = tf.math.divide_no_nan(tf.reduce_sum(counts * means, axis=(0, 1)), count)
    distances = present * squares + counts * tf.square(means - mean)
    return count, mean, tf.math.divide_no_nan(tf.reduce_sum(distances, axis=(0, 1)), count)
