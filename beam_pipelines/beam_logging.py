"""Keeps Beam from configuring the logging of whoever imports or runs it, and from logging what is raised as well."""

import contextlib
import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

_BEAM = logging.getLogger("apache_beam")


@contextlib.contextmanager
def logging_left_alone() -> Iterator[None]:
    """What is logged in the block goes where it went before, and no handler stays behind.

    Beam calls functions such as `logging.warning`: in a process that has not configured logging, these install a
    handler for good, on whatever standard error is at that moment.
    """
    root, handler = logging.getLogger(), logging.lastResort
    if root.handlers or handler is None:
        yield
        return
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


@contextlib.contextmanager
def without_notice_of_missing_clients() -> Iterator[None]:
    """Drops what Beam logs at import about Google Cloud's clients, which are optional: nothing here needs them."""

    def is_wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("apitools not found")

    root = logging.getLogger()
    root.addFilter(is_wanted)
    try:
        yield
    finally:
        root.removeFilter(is_wanted)


@contextlib.contextmanager
def errors_held_back() -> Iterator[None]:
    """Leaves out what Beam logs about an error that the block raises: whoever catches that has all of it.

    An exception in a worker is logged with its traceback, and printed, two or three times before it is raised. If the
    block ends well, what was held back is logged then: Beam has survived it. Warnings, and all loggers but Beam's, are
    as before.
    """
    held: list[logging.LogRecord] = []
    root = logging.getLogger()
    passes_on = _BEAM.propagate

    def sort(record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            held.append(record)
        elif passes_on:
            root.callHandlers(record)

    def is_no_error_of_beam(record: logging.LogRecord) -> bool:
        """For what Beam logs by functions such as `logging.error`."""
        if record.levelno < logging.ERROR or "apache_beam" not in Path(record.pathname).parts:
            return True
        held.append(record)
        return False

    handler = _CallingHandler(sort)
    _BEAM.addHandler(handler)
    _BEAM.propagate = False
    root.addFilter(is_no_error_of_beam)
    try:
        with _threads_of_beam_end_quietly(), _workers_print_nothing():
            yield
    finally:
        root.removeFilter(is_no_error_of_beam)
        _BEAM.propagate = passes_on
        _BEAM.removeHandler(handler)
    if passes_on:
        for record in held:
            root.callHandlers(record)


class _CallingHandler(logging.Handler):
    """Hands records to a function."""

    def __init__(self, function: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._function = function

    def emit(self, record: logging.LogRecord) -> None:
        self._function(record)


@contextlib.contextmanager
def _threads_of_beam_end_quietly() -> Iterator[None]:
    """Threads that listen to a worker end with an exception, printed by Python, when that worker has died."""
    before = threading.excepthook

    def hook(ended: threading.ExceptHookArgs, /) -> None:
        files = [frame.filename for frame in traceback.extract_tb(ended.exc_traceback)]
        if not any("apache_beam" in Path(file).parts for file in files):
            before(ended)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


@contextlib.contextmanager
def _workers_print_nothing() -> Iterator[None]:
    """Worker threads print the tracebacks that they log as well."""
    from apache_beam.runners.worker import sdk_worker

    setattr(sdk_worker, "print", lambda *values, **options: None)  # noqa: B010 - hides the built-in one in this module
    try:
        yield
    finally:
        delattr(sdk_worker, "print")
