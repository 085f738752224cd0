"""The end of every input pipeline: elements are made in parallel, ahead of whoever reads them."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def map_ahead(elements: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """`function` of the elements in their order, several at a time and ahead of the reader.

    The whole pipeline goes without tf.data's autotuner. Now and then a run stood still for minutes between two epochs:
    an iterator under a `tf.distribute` strategy waited for its thread to end, which seems to have been that of the
    autotuner, asleep (TensorFlow 2.17).

    Args:
        elements: what to map.
        function: as for `tf.data.Dataset.map`.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    mapped = elements.map(function, num_parallel_calls=tf.data.AUTOTUNE)
    return mapped.prefetch(tf.data.AUTOTUNE).with_options(options)
