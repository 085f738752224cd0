"""Logs to page datasets: an Apache Beam job, and what others need to read what it wrote. Imports no TensorFlow.

Example:
    >>> from beam_pipelines import BuildOptions, build_dataset
    >>> options = BuildOptions(split_by_time=("2026-03-01", "2026-03-08"))
    >>> manifest = build_dataset("my_logs", "my_dataset", options)
"""

import contextlib
import importlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from beam_pipelines.format.manifest import Manifest
    from beam_pipelines.options import BuildOptions
    from beam_pipelines.pipeline import build_dataset

__all__ = ["BuildOptions", "Manifest", "build_dataset"]

_HOME = {
    "BuildOptions": "beam_pipelines.options",
    "Manifest": "beam_pipelines.format.manifest",
    "build_dataset": "beam_pipelines.pipeline",
}


def __getattr__(name: str) -> object:
    """Imports what the package offers when it is asked for: Beam and Arrow take a second."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _without_beams_notice():
        return getattr(importlib.import_module(_HOME[name]), name)


@contextlib.contextmanager
def _without_beams_notice() -> Iterator[None]:
    """Drops what Beam logs at import about Google Cloud's clients, which are optional: nothing here needs them."""

    def is_wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("apitools not found")

    root, handler = logging.getLogger(), logging.NullHandler()
    root.addFilter(is_wanted)
    root.addHandler(handler)  # without any, the first record would configure logging for good
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.removeFilter(is_wanted)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
