"""What became of the values of a column: conservation, column by column."""

from collections.abc import Mapping
from typing import NamedTuple

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.contract import ACCEPTED, Kind, find_column
from beam_pipelines.logs.moments import appearance


class LostValue(NamedTuple):
    """A value that could not be read, and its place.

    Attributes:
        file: the file's name.
        line: its number there, from 1; of Parquet, the row's.
        value: as far as it is to be shown.
    """

    file: str
    line: int
    value: str

    def __str__(self) -> str:
        return f"'{self.value}' in {self.file}:{self.line}"


class ColumnCounts(NamedTuple):
    """What became of the values of a column.

    Attributes:
        present: rows that have a value.
        read: of these, values that could be read.
        markers: rows whose value is a marker of a missing one; they are not among those present.
        lost: the first value that could not be read; `None` if there is none.
    """

    present: int
    read: int
    markers: int = 0
    lost: LostValue | None = None

    def merge(self, other: "ColumnCounts") -> "ColumnCounts":
        """The counts of both together, in whatever order they come."""
        lost = [value for value in (self.lost, other.lost) if value is not None]
        return ColumnCounts(
            self.present + other.present,
            self.read + other.read,
            self.markers + other.markers,
            min(lost, default=None),
        )


def is_lenient(table: str, kind: Kind) -> bool:
    """Whether a value that cannot be read only empties its field, where otherwise it rejects its row."""
    return table in ("items", "users") and kind != "id"


def check_columns(table: str, columns: Mapping[str, ColumnCounts], max_bad_fraction: float) -> None:
    """Stops a build that would lose too many values of a column whose rows are not rejected for it.

    Args:
        table: its name.
        columns: the counts of whole columns.
        max_bad_fraction: of a column's values that may be lost.

    Raises:
        InputError: more of a column are.
    """
    for name, counts in columns.items():
        rule = find_column(table, name)
        if rule is None or not is_lenient(table, rule.kind):
            continue
        lost = counts.present - counts.read
        if lost > max_bad_fraction * counts.present:
            look = appearance(counts.lost.value) if rule.kind == "timestamp" and counts.lost is not None else None
            example = f"{counts.lost}{f', looks like {look}' if look else ''}"
            share = "none" if not counts.read else f"only {counts.read}"
            raise InputError(
                f"{table}.{name}: {share} of {counts.present} values could be read (e.g. {example}); accepted: "
                f"{ACCEPTED[rule.kind]}; `max_bad_fraction` allows {max_bad_fraction:g}"
            )
