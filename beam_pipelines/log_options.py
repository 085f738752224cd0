"""The options of commands that read logs, and what they mean to the library."""

import argparse
from collections.abc import Sequence
from typing import Any

from beam_pipelines.format.errors import InputError
from beam_pipelines.options import BuildOptions

DEFAULT_LOGS = "artifacts/sample_logs"


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """Adds what says how logs are read and how much of them may be lost."""
    defaults = BuildOptions()
    add = parser.add_argument
    add("--columns", nargs="+", default=[], metavar="TABLE.COLUMN=NAME", help="columns that have other names")
    add("--timestamp-unit", nargs="+", default=[], metavar="UNIT|TABLE.COLUMN=UNIT", help="unit of all times, or of "
        "those in a column; what is not told is detected")  # fmt: skip
    add("--time-range", metavar="FIRST,LAST", help="the first and last moment that a row may be of; from 1995 to the "
        "end of next year if not given")  # fmt: skip
    add("--missing-markers", nargs="+", metavar="TEXT", help="what stands for a missing value in all columns; what "
        "programs write (NULL, nan, ...) if not given")  # fmt: skip
    add("--max-bad-fraction", type=float, default=defaults.max_bad_fraction, help="bad rows of a table, values of a "
        "column, page IDs, or pictures, that are tolerated")  # fmt: skip
    add("--min-joined", type=float, default=defaults.min_joined, metavar="SHARE", help="rows of impressions and events "
        "whose item, and user, must be known")  # fmt: skip
    add("--attribute-clicks", type=float, metavar="HOURS", help="a click event makes the impression before it clicked, "
        "if it is at most this much later; the column `clicked` may then be missing")  # fmt: skip


def parse_log_options(options: argparse.Namespace) -> dict[str, Any]:
    """What the options of `add_log_options` say, as arguments of `BuildOptions`."""
    return {
        "columns": parse_columns(options.columns),
        "timestamp_unit": parse_units(options.timestamp_unit),
        "time_range": parse_moments(options.time_range),
        "missing_markers": options.missing_markers,
        "max_bad_fraction": options.max_bad_fraction,
        "min_joined": options.min_joined,
        "attribute_clicks": options.attribute_clicks,
    }


def parse_columns(words: Sequence[str]) -> dict[str, str]:
    """`--columns` as `BuildOptions.columns`."""
    columns = {}
    for word in words:
        column, equals, name = word.partition("=")
        if not equals:
            raise InputError(f"`columns`: {word!r} is not TABLE.COLUMN=NAME, for example impressions.item_id=sku")
        columns[column] = name
    return columns


def parse_units(words: Sequence[str]) -> Any:
    """`--timestamp-unit` as `BuildOptions.timestamp_unit`, which checks it."""
    units = dict(word.split("=", 1) for word in words if "=" in word)
    if not words or len(units) == len(words):
        return units or None
    if len(words) > 1:
        raise InputError(f"`timestamp_unit` must be one unit, or TABLE.COLUMN=UNIT each. Received: {' '.join(words)}")
    return words[0]


def parse_moments(text: str | None) -> list[str] | None:
    """`FIRST,SECOND` as the library takes it, which checks it."""
    return text.split(",") if text else None
