"""Keeps Beam from configuring the logging of whoever imports or runs it."""

import contextlib
import logging
from collections.abc import Iterator


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
