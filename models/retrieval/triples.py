"""What recommenders learn from: a user, an item that the user has, and one that the user has not."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import InputError
from models.retrieval.interactions import Pairs

NAMES = ("user", "item", "negative")


class TrainingTriples:
    """All interactions once per epoch, in an order of its own, each with an item drawn from those the user has not.

    Items are drawn uniformly, anew in every epoch. What an epoch holds depends on the seed and its number alone, so
    that an interrupted training goes on with the same triples.

    Args:
        pairs: the interactions, each once.
        num_items: number of item rows.
        batch_size: triples per step; the last batch of an epoch may be smaller.
        seed: of the order and of what is drawn.

    Attributes:
        pairs: those to learn from: without users who have every item.
        steps_per_epoch: number of batches of an epoch.

    Raises:
        InputError: every user has every item.
    """

    def __init__(self, pairs: Pairs, num_items: int, batch_size: int, seed: int) -> None:
        has_everything = np.bincount(pairs.users) == num_items
        self.pairs = pairs.take(~has_everything[pairs.users])
        if not len(self.pairs):
            raise InputError("every user has every item, so that there is nothing to tell apart")
        self.steps_per_epoch = math.ceil(len(self.pairs) / batch_size)
        self._num_items = num_items
        self._batch_size = batch_size
        self._seed = seed
        self._known = np.sort(self._keys(self.pairs.users, self.pairs.items))

    def epoch(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Users, items and negative items of an epoch: int32 `(n,)` each."""
        random = np.random.default_rng([self._seed, number])
        order = random.permutation(len(self.pairs))
        users, items = self.pairs.users[order], self.pairs.items[order]
        negatives = random.integers(0, self._num_items, len(users), dtype=np.int32)
        open_rows = np.arange(len(users))
        while len(open_rows := open_rows[self._has(users[open_rows], negatives[open_rows])]):
            negatives[open_rows] = random.integers(0, self._num_items, len(open_rows), dtype=np.int32)
        return users, items, negatives

    def from_step(self, step: int) -> tf.data.Dataset:
        """Batches from a step of the whole training on, without an end.

        Returns:
            Elements `(triples, labels)`: `user`, `item` and `negative`, int32 `(batch,)`, by these names; and what
            metrics compare scores with, float32 `(batch, 2)`: 1 for the item and 0 for the negative one.
        """
        triples = dict.fromkeys(NAMES, tf.TensorSpec((None,), tf.int32))
        signature = (triples, tf.TensorSpec((None, 2), tf.float32))
        return tf.data.Dataset.from_generator(lambda: self._batches(step), output_signature=signature).prefetch(2)

    def _batches(self, step: int) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        first_epoch, done = divmod(step, self.steps_per_epoch)
        for epoch in itertools.count(first_epoch):
            triples = self.epoch(epoch)
            for number in range(done, self.steps_per_epoch):
                rows = slice(number * self._batch_size, (number + 1) * self._batch_size)
                batch = {name: values[rows] for name, values in zip(NAMES, triples, strict=True)}
                yield batch, np.tile(np.array([1, 0], np.float32), (len(batch["user"]), 1))
            done = 0

    def _keys(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        return users.astype(np.int64) * self._num_items + items

    def _has(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        keys = self._keys(users, items)
        return self._known[np.minimum(np.searchsorted(self._known, keys), len(self._known) - 1)] == keys
