"""Keeps the weights of the best epoch."""

from typing import Any

import keras
import numpy as np


class BestWeights(keras.callbacks.Callback):
    """Remembers the weights of the epoch with the highest value of a log, and gives them back after training.

    Args:
        monitor: name of the log; more is better.

    Attributes:
        value: the highest one so far.
        weights: the model's weights then, `model.get_weights()`; none before the first epoch's end.
    """

    def __init__(self, monitor: str) -> None:
        super().__init__()
        self.monitor = monitor
        self.value = -np.inf
        self.weights: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: compares."""
        if logs[self.monitor] > self.value:
            self.value = float(logs[self.monitor])
            self.weights = self.model.get_weights()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: gives the best weights back."""
        if self.weights:
            with self.model.distribute_strategy.scope():
                self.model.set_weights(self.weights)
