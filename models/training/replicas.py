"""Gathers tensors over the replicas of a `tf.distribute` strategy."""

import tensorflow as tf


def gather_over_replicas(tensor: tf.Tensor) -> tf.Tensor:
    """Concatenates the replicas' tensors along the first axis, in every replica; differentiable.

    The gradient of a sum of the replicas' losses flows back to the replica that a row came from.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensor
    if tensor.dtype == tf.bool:
        return tf.cast(context.all_gather(tf.cast(tensor, tf.int32), axis=0), tf.bool)
    return context.all_gather(tensor, axis=0)
