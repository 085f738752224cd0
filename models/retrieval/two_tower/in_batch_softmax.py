"""The softmax over all items, estimated on the items of a batch."""

import tensorflow as tf


def in_batch_softmax(
    users: tf.Tensor,
    items: tf.Tensor,
    user_rows: tf.Tensor,
    item_rows: tf.Tensor,
    log_frequencies: tf.Tensor,
    temperature: float,
) -> tf.Tensor:
    """The mean surprise to find each user's item among those of the batch, corrected for how often items are in one.

    An item comes into a batch as often as it is chosen, so that popular ones are negatives too often. With the
    logarithm of its frequency taken from an item's score, the softmax over the batch estimates the one over all items.

    What a user has chosen is no negative of the user: where another pair has the same item, or another item that the
    user has chosen, it is left out, and gets no gradient. A pair without negatives has a loss of 0.

    Args:
        users: unit vectors `(users, dim)`.
        items: unit vectors of the pairs' items, `(pairs, dim)`.
        user_rows: which of `users` each pair is of, int `(pairs,)`.
        item_rows: which item each pair is of, int `(pairs,)`: those of one row are the same item.
        log_frequencies: logarithm of the share of all pairs that have the item, `(pairs,)`. A number added to all of
            them changes nothing.
        temperature: what products of vectors are divided by.

    Returns:
        Scalar; 0 without pairs.

    Reference: Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations (RecSys 2019),
    equations 3 and 4; Bengio & Senécal, Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic
    Language Model (2008).
    """
    logits = tf.matmul(users, items, transpose_b=True) / temperature - log_frequencies
    distinct, number = tf.unique(item_rows)
    pairs = tf.stack([tf.cast(user_rows, tf.int32), number], axis=1)
    chosen = tf.scatter_nd(pairs, tf.ones_like(number), [tf.shape(users)[0], tf.size(distinct)]) > 0
    chosen = tf.gather(tf.gather(chosen, number, axis=1), user_rows)
    own = tf.eye(tf.size(number), dtype=tf.bool)
    logits = tf.gather(logits, user_rows)
    surprise = tf.reduce_logsumexp(tf.where(chosen & ~own, -float("inf"), logits), axis=1) - tf.linalg.diag_part(logits)
    return tf.math.divide_no_nan(tf.reduce_sum(surprise), tf.cast(tf.size(number), surprise.dtype))
