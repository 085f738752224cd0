"""A small ranker's configuration, and what tests do with pages and rankers."""

import numpy as np
import tensorflow as tf

from models.ranker.config import AttentionConfig, RankerConfig, RankerLengths

CONFIG = RankerConfig(
    lengths=RankerLengths(candidates=6, click=12, pay=9, cart=8),
    embedding_dim=4,
    item_dim=6,
    match_recency=True,
    position_bias=3,
    attention=AttentionConfig(recent_steps=4, units=5, heads=2, head_dim=3),
    mlp_units=(32, 24, 16, 12),
    token_buckets=50,
    query_tokens=5,
)


IMAGE_FEATURE_SETS = ("none", "vector", "simscore", "cluster_id", "vector,simscore,simtier,cluster_id,semantic_id,make")
"""The last one reads two embeddings, and attends by their similarity."""

PAGE_LENGTHS = RankerLengths(candidates=6, click=7, pay=4, cart=3)
"""Shorter than a ranker reads, so that more padding is not cut off."""


def last(page, count):
    return {name: values[-count:] for name, values in page.items()}


def semantic_ids_of(clusters):
    """Those of two levels, the second one made up."""
    numbers = clusters.ids.astype(np.int64) * clusters.metadata.num_clusters
    second = np.arange(len(clusters.ids)) // 3 % clusters.metadata.num_clusters
    return np.where(clusters.ids < 0, -1, numbers + second)


LABELS = ("clicked", "converted", "dwell")


def inputs_of(page):
    return {name: values for name, values in page.items() if name not in LABELS}


def labels_of(page):
    return {name: page[name] for name in LABELS}


def loss_of(ranker, page, training=False):
    return ranker.compute_loss(inputs_of(page), labels_of(page), training=training)


def ctr(ranker, page):
    return ranker(inputs_of(page))["ctr"].numpy()


def two_replicas():
    """Without collective operations, whose keys clash when one process makes several strategies."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())


def gradients_of(ranker, page):
    with tf.GradientTape() as tape:
        loss = loss_of(ranker, page, training=True)
    gradients = tape.gradient(loss, [v.value for v in ranker.trainable_variables])
    return loss, [tf.convert_to_tensor(g) for g in gradients]


def with_labels(page, seed=0):
    """The page with conversions of some clicks and dwell times of all."""
    rng = np.random.default_rng(seed)
    clicked = page["clicked"].numpy() == 1
    converted = clicked & (rng.random(clicked.shape) < 0.5)
    dwell = np.where(clicked, rng.gamma(2, 20, clicked.shape), 0).astype(np.float32)
    return page | {"converted": tf.constant(converted.astype(np.int64)), "dwell": tf.constant(dwell)}


def with_tasks(**weights):
    return CONFIG.model_copy(update={"tasks": CONFIG.tasks.model_copy(update=weights)})


def all_tasks(**changes):
    return with_tasks(**{"ctcvr": 0.5, "long_visit": 0.125, "dwell": 0.25} | changes)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.float64(x)))
