"""What `resumable_fit` does while `fit` runs: keeps the best weights, writes checkpoints, ends in an orderly way."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import keras
import numpy as np

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.shell.progress import say
from models.training.checkpoints import Checkpoint, Checkpoints
from models.training.replicas import sum_over_replicas
from models.training.training_state import read_training_state, write_metrics, write_training_state

TERMINATED = 143
"""Exit code of a process that SIGTERM ended."""


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

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Keras' hook: compares.

        Raises:
            InputError: the log is undefined.
        """
        if math.isnan(logs[self.monitor]):
            raise InputError(f"{self.monitor}, by which the best epoch is chosen, is undefined after epoch {epoch + 1}")
        self._values.append(float(logs[self.monitor]))
        if logs[self.monitor] > self.value:
            self.value = float(logs[self.monitor])
            self.weights = self.model.get_weights()
        if self.is_patience_over({self.monitor: self._values}):
            self.model.stop_training = True

    def is_patience_over(self, history: Mapping[str, Sequence[Any]]) -> bool:
        """Whether the epochs so far say that training should stop; an interrupted run hands in those before it, too."""
        self._values = list(history.get(self.monitor, []))
        if self.patience is None or not self._values:
            return False
        best = int(np.argmax(self._values))
        return len(self._values) - 1 - best >= self.patience

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: gives the best weights back."""
        if self.weights:
            with self.model.distribute_strategy.scope():
                self.model.set_weights(self.weights)


class StepCheckpoints(keras.callbacks.Callback):
    """Writes a checkpoint every few minutes, when the steps of an epoch are done, and before it ends the process.

    Put it last: it records what other callbacks add to the logs. After each epoch, call `epoch_has_ended`.

    Args:
        checkpoints: where they go, open.
        steps_per_epoch, epochs: of the whole training.
        minutes: time between checkpoints; 0 writes one after every step.
        best: belongs to the checkpoint, too.

    Attributes:
        epoch: epochs that are done.
        steps: steps of the next one that are done.
        history: the logs of the epochs that are done, `None` where one is undefined.

    Raises:
        InputError: the loss or a weight is not finite any more.
        SystemExit: `ask_to_stop` was called, in this worker or another.
    """

    def __init__(
        self, checkpoints: Checkpoints, steps_per_epoch: int, epochs: int, minutes: float, best: BestWeights | None
    ) -> None:
        super().__init__()
        self.epoch = 0
        self.steps = 0
        self.history: dict[str, list[float | None]] = {}
        self._checkpoints = checkpoints
        self._steps_per_epoch = steps_per_epoch
        self._total = steps_per_epoch * epochs
        self._seconds = 60 * minutes
        self._best = best
        self._asked_to_stop = False
        self._written_at = time.monotonic()
        self._written_step: int | None = None
        self._arrays: dict[str, np.ndarray] = {}

    @property
    def step(self) -> int:
        """Steps that are done."""
        return self.epoch * self._steps_per_epoch + self.steps

    def ask_to_stop(self) -> None:
        """Ends the process after the step that is running."""
        self._asked_to_stop = True

    def resume(self, model: keras.Model) -> None:
        """Brings a `DistributedFit` to where the latest checkpoint was, if there is one.

        Raises:
            ArtifactError: the checkpoint is of another run or model, or not the one that other workers have.
        """
        checkpoint = self._checkpoints.latest()
        if checkpoint is not None:
            self.epoch, self.steps = checkpoint.state["epoch"], checkpoint.state["steps"]
        strategy = model.distribute_strategy
        if sum_over_replicas(strategy, self.step) != [self.step * strategy.num_replicas_in_sync]:
            raise ArtifactError(f"{self._checkpoints.path} must be on a file system that all workers share")
        if checkpoint is None:
            return
        self.history = checkpoint.state["history"]
        best = [name for name in checkpoint.arrays if name.startswith("best/")]
        self._arrays = {name: array for name, array in checkpoint.arrays.items() if name not in best}
        write_training_state(model, self._arrays)
        model.steps_to_skip = self.steps
        self._written_step = self.step
        if self._best is not None and best:
            self._best.value, self._best.weights = checkpoint.state["best"], [checkpoint.arrays[name] for name in best]
        say(f"resuming at step {self.step} of {self._total}")

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: starts the clock."""
        self._written_at = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: the metrics go on in mid-epoch."""
        if self.steps:
            write_metrics(self.model, self._arrays)
        self._arrays = {}

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        """Keras' hook: a step is done."""
        self.steps = batch + 1
        if not math.isfinite(loss := float(logs["loss"])):
            self._diverged(f"the loss is {loss}")
        self._write_or_stop(write=self.steps == self._steps_per_epoch)

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: the checkpoint of the epoch's steps is there, validation is made again."""
        if self._agreed(self._asked_to_stop)[0]:
            self._stop()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Keras' hook: records the logs."""
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value) if math.isfinite(value) else None)
        self.epoch, self.steps = epoch + 1, 0

    def epoch_has_ended(self) -> None:
        """Writes a checkpoint if it is time; after `on_epoch_end`, when the model has its own weights again."""
        self._write_or_stop(write=False)

    def _write_or_stop(self, *, write: bool) -> None:
        due = time.monotonic() - self._written_at >= self._seconds
        stop, due = self._agreed(self._asked_to_stop, due)
        if stop or due or write:
            self._write()
        if stop:
            self._stop()

    def _agreed(self, *questions: bool) -> list[bool]:
        """Whether any worker says yes: all must do the same at the same step."""
        return [count > 0 for count in sum_over_replicas(self.model.distribute_strategy, *questions)]

    def _write(self) -> None:
        arrays = read_training_state(self.model)
        for name, array in arrays.items():
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                self._diverged(f"{name} is not finite")
        state: dict[str, Any] = {"epoch": self.epoch, "steps": self.steps, "history": self.history}
        if self._best is not None and self._best.weights:
            arrays |= {f"best/{number:05d}": array for number, array in enumerate(self._best.weights)}
            state["best"] = self._best.value
        if not self._checkpoints.writes or self._checkpoints.write(Checkpoint(self.step, arrays, state)):
            self._written_step = self.step
        self._written_at = time.monotonic()

    def _diverged(self, what: str) -> NoReturn:
        kept = "there is no checkpoint yet"
        if self._written_step is not None:
            kept = f"the checkpoint of step {self._written_step} is kept in {self._checkpoints.path}"
        raise InputError(f"{what} at step {self.step} of {self._total}; {kept}. A lower learning_rate may help")

    def _stop(self) -> NoReturn:
        say(f"stopped by SIGTERM at step {self.step} of {self._total}; the same command goes on from there", sys.stderr)
        raise SystemExit(TERMINATED)
