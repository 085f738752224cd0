"""The end of every input pipeline: elements are made in parallel, ahead of whoever reads them."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def map_ahead(elements: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """`function` of the elements in their order, several at a time and ahead of the reader.

    The whole pipeline goes `without_autotuner`.

    Args:
        elements: what to map.
        function: as for `tf.data.Dataset.map`, of TensorFlow's operations alone: AutoGraph, which would rewrite an `if`
            over tensors, takes longer for most functions than tracing them, and is off.
    """
    function = tf.autograph.experimental.do_not_convert(function)
    return without_autotuner(elements.map(function, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE))


def without_autotuner(elements: tf.data.Dataset) -> tf.data.Dataset:
    """The same elements, from a pipeline that tf.data does not tune while it runs.

    Now and then a run stood still for seconds to minutes where an iterator ended, between two epochs or after an
    evaluation: it waited for its thread, which seems to have been that of the autotuner, asleep (TensorFlow 2.17).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return elements.with_options(options)
