"""Replicas of a `tf.distribute` strategy: which devices hold them, and what they tell each other."""

import tensorflow as tf


def mirrored_strategy() -> tf.distribute.MirroredStrategy:
    """One replica on each GPU, or a single one on the CPU."""
    gpus = tf.config.list_logical_devices("GPU")
    return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus] or ["CPU:0"])


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
