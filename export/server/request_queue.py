"""How many requests run at once, how many wait for that, and until when."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import grpc

from export.server.serving_error import ServingError

_LOOK_SECONDS = 0.05
"""How often a request that waits looks whether its client is still there."""


class Deadline:
    """Until when somebody waits for an answer.

    Args:
        seconds: from now; `None` if for as long as it takes.
        is_wanted: whether the client still waits.
    """

    def __init__(self, seconds: float | None, is_wanted: Callable[[], bool] = lambda: True) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._is_wanted = is_wanted

    def remaining(self) -> float | None:
        """Seconds until then, more than 0; `None` if there is no limit.

        Raises:
            ServingError: it has passed, or the client has gone.
        """
        if not self._is_wanted():
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
        running: requests that may run at the same time.
        waiting: requests that may wait.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self.running, self.waiting = running, waiting
        self._places = threading.Semaphore(running)
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
                if self._places.acquire(timeout=_LOOK_SECONDS if remaining is None else min(_LOOK_SECONDS, remaining)):
                    break
            try:
                deadline.remaining()  # may have passed in the last moment
                yield
            finally:
                self._places.release()
        finally:
            with self._lock:
                self._entered -= 1
