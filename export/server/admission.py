"""What a request must pass before a model runs: how large it may be, how long it may take, and whose turn it is."""

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import grpc

from beam_pipelines.format.errors import InputError
from export.server.serving_error import ServingError

MAX_WAITING = 64
"""Requests that wait for their turn, if nothing else is asked for."""

_CHECK_SECONDS = 0.05
"""How often a request that waits checks that its client is still there."""


class RequestLimits(NamedTuple):
    """The largest request.

    What a model computes grows with the product of its inputs' sizes (candidates times history, for one), so a request
    of a few megabytes could ask for more memory than there is.

    Attributes:
        request_bytes: of the message or body.
        row_length: the largest dimension of an input after the first, the batch.
        values: of all inputs together.
        rest_seconds: that a REST request may take, which brings no deadline of its own.
    """

    request_bytes: int = 32 << 20
    row_length: int = 4096
    values: int = 4 << 20
    rest_seconds: float = 30.0

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuses inputs that are too large.

        Args:
            shapes: of the inputs by name.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, with the limit.
        """
        values = 0
        for name, shape in shapes.items():
            if max(shape[1:], default=0) > self.row_length:
                raise _too_large(f"Input {name} has shape {list(shape)}; a row may have {self.row_length} values")
            values += math.prod(shape)  # Python's integers do not overflow
        if values > self.values:
            raise _too_large(f"The inputs have {values} values; a request may have {self.values}")


class Deadline:
    """Until when somebody waits for an answer.

    Args:
        seconds: from now; `None` if for as long as it takes.
        is_active: whether the client still waits.
    """

    def __init__(self, seconds: float | None, is_active: Callable[[], bool] = lambda: True) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._is_active = is_active

    def remaining(self) -> float | None:
        """Seconds until then, more than 0; `None` if there is no limit.

        Raises:
            ServingError: it has passed, or the client has gone.
        """
        if not self._is_active():
            raise ServingError(grpc.StatusCode.CANCELLED, "The client cancelled the request before the model ran")
        if self._end is None:
            return None
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded before the model ran")
        return seconds


class RequestQueue:
    """Lets a few requests through at a time; some more may wait, and any beyond them are refused at once.

    Args:
        running: requests that may run at the same time; `None` for one per CPU.
        waiting: requests that may wait.

    Raises:
        InputError: none may run, or fewer than none may wait.
    """

    def __init__(self, running: int | None = None, waiting: int = MAX_WAITING) -> None:
        self.running = (os.cpu_count() or 1) if running is None else running
        self.waiting = waiting
        if self.running < 1:
            raise InputError(f"`running` must be at least 1. Received: {running}")
        if waiting < 0:
            raise InputError(f"`waiting` must be at least 0. Received: {waiting}")
        self._turns = threading.Semaphore(self.running)
        self._entered = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def admitted(self, deadline: Deadline) -> Iterator[None]:
        """Waits for its turn; the block is then one of the requests that run.

        Raises:
            ServingError: UNAVAILABLE if too many wait already, or see `Deadline.remaining`.
        """
        with self._lock:
            if self._entered >= self.running + self.waiting:
                raise ServingError(
                    grpc.StatusCode.UNAVAILABLE,
                    f"The queue of requests is full: {self.running} run and {self.waiting} wait; try again later",
                )
            self._entered += 1
        try:
            while True:
                remaining = deadline.remaining()
                if self._turns.acquire(timeout=_CHECK_SECONDS if remaining is None else min(_CHECK_SECONDS, remaining)):
                    break
            try:
                deadline.remaining()  # may have passed in the last moment
                yield
            finally:
                self._turns.release()
        finally:
            with self._lock:
                self._entered -= 1


def _too_large(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
