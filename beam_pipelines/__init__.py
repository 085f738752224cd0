"""Logs to page datasets: an Apache Beam job, and what others need to read what it wrote. Imports no TensorFlow.

Example:
    >>> from beam_pipelines import BuildOptions, build_dataset
    >>> options = BuildOptions(split_by_time=("2026-03-01", "2026-03-08"))
    >>> manifest = build_dataset("my_logs", "my_dataset", options)
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from beam_pipelines.format.manifest import Manifest
    from beam_pipelines.logs.log_check import LogCheck
    from beam_pipelines.options import BuildOptions
    from beam_pipelines.pipeline import build_dataset, check_logs, submit_dataset

__all__ = ["BuildOptions", "LogCheck", "Manifest", "build_dataset", "check_logs", "submit_dataset"]

_HOME = {
    "BuildOptions": "beam_pipelines.options",
    "LogCheck": "beam_pipelines.logs.log_check",
    "Manifest": "beam_pipelines.format.manifest",
    "build_dataset": "beam_pipelines.pipeline",
    "submit_dataset": "beam_pipelines.pipeline",
    "check_logs": "beam_pipelines.pipeline",
}


def __getattr__(name: str) -> object:
    """Imports what the package offers when it is asked for: Beam and Arrow take a second."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from beam_pipelines.beam_logging import logging_left_alone, without_notice_of_missing_clients

    with logging_left_alone(), without_notice_of_missing_clients():
        return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
