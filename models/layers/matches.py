"""How a candidate compares with each step of a history, and what that says of the history as a whole."""

import tensorflow as tf

_BELOW_ANY_COSINE = -2.0
_MINUTE, _DAY = 60_000, 86_400_000  # milliseconds
_NEVER = 1e9
_TIERS = -2.0, 4.0  # standard deviations of cosines


def same_id(candidates: tf.Tensor, steps: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
    """Whether a step has the candidate's ID.

    Args:
        candidates: IDs, 0 or more, shape `(batch, candidates)`.
        steps: IDs, shape `(batch, steps)`.
        known: bool, shape `(batch, steps)`: false at steps that match nothing.

    Returns:
        float32 0 or 1, shape `(batch, candidates, steps)`.
    """
    # Pages to rank have hundreds of thousands of pairs, so that each pass over them counts.
    steps = tf.where(known, steps, -1)
    return tf.cast(candidates[:, :, None] == steps[:, None, :], tf.float32)


def newest_match(match: tf.Tensor, age: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Whether any step matches, and how long ago the newest one that does was: the logarithm of days.

    Args:
        match: 0 or 1, 0 at padding, shape `(batch, candidates, steps)`.
        age: milliseconds of each step before the page, integers `(batch, steps)`; anything at padding. Less than a
            minute counts as one.

    Returns:
        float32 `(batch, candidates)` each: 0 or 1, and `ln(days)`, 0 without a match.
    """
    days = tf.math.log(tf.cast(tf.maximum(age, _MINUTE), tf.float32) / _DAY)
    newest = tf.reduce_min(tf.where(match > 0, days[:, None, :], _NEVER), axis=-1)
    any_match = newest < _NEVER
    return tf.cast(any_match, tf.float32), tf.where(any_match, newest, 0.0)


def cosine(candidates: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
    """Cosine of unit vectors, 0 where one is zero: the paper's equation 8.

    Args:
        candidates: shape `(batch, candidates, dim)`.
        steps: shape `(batch, steps, dim)`.

    Returns:
        Shape `(batch, candidates, steps)`.
    """
    return tf.matmul(candidates, steps, transpose_b=True)


def tier_of(standard: tf.Tensor, tiers: int) -> tf.Tensor:
    """The tier of each cosine: equal parts of what lies between 2 standard deviations below the mean and 4 above it.

    Equal parts of [-1, 1] would leave most of them empty: cosines of clothes lie close together.

    Args:
        standard: cosines in standard deviations from the mean, any shape.
        tiers: how many, 3 or more; the first and the last one hold what lies outside.

    Returns:
        int32 in `[0, tiers)`, of the same shape.
    """
    lowest, highest = _TIERS
    tier = tf.floor((standard - lowest) * ((tiers - 2) / (highest - lowest))) + 1
    return tf.cast(tf.clip_by_value(tier, 0, tiers - 1), tf.int32)


def tier_sums(values: tf.Tensor, tier: tf.Tensor, tiers: int) -> tf.Tensor:
    """Adds up the values of each tier, over the last axis.

    Args:
        values: `(..., steps)`.
        tier: integers, that shape; values of negative tiers are left out.
        tiers: how many.

    Returns:
        `(..., tiers)`.
    """
    shape = tf.shape(values)
    rows = tf.range(tf.reduce_prod(shape[:-1]))[:, None]
    segment = tf.reshape(tier, (-1, shape[-1]))
    segment = tf.where(segment < 0, -1, rows * tiers + segment)
    sums = tf.math.unsorted_segment_sum(tf.reshape(values, (-1, shape[-1])), segment, tf.size(rows) * tiers)
    return tf.reshape(sums, tf.concat([shape[:-1], [tiers]], axis=0))


def mean_match(match: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Mean over the steps of a history, 0 for an empty one.

    Args:
        match: shape `(batch, candidates, steps)`.
        mask: bool, shape `(batch, steps)`.

    Returns:
        Shape `(batch, candidates)`.
    """
    weights = tf.cast(mask, match.dtype)
    return tf.math.divide_no_nan(tf.linalg.matvec(match, weights), tf.reduce_sum(weights, axis=-1, keepdims=True))


def mean_of_largest(match: tf.Tensor, mask: tf.Tensor, count: int) -> tf.Tensor:
    """Mean of the `count` largest cosines of a history, or of all if it has fewer; 0 for an empty one.

    Args:
        match: cosines, shape `(batch, candidates, steps)`.
        mask: bool, broadcastable to it.
        count: how many.

    Returns:
        Shape `(batch, candidates)`.
    """
    match = tf.pad(tf.where(mask, match, _BELOW_ANY_COSINE), ((0, 0), (0, 0), (0, count)), constant_values=-2.0)
    largest = tf.math.top_k(match, k=count, sorted=False).values
    present = tf.cast(largest > _BELOW_ANY_COSINE, match.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(largest * present, axis=-1), tf.reduce_sum(present, axis=-1))
