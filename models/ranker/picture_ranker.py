"""A ranker that sees pictures alone, which the image feature `make` learns before the ranker that reads it."""

import math
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from models.data.pages import PADDING
from models.ranker.pictures.pictures import Pictures
from models.ranker.ranker import LOSS_WEIGHT, Ranker
from models.ranker.tasks import global_mean
from models.training.distributed_fit import DistributedFit


class PictureRanker(DistributedFit, keras.Model):
    """Predicts clicks by what the towers of `make` say of a candidate and each history, and a constant.

    It begins with the towers of a ranker, learns them by itself, in as many passes over the pages as it takes, and
    gives them back.

    Args:
        ranker: the ranker, its tables filled.

    Call arguments:
        page: as of a `Ranker`.

    Output: `ctr`, float32 `(batch, candidates)`, 0 at padded candidates.

    Example:

    >>> ranker = Ranker.adapt(train, pictures=Embeddings.load("artifacts/embeddings"), image_feature="make")
    >>> picture_ranker = PictureRanker(ranker)
    >>> picture_ranker.compile("adam")
    >>> picture_ranker.fit(train.batches(64, shuffle=True), epochs=7)
    >>> picture_ranker.give_to(ranker)
    """

    shapes_vary = True

    def __init__(self, ranker: Ranker, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config, self.histories, self.negative_rate = ranker.config, ranker.histories, ranker.negative_rate
        given = ranker.items.pictures
        self.pictures = Pictures("make", given.sizes, name="pictures")
        self.pictures.fill({name: table.numpy() for name, table in given.tables.items()})
        for mine, tower in zip(self.pictures.towers, given.towers, strict=True):
            mine.set_weights(tower.get_weights())
            mine.trainable = True
        self.bias = self.add_weight(name="bias", shape=(), initializer="zeros")
        self.built = True
        self._compiled_call = tf.function(lambda page: self(page), reduce_retracing=True)

    def give_to(self, ranker: Ranker) -> None:
        """Writes what it has learned into a ranker."""
        for mine, tower in zip(self.pictures.towers, ranker.items.pictures.towers, strict=True):
            tower.set_weights(mine.get_weights())

    def call(self, page: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Scores pages; see the class."""
        # Corrected for unclicked candidates that were left out, as a ranker's.
        ctr = tf.sigmoid(self.logits(page) + math.log(self.negative_rate))
        return {"ctr": tf.where(page["item"] != PADDING, ctr, 0.0)}

    def score(self, page: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """`call`, compiled."""
        return self._compiled_call(page)

    def logits(self, page: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Log-odds of a click among the candidates that were kept, `(batch, candidates)`; at padding, anything."""
        candidates, logits = self._vectors(page["item"]), tf.convert_to_tensor(self.bias.value)
        for name in self.histories:
            steps = page[f"{name}_item"][:, : getattr(self.config.lengths, name)]
            compared = self.pictures.compare(candidates, self._vectors(steps), steps != PADDING)
            logits += tf.add_n([said[..., -1] for said in compared.pooled])
        return logits

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """This replica's part of the weighted mean log loss over all candidates of the global batch."""
        weight = tf.cast(x["item"] != PADDING, tf.float32)
        if LOSS_WEIGHT in x:
            weight *= x[LOSS_WEIGHT][:, None]
        clicked = tf.cast((y["clicked"] if isinstance(y, Mapping) else y) == 1, tf.float32)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(clicked, self.logits(x))
        return global_mean(tf.reduce_sum(losses * weight), tf.reduce_sum(weight))

    def _vectors(self, rows: tf.Tensor) -> list[tf.Tensor]:
        """The embeddings of item rows of any shape, zeros at padding."""
        unknown = tf.constant(self.pictures.sizes.items, rows.dtype)
        found = self.pictures(tf.reshape(tf.where(rows < 0, unknown, rows), (-1,))).vectors
        return [tf.reshape(each, (*tf.unstack(tf.shape(rows)), each.shape[-1])) for each in found]
