"""Keeps the weights of the best epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np


class BestWeights(keras.callbacks.Callback):
    """Remembers the weights of the epoch with the highest value of a log, and gives them back after training.

    Args:
        monitor: name of the log; more is better.
        patience: epochs without a higher value after which training stops; `None` for never.

    Attributes:
        value: the highest one so far.
        weights: the model's weights then, `model.get_weights()`; none before the first epoch's end.
    """

    def __init__(self, monitor: str, patience: int | None = None) -> None:
        super().__init__()
        self.monitor = monitor
        self.patience = patience
        self._values: list[float] = []
        self.value = -np.inf
        self.weights: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: compares."""
        self._values.append(float(logs[self.monitor]))
        if logs[self.monitor] > self.value:
            self.value = float(logs[self.monitor])
            self.weights = self.model.get_weights()
        if self.is_patience_over({self.monitor: self._values}):
            self.model.stop_training = True

    def is_patience_over(self, history: Mapping[str, Sequence[float]]) -> bool:
        """Whether the epochs so far say that training should stop; an interrupted run hands in those before it, too."""
        self._values = list(history.get(self.monitor, []))
        if self.patience is None or not self._values:
            return False
        best = int(np.argmax(np.nan_to_num(self._values, nan=-np.inf)))
        return len(self._values) - 1 - best >= self.patience

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: gives the best weights back."""
        if self.weights:
            with self.model.distribute_strategy.scope():
                self.model.set_weights(self.weights)
