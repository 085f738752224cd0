"""Averaged weights in plain `fit`: what validation sees and what is kept."""

import contextlib
from typing import Any

import keras

from models.training.lazy_adam import LazyAdam, averaged_weights


class AveragedWeights(keras.callbacks.Callback):
    """Gives a model the averages that `LazyAdam(average=True)` keeps for weights, whenever anyone looks.

    Validation, the callbacks at the end of an epoch (`EarlyStopping`, `ModelCheckpoint`) and whoever has the model
    after training see the averages; training steps go on with the weights themselves. Without such an optimizer it does
    nothing. Put it first. `Ranker.fit` does so by itself.

    A `fit` that follows another one, or that `BackupAndRestore` begins, goes on from the averages, as if the weights
    had been these all along.
    """

    def __init__(self) -> None:
        super().__init__()
        self._averaged = contextlib.ExitStack()
        self._is_averaged = False
        self._begins = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook."""
        self._begins = True

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: training goes on with the weights themselves."""
        self._averaged.close()
        self._is_averaged = False
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if self._begins and isinstance(optimizer, LazyAdam):
            with self.model.distribute_strategy.scope():
                optimizer.restart_average()
        self._begins = False

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: validation sees averages."""
        self._average()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: what follows sees averages."""
        self._average()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: averages are what is kept."""
        self._averaged.pop_all()

    def _average(self) -> None:
        if not self._is_averaged:
            self._averaged.enter_context(averaged_weights(self.model))
            self._is_averaged = True
