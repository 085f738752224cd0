"""DIN's activation, whose moments leave padding out."""

from typing import Any

import keras
import tensorflow as tf

_MOMENTUM = 0.99


@keras.saving.register_keras_serializable(package="courier")
class Dice(keras.layers.Layer):
    """`y = p x + (1 - p) alpha x` with `p = sigmoid((x - mean) / sqrt(variance + epsilon))` and a learned `alpha`.

    Mean and variance of a unit are those of its present values in the global batch, over all replicas, as gradients
    know; at inference, moving averages of these with momentum 0.99. Padding is part of neither, unlike in the usual
    implementations by batch normalization, whose statistics depend on how much padding a batch has.

    Args:
        epsilon: float. Keeps the variance from zero.

    Call arguments:
        inputs: shape `(..., units)`.
        mask: bool, the shape of `inputs` without `units`, false at padding, where `inputs` may hold anything.
        training: whether to use the batch's moments and to update their moving averages.

    Output shape: that of `inputs`; 0 at padding.

    Example:

    >>> dice = Dice()
    >>> dice(tf.ones((2, 5, 3)), tf.ones((2, 5), tf.bool), training=True).shape
    TensorShape([2, 5, 3])

    Reference: Zhou et al., Deep Interest Network for Click-Through Rate Prediction (KDD 2018), equation 9.
    """

    def __init__(self, epsilon: float = 1e-9, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if epsilon <= 0:
            raise ValueError(f"`epsilon` must be above 0. Received: epsilon={epsilon}")
        self.epsilon = epsilon

    def build(self, inputs_shape: Any) -> None:
        """Makes the weights."""
        shape = (inputs_shape[-1],)
        self.alpha = self.add_weight(name="alpha", shape=shape, initializer="zeros", autocast=False)
        # All replicas assign the same values.
        options = {"shape": shape, "trainable": False, "autocast": False, "aggregation": "only_first_replica"}
        self.moving_mean = self.add_weight(name="moving_mean", initializer="zeros", **options)
        self.moving_variance = self.add_weight(name="moving_variance", initializer="ones", **options)
        self.built = True

    def call(self, inputs: tf.Tensor, mask: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Activates; see the class."""
        # `where`, not a product: padding may hold anything, NaN included.
        x = tf.where(mask[..., None], tf.cast(inputs, self.variable_dtype), 0)
        mean, variance = self.moving_mean.value, self.moving_variance.value
        if training:
            rows, present = tf.reshape(x, (-1, x.shape[-1])), tf.cast(tf.reshape(mask, (-1, 1)), x.dtype)
            count = tf.reduce_sum(present)
            mean = tf.math.divide_no_nan(tf.reduce_sum(rows, axis=0), count)
            variance = tf.math.divide_no_nan(tf.reduce_sum(present * tf.square(rows - mean), axis=0), count)
            mean, variance = self.pool_moments(count, mean, variance)
        share = tf.sigmoid((x - mean) * tf.math.rsqrt(variance + self.epsilon))
        return tf.cast(x * (self.alpha.value + (1 - self.alpha.value) * share), self.compute_dtype)

    def pool_moments(self, count: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Moments over all replicas, which also update the moving averages; a batch without a value changes nothing.

        Args:
            count: number of present values of each unit on this replica, a scalar.
            mean: their mean, shape `(units,)`; 0 without values.
            variance: their mean squared distance from `mean`, shape `(units,)`; 0 without values.

        Returns:
            mean and variance of the present values of all replicas, differentiable.
        """
        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            total = context.all_reduce(tf.distribute.ReduceOp.SUM, count)
            share = tf.math.divide_no_nan(count, total)
            own, (count, mean) = mean, (total, context.all_reduce(tf.distribute.ReduceOp.SUM, share * mean))
            # Not the mean square less the squared mean, which rounding would leave little of.
            variance = context.all_reduce(tf.distribute.ReduceOp.SUM, share * (variance + tf.square(own - mean)))
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            change = (1 - _MOMENTUM) * (tf.stop_gradient(value) - average.value)
            average.assign(average.value + tf.where(count > 0, change, 0))
        return mean, variance

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "epsilon": self.epsilon}
