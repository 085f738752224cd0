"""The user embedding network, the histories apart: those meet each candidate in target attention."""

from typing import Any

import keras
import tensorflow as tf

from models.ctr.config import FeatureSizes, RankerConfig
from models.ctr.item_tower import drop_ids


class UserTower(keras.layers.Layer):
    """Turns user rows into user features.

    It holds every user's features in non-trainable tables by user row. Row `users`, one beyond the dataset's table, is
    a user that nothing is known of.

    Args:
        config: the architecture.
        sizes: sizes of the tables.

    Attributes:
        user_id: int32 `(users + 1,)`, 0 = unknown.
        stats: float32 `(users + 1, user_stats)`, normalised, 0 = missing.
        cats: int32 `(users + 1, number of cat_* columns)`, 0 = unknown.

    Call arguments:
        rows: user rows in `[0, users]`, shape `(batch,)`.
        training: whether IDs are dropped.

    Output shape: `(batch, output_dim)`.

    Reference: the paper's appendix A, user embedding network.
    """

    def __init__(self, config: RankerConfig, sizes: FeatureSizes, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.id_dropout = config.id_dropout
        rows = sizes.users + 1
        table = {"initializer": "zeros", "trainable": False}
        self.user_id = self.add_weight(name="user_id", shape=(rows,), dtype="int32", **table)
        self.stats = self.add_weight(name="stats", shape=(rows, sizes.user_stats), dtype="float32", **table)
        self.cats = self.add_weight(name="cats", shape=(rows, len(sizes.user_cats)), dtype="int32", **table)
        self.user_id_embedding = keras.layers.Embedding(sizes.user_ids + 1, config.embedding_dim)
        self.cat_embeddings = [keras.layers.Embedding(size + 1, config.embedding_dim) for size in sizes.user_cats]
        for embedding in (self.user_id_embedding, *self.cat_embeddings):
            embedding.build(None)
        self.output_dim = (1 + len(sizes.user_cats)) * config.embedding_dim + sizes.user_stats
        self.built = True

    def call(self, rows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Embeds users; see the class."""
        user_id = drop_ids(tf.gather(self.user_id.value, rows), self.id_dropout if training else 0.0)
        cats = tf.gather(self.cats.value, rows)
        features = [self.user_id_embedding(user_id), tf.gather(self.stats.value, rows)]
        features += [embedding(cats[:, i]) for i, embedding in enumerate(self.cat_embeddings)]
        return tf.concat(features, axis=-1)
