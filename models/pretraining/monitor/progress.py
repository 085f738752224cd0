"""Progress of pre-training in lines that read well in a terminal and in a log file."""

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from beam_pipelines.shell.progress import is_progress_shown, say
from models.pretraining.monitor.collapse import collapse_loss
from models.pretraining.monitor.step_means import StepCallback
from models.training.replicas import is_chief

_LOG_SECONDS = 30.0
_TERMINAL_SECONDS = 0.5
_LOSSES = {"page_view_loss": "page view", "click_sequence_loss": "click sequence"}


class Progress(StepCallback):
    """Prints one line per epoch, and inside long epochs one every 30 seconds; a terminal shows the latter in place.

    Lines have the loss and its parts, images/s and the time that is left: `fit(verbose=0)` prints nothing else. Put it
    behind the callbacks that complete the logs. Of several workers, only the chief prints, and only where progress is
    shown (`show_progress`).

    Args:
        seconds: between lines inside an epoch; by default 30, and 0.5 in a terminal.
    """

    def __init__(self, seconds: float | None = None) -> None:
        super().__init__()
        self._seconds = seconds

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: looks where lines go."""
        self._in_place = sys.stdout.isatty()
        self._interval = _TERMINAL_SECONDS if self._in_place else _LOG_SECONDS
        if self._seconds is not None:
            self._interval = self._seconds
        self._speaks = is_progress_shown() and is_chief(self.model.distribute_strategy)
        self._start: tuple[float, float] | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook: a new epoch."""
        super().on_epoch_begin(epoch, logs)
        self._epoch = epoch
        self._epoch_start = time.monotonic()

    def on_step(self, step: int, logs: dict[str, float]) -> None:
        """Prints a line, if the last one is old enough."""
        if self._start is None:  # behind the first step, which is slower than all others
            self._start = (self._epochs_done(step), time.monotonic())
        if self._speaks and self.step_means.seconds >= self._interval:
            part = self.step_means.means(step, logs)
            self.step_means.begin(step, logs)
            words = [f"step {step}/{self.params['steps']}", *_training_words(part), self._left(step)]
            self._print(f"epoch {self._epoch + 1}/{self.params['epochs']}, " + ", ".join(filter(None, words)), end="")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Keras' hook: the line of the epoch."""
        if self._speaks:
            words = [
                *_training_words(logs),
                *_validation_words(logs),
                f"took {_clock(time.monotonic() - self._epoch_start)}",
                self._left(self.params["steps"]),
            ]
            self._print(f"epoch {epoch + 1}/{self.params['epochs']}: " + ", ".join(filter(None, words)), end="\n")

    def _epochs_done(self, steps: int) -> float:
        return self._epoch + steps / self.params["steps"]

    def _left(self, steps: int) -> str:
        """How long the run still takes if it goes on like this, validation included."""
        done = self._epochs_done(steps)
        left = self.params["epochs"] - done
        first, time_of_first = self._start or (done, 0.0)
        if done <= first or left <= 0:
            return ""
        return f"{_clock((time.monotonic() - time_of_first) / (done - first) * left)} left"

    def _print(self, line: str, end: str) -> None:
        if self._in_place:
            if not end:
                line = line[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be overwritten
            sys.stdout.write(f"\r\x1b[K{line}{end}")
            sys.stdout.flush()
        else:
            say(line)


def _training_words(logs: Mapping[str, float]) -> list[str]:
    words = []
    if "loss" in logs:
        parts = [f"{word} {logs[name]:.4f}" for name, word in _LOSSES.items() if name in logs]
        alike = collapse_loss(logs)
        collapse = "" if alike is None else f"; collapsed: page view {alike:.2f}"
        words.append(f"loss {logs['loss']:.4f}" + (f" ({', '.join(parts)}{collapse})" if parts else ""))
    if "positive_similarity" in logs and "negative_similarity" in logs:
        words.append(
            f"similarity {logs['positive_similarity']:.2f} of positives, {logs['negative_similarity']:.2f} of negatives"
        )
    if "gauc" in logs:
        words.append(f"click GAUC {logs['gauc']:.4f}")
    if "images_per_second" in logs:
        words.append(f"{logs['images_per_second']:,.0f} images/s")
    return words


def _validation_words(logs: Mapping[str, float]) -> list[str]:
    words = {
        "val_loss": "validation loss {:.4f}",
        "val_gauc": "click GAUC {:.4f}",
        "val_similarity_gauc": "similarity GAUC {:.4f}",
        "val_effective_rank": "effective rank {:.1f}",
    }
    return [word.format(logs[name]) for name, word in words.items() if name in logs]


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
