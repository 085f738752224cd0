"""Replicas of a `tf.distribute` strategy: which devices hold them, and what they tell each other."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended

_SILENCE = 1800  # seconds that workers wait for one that is alive but does not answer


def training_strategy() -> tf.distribute.MirroredStrategy | tf.distribute.MultiWorkerMirroredStrategy:
    """All workers of the cluster that `TF_CONFIG` describes, or `mirrored_strategy` without one.

    Call it before anything else of TensorFlow. It returns when every worker has called it.
    """
    if not _cluster():
        return mirrored_strategy()
    # Its watch over the other workers delays the end of every run by a minute. The connections tell as much.
    CollectiveAllReduceExtended._enable_check_health = False
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=_SILENCE)
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


def mirrored_strategy() -> tf.distribute.MirroredStrategy:
    """One replica on each GPU, or a single one on the CPU."""
    gpus = tf.config.list_logical_devices("GPU")
    return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus] or ["CPU:0"])


def workers(strategy: tf.distribute.Strategy) -> int:
    """Number of processes that train together."""
    resolver = strategy.cluster_resolver
    return sum(len(tasks) for tasks in resolver.cluster_spec().as_dict().values()) if resolver else 1


def configured_workers() -> int:
    """Number of processes of the cluster that `TF_CONFIG` describes; 1 without one."""
    return sum(len(tasks) for tasks in _cluster().values()) or 1


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes files: the task `chief`, or worker 0 without one."""
    resolver = strategy.cluster_resolver
    if not resolver or not resolver.task_type:
        return True
    return resolver.task_type == "chief" or ("chief" not in resolver.cluster_spec().jobs and resolver.task_id == 0)


def sum_over_replicas(strategy: tf.distribute.Strategy, *values: float) -> list[float]:
    """Adds up values over the replicas of all workers; a replica's values are its worker's.

    All workers must call it, as often as each other.
    """
    if workers(strategy) == 1:
        return [value * strategy.num_replicas_in_sync for value in values]
    own = strategy.experimental_distribute_values_from_function(lambda _: tf.constant(values, tf.float64))
    return strategy.reduce("SUM", own, axis=None).numpy().tolist()


@contextlib.contextmanager
def ends_with_other_workers(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Ends this process, with exit code 2, if another worker has ended in the block: nothing would come of waiting."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError):
        if workers(strategy) == 1:
            raise
        message = "another worker has ended; start all of them again with the same options, and they go on"
        sys.stderr.write(f"error: {message}\n")  # no handler of an exception would get to say it
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(2)  # an orderly end of TensorFlow would wait for the other worker


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


def rows_over_replicas(rows: tf.Tensor) -> tf.Tensor:
    """Where this replica's rows are in what `gather_over_replicas` makes of them: int32 `(rows,)`.

    Args:
        rows: any tensor with these rows.
    """
    count = tf.shape(rows)[0]
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tf.range(count)
    counts = gather_over_replicas(count[None])
    return tf.reduce_sum(counts[: context.replica_id_in_sync_group]) + tf.range(count)


def _cluster() -> dict[str, list[str]]:
    return json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster") or {}
