"""Trains a model so that no run is lost: with checkpoints in mid-epoch, from which it goes on exactly."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from beam_pipelines.shell.progress import is_progress_shown
from models.training.averaged_weights import averaged_weights
from models.training.checkpoints import Checkpoints
from models.training.step_checkpoints import BestWeights, StepCheckpoints


def resumable_fit(
    model: keras.Model,
    batches: Callable[[int], tf.data.Dataset | tf.distribute.DistributedDataset],
    checkpoints: Checkpoints,
    *,
    steps_per_epoch: int,
    epochs: int,
    checkpoint_minutes: float,
    monitor: str | None = None,
    patience: int | None = None,
    own_progress: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **options: Any,
) -> dict[str, list[float | None]]:
    """Trains with `model.fit`, from the latest checkpoint on if there is one.

    A run that was killed and goes on ends with the weights of one that was not, to the last bit if its steps are
    deterministic: a checkpoint holds weights, random states, the optimizer's variables, the metrics of the epoch so
    far, the best weights so far and the history; the data must depend on the step's number alone.

    After SIGTERM the step is finished, a checkpoint written and the process ended with exit code 143. Under several
    workers the chief writes, all read the same files, and all end if one is told to.

    Args:
        model: a compiled `DistributedFit`.
        batches: the training data from the given step on, for `fit`.
        checkpoints: where they are, open.
        steps_per_epoch, epochs: the whole training.
        checkpoint_minutes: time between checkpoints; 0 writes one after every step. Another is written when the steps
            of an epoch are done.
        monitor: a log of the epochs; the weights of the epoch with the highest one are given back at the end.
        patience: epochs without a higher one after which training ends; `None` for all epochs.
        own_progress: whether the callbacks tell of the progress; otherwise Keras does, where progress is shown.
        callbacks: called before this function's own. In an epoch that goes on they see the steps that are left.
        options: other arguments of `fit`, which shuffles nothing.

    Returns:
        What `fit` calls history: the logs of all epochs, those before an interruption included; `None` where one is
        undefined.

    Raises:
        ArtifactError: the checkpoint is of another run or model.
        InputError: the loss or a weight is not finite any more, or the monitored log is undefined.
    """
    if patience is not None and monitor is None:
        raise ValueError("`patience` needs a `monitor`. Received: monitor=None")
    best = BestWeights(monitor, patience) if monitor else None
    verbose = (1 if sys.stdout.isatty() else 2) if is_progress_shown() and not own_progress else 0
    progress = StepCheckpoints(checkpoints, steps_per_epoch, epochs, checkpoint_minutes, best)
    with _on_sigterm(progress.ask_to_stop):
        model.prepare_fit()
        progress.resume(model)
        everything = _Callbacks(
            [*callbacks, *([best] if best else [])],
            progress,
            add_history=True,
            add_progbar=verbose != 0,
            model=model,
            verbose=verbose,
            epochs=epochs,
            steps=steps_per_epoch,
        )
        ended = best is not None and best.is_patience_over(progress.history)
        model.fit(
            batches(progress.step),
            epochs=progress.epoch if ended else epochs,
            initial_epoch=progress.epoch,
            steps_per_epoch=steps_per_epoch,
            callbacks=everything,
            shuffle=False,  # the order of the batches follows from the step's number
            **options,
        )
    return progress.history


class _Callbacks(keras.callbacks.CallbackList):
    """Does not tell of steps that are skipped, and at the end of an epoch shows averages, if there are any."""

    def __init__(
        self, callbacks: Sequence[keras.callbacks.Callback], progress: StepCheckpoints, **options: Any
    ) -> None:
        super().__init__([*callbacks, progress], **options)
        self._progress = progress

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._skipped = self.model.steps_to_skip > 0
        if not self._skipped:
            super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._skipped:
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # What validates and what keeps the best weights sees averages; checkpoints hold the weights themselves.
        with averaged_weights(self.model):
            super().on_epoch_end(epoch, logs)
        self._progress.epoch_has_ended()


@contextlib.contextmanager
def _on_sigterm(call: Callable[[], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, lambda *_: call())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
