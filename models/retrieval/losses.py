"""Losses that several recommenders share."""

import tensorflow as tf


def bpr_loss(positive: tf.Tensor, negative: tf.Tensor) -> tf.Tensor:
    """The mean of `-ln sigmoid(positive - negative)`: how surely what a user has is above what the user has not.

    Args:
        positive, negative: scores of the same shape.

    Reference: Rendle et al., BPR (UAI 2009).
    """
    return tf.reduce_mean(tf.nn.softplus(negative - positive))


def norm_penalty(*vectors: tf.Tensor) -> tf.Tensor:
    """The lengths of a batch's vectors taken as one long vector each, added up and divided by the size of the batch.

    The penalty of RecBole and MMRec: not squared, so that it pulls the less the larger the batch's vectors are.

    Args:
        vectors: each `(batch, dim)`.
    """
    lengths = [tf.sqrt(tf.reduce_sum(tf.square(each)) + _TINY) for each in vectors]
    return tf.add_n(lengths) / tf.cast(tf.shape(vectors[0])[0], tf.float32)


def squared_penalty(*vectors: tf.Tensor) -> tf.Tensor:
    """Half of the squares of a batch's vectors, added up and divided by the size of the batch.

    Args:
        vectors: each `(batch, dim)`.

    Reference: He et al., LightGCN (SIGIR 2020), equation 15.
    """
    return tf.add_n([tf.nn.l2_loss(each) for each in vectors]) / tf.cast(tf.shape(vectors[0])[0], tf.float32)


def info_nce(queries: tf.Tensor, keys: tf.Tensor, temperature: float) -> tf.Tensor:
    """The mean surprise to find each query's own key among all keys of the batch, by cosine.

    `-mean log(exp(cos(q_i, k_i) / t) / sum_j exp(cos(q_i, k_j) / t))`

    Args:
        queries, keys: `(batch, dim)`, row by row a pair.
        temperature: what cosines are divided by.

    Reference: van den Oord et al., Representation Learning with Contrastive Predictive Coding (2018), equation 4.
    """
    queries, keys = tf.math.l2_normalize(queries, axis=-1), tf.math.l2_normalize(keys, axis=-1)
    logits = tf.matmul(queries, keys, transpose_b=True) / temperature
    own = tf.range(tf.shape(logits)[0])
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=own, logits=logits))


_TINY = 1e-20  # the length of nothing has no gradient
