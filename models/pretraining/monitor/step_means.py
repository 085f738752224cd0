"""What the latest steps of training were like, out of logs that are means since the epoch began."""

import time
from collections.abc import Mapping
from typing import Any

import keras

_SUMS = ("pictures",)  # logs that are sums since the epoch began


class StepMeans:
    """Takes Keras' running means of an epoch apart into the means of parts of it.

    A part begins where `begin` was called; at first it is the epoch.

    Args:
        replicas: that the logs are means over, those that should be sums included.
    """

    def __init__(self, replicas: int = 1) -> None:
        self._replicas = replicas
        self.begin(0, {})

    def begin(self, steps: int, logs: Mapping[str, float]) -> None:
        """Begins a part.

        Args:
            steps: of the epoch that are done.
            logs: of `on_train_batch_end`.
        """
        self._steps, self._logs, self._time = steps, dict(logs), time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the part began."""
        return time.monotonic() - self._time

    def means(self, steps: int, logs: Mapping[str, float]) -> dict[str, float]:
        """The means of the part so far, with `images_per_second` instead of `pictures`; for arguments see `begin`."""
        part = {}
        for name, value in logs.items():
            before = self._logs.get(name, 0.0)
            if name in _SUMS:
                part["images_per_second"] = self._replicas * (value - before) / max(self.seconds, 1e-9)
            else:
                part[name] = (value * steps - before * self._steps) / (steps - self._steps)
        return part


class StepCallback(keras.callbacks.Callback):
    """Base of callbacks that look at parts of epochs: Keras calls `on_step` after each step.

    In an epoch that goes on in its middle, `fit` also counts the steps that an earlier process made (see
    `DistributedFit`), and the logs of the first step that follows are the first to tell what those were like. So none
    of these come to `on_step`, and the epoch's first part begins behind them.

    Attributes:
        step_means: its first part begins with the epoch, or behind the steps that do not come.
    """

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: a new epoch."""
        self.step_means = StepMeans(self.model.distribute_strategy.num_replicas_in_sync)
        self._skipped = getattr(self.model, "steps_to_skip", 0)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        """Keras' hook: leaves out the steps of an earlier process and the first one behind them."""
        if 0 < self._skipped >= batch:
            self.step_means.begin(batch + 1, logs)
        else:
            self.on_step(batch + 1, logs)

    def on_step(self, step: int, logs: dict[str, float]) -> None:
        """What to do after a step.

        Args:
            step: of the epoch, from 1 on.
            logs: as `on_train_batch_end` has them.
        """
        raise NotImplementedError
