"""Averaged weights: what validation sees of a model that `LazyAdam` trains, and what is kept of it."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from models.training.lazy_adam import LazyAdam


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """In it, a model has the averages for weights if its optimizer keeps them; afterwards its own ones again."""
    own = _average(model)
    try:
        yield
    finally:
        _assign(model, own)


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
        self._own: list[tf.Tensor] | None = None  # weights, while the model has averages
        self._begins = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook."""
        self._own, self._begins = None, True

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: training goes on with the weights themselves."""
        if self._own is not None:
            _assign(self.model, self._own)
            self._own = None
        optimizer = _averaging_optimizer(self.model)
        if self._begins and optimizer is not None:
            with self.model.distribute_strategy.scope():
                optimizer.restart_average()
        self._begins = False

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: validation sees averages."""
        self._average()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: what follows sees averages, which are kept after the last epoch."""
        self._average()

    def _average(self) -> None:
        if self._own is None:
            self._own = _average(self.model)


def _averaging_optimizer(model: keras.Model) -> LazyAdam | None:
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # which one may scale the loss for
    return optimizer if isinstance(optimizer, LazyAdam) and optimizer.average else None


def _average(model: keras.Model) -> list[tf.Tensor]:
    """Gives a model the averages for weights; returns its own ones, none if the optimizer keeps no averages."""
    optimizer = _averaging_optimizer(model)
    if optimizer is None:
        return []
    own = [tf.identity(weight.value) for weight in model.trainable_variables]
    _assign(model, optimizer.averages())
    return own


def _assign(model: keras.Model, values: Sequence[tf.Tensor]) -> None:
    if values:
        with model.distribute_strategy.scope():
            for weight, value in zip(model.trainable_variables, values, strict=True):
                weight.assign(value)
