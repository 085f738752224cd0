"""Pre-training's curves for TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from models.pretraining.monitor.collapse import collapse_loss
from models.pretraining.monitor.step_means import StepCallback
from models.training.replicas import is_chief

_VALIDATION = "val_"


class TensorBoardCurves(StepCallback):
    """Writes all logs, the speed and the learning rate as curves: `tensorboard --logdir DIRECTORY`.

    `steps/NAME` has means over `every_steps` steps by the number of the step (Keras' own callback writes the mean since
    the epoch began, which jumps at each epoch); `epochs/NAME` has each epoch's values by its number, training and
    validation as two curves of one chart. The chart of the page-view loss has one more, `collapse`: the loss if all
    embeddings were alike. A loss that lies on it does not learn.

    Put it behind the callbacks that complete the logs. Of several workers, only the chief writes.

    Args:
        directory: log directory; it must not be the parent or a child of one with TensorFlow checkpoints, which the
            embedding projector would list.
        every_steps: steps per point of the step curves.
    """

    def __init__(self, directory: Path | str, every_steps: int = 20) -> None:
        super().__init__()
        if every_steps < 1:
            raise ValueError(f"`every_steps` must be at least 1. Received: {every_steps}")
        self.directory = Path(directory)
        self.every_steps = every_steps
        self._writers: dict[str, tf.summary.SummaryWriter] = {}

    def write_epoch(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Writes the values of an epoch, counted from 1; 0 for what was measured before training."""
        training = {name: value for name, value in logs.items() if not name.startswith(_VALIDATION)}
        validation = {
            name.removeprefix(_VALIDATION): value for name, value in logs.items() if name.startswith(_VALIDATION)
        }
        self._write("epochs", epoch, "train", training)
        self._write("epochs", epoch, "validation", validation)
        for writer in self._writers.values():
            writer.flush()

    def on_step(self, step: int, logs: dict[str, float]) -> None:
        """Writes a point of the step curves."""
        if step % self.every_steps == 0 or step == self.params["steps"]:
            part = self.step_means.means(step, logs)
            self.step_means.begin(step, logs)
            part["learning_rate"] = _learning_rate(self.model.optimizer)
            self._write("steps", int(ops.convert_to_numpy(self.model.optimizer.iterations)), "train", part)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Keras' hook: writes the epoch."""
        self.write_epoch(epoch + 1, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: closes the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _write(self, group: str, step: int, run: str, values: Mapping[str, float]) -> None:
        if not values or not is_chief(self.model.distribute_strategy):
            return
        with self._writer(run).as_default(step):
            for name, value in values.items():
                tf.summary.scalar(f"{group}/{name}", value)
        alike = collapse_loss(values)
        if alike is not None:
            with self._writer("collapse" if run == "train" else f"{run}_collapse").as_default(step):
                tf.summary.scalar(f"{group}/page_view_loss", alike)

    def _writer(self, run: str) -> tf.summary.SummaryWriter:
        if run not in self._writers:
            self._writers[run] = tf.summary.create_file_writer(str(self.directory / run))
        return self._writers[run]


def _learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a loss scale optimizer
    return float(ops.convert_to_numpy(inner.learning_rate))
