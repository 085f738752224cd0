"""How the values of a log are to be read, as far as a user may tell or the files may show."""

import dataclasses
from collections.abc import Mapping

from beam_pipelines.logs.moments import TimestampUnit

MISSING_MARKERS = ("\\N", "NULL", "null", "NaN", "nan", "None", "N/A", "n/a", "<NA>", "-")
"""What programs write for a value that is not there, beside nothing at all."""


@dataclasses.dataclass(frozen=True)
class ReadingRules:
    """How values are read.

    Attributes:
        units: unit of the times in a column, by `TABLE.COLUMN`. Columns of a date type are not among them.
        missing_markers: texts that stand for a missing value, in every column.
        time_range: the first and the last moment that a row may be of, in epoch milliseconds, both inclusive.
    """

    units: Mapping[str, TimestampUnit]
    missing_markers: tuple[str, ...] = MISSING_MARKERS
    time_range: tuple[int, int] = (0, 253_402_300_799_999)
