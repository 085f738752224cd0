"""A sparse mixture of experts in place of a transformer's feed-forward layer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from models.training.replicas import gather_over_replicas


class Mixture(NamedTuple):
    """What `MixtureOfExperts` returns.

    Attributes:
        outputs: the shape of the inputs.
        balance: float32 scalar, this replica's part of the loss that evens out what experts are given; the parts of
            all replicas add up to it.
        choices: float32 scalar, how many pairs of a token and one of its experts there are on this replica.
        dropped: float32 scalar, how many of these found their expert full.
    """

    outputs: Any
    balance: Any
    choices: Any
    dropped: Any


@keras.saving.register_keras_serializable(package="courier")
class MixtureOfExperts(keras.layers.Layer):
    """Gives each token to a few of many two-layer perceptrons: `h = sum_i w_i E_i(x)`, `w = softmax(top_k(g(x)))`.

    The gate `g` is linear and computed in float32. Its weights are a softmax over the `k` largest scores, so that they
    add up to 1; the other experts do nothing for the token and have no gradient of it.

    An expert takes at most `ceil(k * tokens / experts * capacity_factor)` tokens of a replica's batch, the first
    choices of all tokens before the second ones, in their order. What finds its expert full is dropped: its term is
    missing in the sum, where the transformer's residual connection keeps the token. Padding takes no place. Outside
    training nothing is dropped, so that what a token gets does not depend on the others.

    The balance is `experts * sum_e f_e p_e`, with `f_e` the share of tokens that choose expert `e` and `p_e` the mean
    of its probability in the softmax over all, both over all replicas: `k` if all are given the same.

    Every replica holds all experts: the weights of `MirroredStrategy` are copies, and nothing in it sends tokens to
    the device of an expert. Batches divided among replicas give the same result as long as nothing is dropped.

    Args:
        experts: int. Number of perceptrons.
        hidden: int. Units of each, which have an exact GELU.
        k: int. Experts per token.
        capacity_factor: how many times its even share an expert takes at most in training; `None` for any number.

    Call arguments:
        x: `(..., width)`.
        valid: bool `(...)`, false at padding, which gets zeros.
        training: whether experts take no more than that.

    Returns:
        A `Mixture`.

    Reference: the companion article's equations of M6 (`h`, `w`); Yang et al., M6-T (2021); Fedus et al., Switch
    Transformers (2021), equations 3 to 6.
    """

    def __init__(
        self, experts: int, hidden: int, k: int = 2, capacity_factor: float | None = 1.25, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 1 <= k <= experts:
            raise ValueError(f"`k` must be between 1 and the {experts} experts. Received: {k}")
        if capacity_factor is not None and capacity_factor <= 0:
            raise ValueError(f"`capacity_factor` must be positive. Received: {capacity_factor}")
        self.experts = experts
        self.hidden = hidden
        self.k = k
        self.capacity_factor = capacity_factor

    def build(self, x_shape: Sequence[Any], valid_shape: Sequence[Any] | None = None) -> None:
        """Makes the weights; each expert's are initialised as a dense layer's."""
        width = x_shape[-1]

        def kernels(name: str, rows: int, columns: int) -> keras.Variable:
            limit = (6.0 / (rows + columns)) ** 0.5
            initializer = keras.initializers.RandomUniform(-limit, limit)
            return self.add_weight(name=name, shape=(self.experts, rows, columns), initializer=initializer)

        # `autocast`: half precision would round the scores.
        self.gate = self.add_weight(name="gate", shape=(width, self.experts), autocast=False)
        self.expand = kernels("expand", width, self.hidden)
        self.expand_bias = self.add_weight(
            name="expand_bias", shape=(self.experts, 1, self.hidden), initializer="zeros"
        )
        self.reduce = kernels("reduce", self.hidden, width)
        self.reduce_bias = self.add_weight(name="reduce_bias", shape=(self.experts, 1, width), initializer="zeros")
        self.built = True

    def call(self, x: Any, valid: Any, training: bool = False) -> Mixture:
        """See the class."""
        shape, width = tf.shape(x), x.shape[-1]
        tokens, valid = tf.reshape(x, (-1, width)), tf.reshape(tf.cast(valid, "bool"), (-1,))
        scores = tf.matmul(tf.cast(tokens, "float32"), tf.convert_to_tensor(self.gate))
        top, expert = tf.math.top_k(scores, self.k)
        weights = tf.nn.softmax(top)
        place, capacity = self._places(expert, valid, limited=training and self.capacity_factor is not None)
        taken = valid[:, None] & (place < capacity)

        # Each expert's tokens in a row of places, empty ones last; what is dropped goes beyond all of them.
        count = tf.shape(tokens)[0]
        slot = tf.where(taken, expert * capacity + place, self.experts * capacity)
        source = tf.repeat(tf.range(count), self.k)
        token_of_slot = tf.tensor_scatter_nd_update(
            tf.fill((self.experts * capacity + 1,), count), tf.reshape(slot, (-1, 1)), source
        )[:-1]
        padded = tf.concat([tokens, tf.zeros((1, width), tokens.dtype)], axis=0)
        given = tf.reshape(tf.gather(padded, token_of_slot), (self.experts, capacity, width))
        made = tf.reshape(self._perceptrons(given), (-1, width))
        made = tf.gather(made, tf.minimum(slot, self.experts * capacity - 1))  # tokens, k, width
        weights = tf.where(taken, weights, 0.0)
        outputs = tf.reduce_sum(tf.cast(made, "float32") * weights[..., None], axis=1)
        return Mixture(
            outputs=tf.reshape(tf.cast(outputs, self.compute_dtype), shape),
            balance=self._balance(scores, expert, valid),
            choices=tf.cast(tf.reduce_sum(tf.cast(valid, "int32")) * self.k, "float32"),
            dropped=tf.reduce_sum(tf.cast(valid[:, None] & ~taken, "float32")),
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "experts": self.experts,
            "hidden": self.hidden,
            "k": self.k,
            "capacity_factor": self.capacity_factor,
        }

    def _perceptrons(self, given: Any) -> Any:
        """Every expert on its own tokens: `(experts, capacity, width)` to the same."""
        given = tf.cast(given, self.compute_dtype)
        hidden = tf.matmul(given, tf.convert_to_tensor(self.expand)) + self.expand_bias
        hidden = ops.gelu(hidden, approximate=False)
        return tf.matmul(hidden, tf.convert_to_tensor(self.reduce)) + self.reduce_bias

    def _places(self, expert: Any, valid: Any, limited: bool) -> tuple[Any, Any]:
        """The place of each choice `(tokens, k)` among those of its expert, and how many places an expert has."""
        count = tf.shape(expert)[0]
        chosen = tf.one_hot(tf.transpose(expert), self.experts, dtype="int32")  # k, tokens, experts
        chosen = tf.reshape(chosen * tf.cast(valid, "int32")[None, :, None], (-1, self.experts))
        before = tf.cumsum(chosen, exclusive=True)
        place = tf.reduce_sum(before * chosen, axis=-1)
        place = tf.transpose(tf.reshape(place, (self.k, count)))
        if not limited:
            return place, tf.maximum(tf.reduce_max(tf.reduce_sum(chosen, axis=0)), 1)
        share = tf.cast(tf.reduce_sum(tf.cast(valid, "int32")) * self.k, "float32") / self.experts
        return place, tf.maximum(tf.cast(tf.math.ceil(share * self.capacity_factor), "int32"), 1)

    def _balance(self, scores: Any, expert: Any, valid: Any) -> Any:
        present = tf.cast(valid, "float32")[:, None]
        probability = tf.reduce_sum(tf.nn.softmax(scores) * present, axis=0)
        chosen = tf.reduce_sum(tf.one_hot(expert, self.experts, dtype="float32"), axis=1) * present
        own = tf.concat([tf.reduce_sum(chosen, axis=0), tf.reduce_sum(present)[None]], axis=0)
        whole = tf.reduce_sum(gather_over_replicas(own[None]), axis=0)
        count = tf.maximum(whole[-1], 1.0)
        # Shares of choices have no gradient; this replica's tokens have that of their probabilities.
        return self.experts * tf.reduce_sum(tf.stop_gradient(whole[:-1] / count) * probability) / count
