"""Loss scaling for float16 on several replicas."""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="courier")
class ReplicaLossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Leaves a step out if the gradients of any replica are not finite.

    Keras looks at those of the first replica alone, before they are added up: an overflow on another one would end in
    the weights.

    Args:
        inner_optimizer, initial_scale, dynamic_growth_steps: see `keras.optimizers.LossScaleOptimizer`.
    """

    def check_finite(self, grads: list[Any]) -> Any:
        """Whether the gradients of all replicas are finite: a bool scalar, the same on each."""
        finite = super().check_finite(grads)
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return finite
        return tf.equal(context.all_reduce("SUM", tf.cast(finite, tf.int32)), context.num_replicas_in_sync)
