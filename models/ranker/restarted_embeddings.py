"""Embeddings that see every page once, however many epochs the network around them learns."""

import keras
import numpy as np
import tensorflow as tf

from models.training.lazy_adam import LazyAdam

_LARGEST = 0.05
"""Smaller than those of the first epoch: what reads the embeddings has learned to by now."""


class RestartedEmbeddings(keras.callbacks.Callback):
    """Lets a ranker's embeddings of IDs begin anew in every epoch, while the rest of it goes on.

    What a ranker learns by heart in its second epoch are embeddings of IDs that it has seen a few times: from then on
    training loss falls and validation gets worse. Embeddings that begin anew cannot; towers, attention and MLP learn
    from every epoch to read embeddings that have seen each page once, which those of the last epoch are.

    Texts and ages of steps go on: their rows are few. Categories and numbers in quantiles begin anew with the IDs.
    `LazyAdam` forgets the moments of what begins anew; those of another optimizer go on.

    In a run that goes on after an interruption, an epoch that had begun is not begun anew; the new values depend on the
    seed and the epoch alone.

    Args:
        steps_per_epoch: as in `fit`.
        seed: of the new values.

    Reference: Liu et al., Multi-Epoch Learning for Deep Click-Through Rate Prediction Models (arXiv 2305.19531, 2023).
    """

    def __init__(self, steps_per_epoch: int, seed: int = 0) -> None:
        super().__init__()
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Keras' hook."""
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if not epoch or int(tf.cast(optimizer.iterations, tf.int64)) != epoch * self.steps_per_epoch:
            return
        with self.model.distribute_strategy.scope():
            layers = [layer for member in self.model.members for layer in member.id_embeddings()]
            for number, layer in enumerate(layers):
                seed = np.random.SeedSequence((self.seed, epoch, number)).generate_state(1)[0] >> 1
                layer.restart(_LARGEST, int(seed))
            if isinstance(optimizer, LazyAdam):
                optimizer.forget([layer.embeddings for layer in layers])
