"""How the values of a log are to be read, as far as a user may tell or the files may show."""

import dataclasses
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.logs.contract import Kind
from beam_pipelines.logs.moments import TimestampUnit, default_time_range, year_begins

TEXT_MARKERS = (
    "\\N",
    "NULL",
    "null",
    "(null)",
    "<null>",
    "<NULL>",
    "[NULL]",
    "NaN",
    "nan",
    "None",
    "NaT",
    "<NA>",
    "#N/A",
)
"""What programs write for a value that is not there, beside nothing at all; nobody means them as a text."""
_WORDS = ("Null", "none", "nil", "NA", "N/A", "n/a", "undefined", "-", "--")
MISSING_MARKERS = (*TEXT_MARKERS, *_WORDS, "0000-00-00", "0000-00-00 00:00:00")
"""The same for columns that are not free text. There, `NA` may be Namibia, and `-` a title."""

_DAY = 86_400_000


@dataclasses.dataclass(frozen=True)
class ReadingRules:
    """How values are read.

    Attributes:
        units: unit of the times in a column, by `TABLE.COLUMN`. Columns of a date type need none.
        missing_markers: what stands for a missing value, beside nothing: compared exactly, spaces around it left out.
        text_markers: the same in columns of free text (titles, categories, queries).
        time_range: the first and the last moment that a row may be of, in epoch milliseconds, both inclusive.
    """

    units: Mapping[str, TimestampUnit]
    missing_markers: tuple[str, ...] = MISSING_MARKERS
    text_markers: tuple[str, ...] = TEXT_MARKERS
    time_range: tuple[int, int] = dataclasses.field(default_factory=default_time_range)

    def markers(self, kind: Kind) -> tuple[str, ...]:
        """What stands for a missing value in a column."""
        return self.text_markers if kind == "text" else self.missing_markers

    def range_of(self, table: str) -> tuple[int, int]:
        """The moments that the times of a table may be of. Books and films were published before there were logs."""
        first, last = self.time_range
        return (min(first, year_begins(1800)), last) if table in ("items", "users") else (first, last)

    def out_of_range(self, name: str, moments: pa.Array) -> pa.Array:
        """Where the times of a column `TABLE.COLUMN` are of no moment that they may be of.

        Where old times are allowed, numbers that were taken for a smaller unit than theirs would be times of 1970. So
        numbers are of no time of that year, and dates of none in its January but whole days.
        """
        first, last = self.range_of(name.split(".")[0])
        outside = pc.or_(pc.less(moments, first), pc.greater(moments, last))
        if first < self.time_range[0]:
            number = self.units.get(name, "iso").endswith("seconds")
            end = year_begins(1971) if number else 31 * _DAY
            suspicious = pc.and_(pc.greater_equal(moments, 0), pc.less(moments, end))
            if not number:
                midnight = pc.equal(pc.multiply(pc.divide(moments, _DAY), _DAY), moments)
                suspicious = pc.and_not(suspicious, midnight)
            outside = pc.or_(outside, suspicious)
        return pc.fill_null(outside, False)
