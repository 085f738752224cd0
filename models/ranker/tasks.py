"""What a ranker learns: the tasks, and the loss of each per candidate or per pair of candidates."""

from typing import NamedTuple

import keras
import tensorflow as tf
import tensorflow_recommenders as tfrs

HEADS = {"ctr": "ctr", "ctcvr": "cvr", "long_visit": "visit", "dwell": "dwell"}
"""Output to the logit that it has of its own."""

_LABELS = {"ctcvr": "converted", "long_visit": "dwell", "dwell": "dwell"}
"""Task to the label that it needs besides `clicked`."""

_NOBODY = -1e9  # what exponentials do not see


class Target(NamedTuple):
    """What a task learns of a batch of pages.

    Attributes:
        label: shape `(batch, n)`, of candidates or pairs of them.
        prediction: log-odds, or the predicted value, of each member: `(members, batch, n)`.
        weight: how much each counts, `(batch, n)`.
    """

    label: tf.Tensor
    prediction: tf.Tensor
    weight: tf.Tensor


def make_task(name: str) -> tfrs.tasks.Ranking:
    """A task whose loss is per candidate, `(batch, candidates)`: what counts how much is known to the ranker alone."""
    if name == "dwell":
        loss = keras.losses.Huber(delta=1.0, reduction=None)
    else:
        loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction=None)
    task = tfrs.tasks.Ranking(loss=loss, name=f"{name}_task")
    task.dtype_policy = "float32"  # half precision would round losses; its constructor takes none
    task.build(None)
    return task


def make_targets(
    tasks: list[str],
    labels: dict[str, tf.Tensor],
    logits: dict[str, tf.Tensor],
    present: tf.Tensor,
    long_visit_seconds: float,
) -> dict[str, Target]:
    """The targets of a batch.

    Args:
        tasks: names of the tasks.
        labels: `clicked`, and `converted` and `dwell` for the tasks that learn these, `(batch, candidates)`.
        logits: of each member, `(members, batch, candidates)`.
        present: float32 `(batch, candidates)`, 0 at padding.
        long_visit_seconds: dwell time from which on a visit is long.

    Raises:
        ValueError: a label that a task learns is missing.
    """
    needed = {"clicked", *(_LABELS[name] for name in tasks if name in _LABELS)}
    if missing := sorted(needed - set(labels)):
        raise ValueError(
            f"`labels` must have {', '.join(sorted(needed))} for the tasks {', '.join(tasks)}: make the batches with "
            f"`pages.batches(..., labels={tuple(sorted(needed))})`. Missing: {', '.join(missing)}"
        )
    clicked = labels["clicked"] == 1
    targets = {"ctr": Target(tf.cast(clicked, tf.float32), logits["ctr"], present)}
    if "pairwise" in tasks:
        targets["pairwise"] = _pairs(logits["ctr"], clicked, present)
    if "jrc" in tasks:
        targets["jrc"] = _choices(logits["ctr"], clicked, present)
    if "ctcvr" in tasks:
        both = clicked & (labels["converted"] == 1)
        targets["ctcvr"] = Target(tf.cast(both, tf.float32), and_logit(logits["ctr"], logits["cvr"]), present)
    if "long_visit" in tasks:
        both = clicked & (labels["dwell"] >= long_visit_seconds)
        targets["long_visit"] = Target(tf.cast(both, tf.float32), and_logit(logits["ctr"], logits["visit"]), present)
    if "dwell" in tasks:
        seconds = tf.cast(labels["dwell"], tf.float32)
        targets["dwell"] = Target(tf.math.log1p(seconds), logits["dwell"], tf.cast(clicked, tf.float32))
    return targets


def and_logit(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Log-odds of two events together, from those of the first and of the second given the first."""
    both = tf.math.log_sigmoid(first) + tf.math.log_sigmoid(second)
    # Not both: not the first, or the first and not the second.
    not_first, first_only = tf.math.log_sigmoid(-first), tf.math.log_sigmoid(first) + tf.math.log_sigmoid(-second)
    return both - tf.reduce_logsumexp(tf.stack([not_first, first_only]), axis=0)


def global_mean(loss: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """This replica's part of the weighted mean of a loss; optimizers add replicas up, whose weights may differ.

    Args:
        loss: sum of the weighted losses on this replica.
        weight: sum of the weights on this replica.
    """
    context = tf.distribute.get_replica_context()
    if context is not None:
        weight = context.all_reduce(tf.distribute.ReduceOp.SUM, weight)
    return tf.math.divide_no_nan(loss, weight)


def _pairs(logits: tf.Tensor, clicked: tf.Tensor, present: tf.Tensor) -> Target:
    """The pairs of each page: labels, log-odds that the first candidate is the clicked one, and weights.

    Args:
        logits: shape `(members, batch, candidates)`.
        clicked, present: shape `(batch, candidates)`.

    Returns:
        Of `candidates ** 2` pairs. The weights of a page's pairs of a clicked and an unclicked candidate add up to one;
        all others weigh nothing.
    """
    members, pages, size = tf.unstack(tf.shape(logits))
    differences = tf.reshape(logits[..., :, None] - logits[..., None, :], (members, pages, size * size))
    first, second = (present * tf.cast(chosen, tf.float32) for chosen in (clicked, ~clicked))
    pairs = tf.reshape(first[:, :, None] * second[:, None, :], (pages, size * size))
    weights = tf.math.divide_no_nan(pairs, tf.reduce_sum(pairs, axis=1, keepdims=True))
    return Target(tf.ones_like(weights), differences, weights)


def _choices(logits: tf.Tensor, clicked: tf.Tensor, present: tf.Tensor) -> Target:
    """What a softmax over each page says of its candidates, each as one of its label.

    With one log-odds `s` of a candidate instead of the reference's two, `s / 2` for the clicked and `-s / 2` for the
    others: their difference are the log-odds of a click.

    Args:
        logits: shape `(members, batch, candidates)`.
        clicked, present: shape `(batch, candidates)`.

    Returns:
        Of each candidate the log-odds that it is chosen. The weights of a page's candidates add up to one; candidates
        without another weigh nothing.

    Reference: Sheng et al., Joint Optimization of Ranking and Calibration with Contextualized Hybrid Model (KDD 2023).
    """
    sign = tf.where(clicked, 0.5, -0.5)
    others = (present[:, None, :] > 0) & ~tf.eye(tf.shape(present)[1], dtype=tf.bool)
    of_others = tf.where(others, sign[:, :, None] * logits[..., None, :], _NOBODY)
    has_others = tf.reduce_any(others, axis=-1)
    chosen = tf.where(has_others, sign * logits - tf.reduce_logsumexp(of_others, axis=-1), 0.0)
    weights = present * tf.cast(has_others, tf.float32)
    weights = tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=1, keepdims=True))
    return Target(tf.ones_like(weights), chosen, weights)
