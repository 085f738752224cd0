"""Rows of large tables, at a cost that does not depend on the size of the table."""

import keras
import tensorflow as tf


def gather_rows(table: keras.Variable | tf.Variable, rows: tf.Tensor) -> tf.Tensor:
    """`tf.gather(table, rows)`, which copies no other row; differentiable, with a `tf.IndexedSlices` as gradient.

    `keras.layers.Embedding` reads the whole table first, and so does `tf.gather` from a variable of
    `tf.distribute.MirroredStrategy`. TensorFlow copies what is read if rows of the variable have ever been scattered
    to, as `LazyAdam` does: with 1e7 rows of 16 numbers that takes most of a second.

    Args:
        table: a variable of shape `(n, ...)`; of a `tf.distribute` strategy, it stands for this replica's copy.
        rows: integers in `[0, n)`, any shape.

    Returns:
        Shape `(*rows.shape, *table.shape[1:])`.
    """
    return tf.gather(own_copy(table), rows)


def own_copy(variable: keras.Variable | tf.Variable) -> tf.Variable:
    """This replica's copy of a variable of a `tf.distribute` strategy; without one, the variable itself."""
    variable = variable.value if isinstance(variable, keras.Variable) else variable
    return variable._get() if isinstance(variable, tf.distribute.DistributedValues) else variable


def add_up_rows(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """The same gradient with every row named once: what was said of it is added up.

    Args:
        gradient: values of shape `(k, ...)` of k rows.

    Returns:
        Rows in the order of their first appearance.
    """
    rows, position = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, position, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)
