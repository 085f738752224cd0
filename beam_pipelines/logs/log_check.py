"""What a build would use of a log directory, what it would lose, and whether that would stop it."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import pyarrow as pa

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Manifest
from beam_pipelines.images.picture_check import PictureCheck
from beam_pipelines.logs.catalog import known_ids, newest_values
from beam_pipelines.logs.column_counts import check_columns
from beam_pipelines.logs.directory import LogDirectory
from beam_pipelines.logs.joins import CheckedJoin, check_joins
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.logs.rejections import check_bad_fraction
from beam_pipelines.logs.survey import TableSurvey, survey_tables
from beam_pipelines.logs.time_units import DetectedUnit, detect_units


@dataclasses.dataclass(frozen=True)
class LogCheck:
    """A log directory as a build would read it.

    Attributes:
        directory: the directory and its tables.
        times: `TABLE.COLUMN` to the unit of its times.
        reading: how values are read.
        survey: what the tables hold, by name.
        newest: `items` and `users`, as far as the logs have them, one row per ID; see `catalog.newest_values`.
        counters: rows that repeat an ID, and IDs whose rows differ.
        joins: by table and the table that it names IDs of.
        problems: what would stop a build, a line each.
        warnings: what would not, but looks wrong.
        pictures: how many items have a picture that is there; `None` if they were not looked for.
    """

    directory: LogDirectory
    times: Mapping[str, DetectedUnit]
    reading: ReadingRules
    survey: Mapping[str, TableSurvey]
    newest: Mapping[str, pa.Table]
    counters: Counter[str]
    joins: Mapping[tuple[str, str], CheckedJoin]
    problems: list[str]
    warnings: list[str]
    pictures: PictureCheck | None = None

    def told(self) -> Iterator[str]:
        """What a build says of the logs: units of times, conservation of rows, repeated IDs."""
        for name, time in self.times.items():
            yield f"{name}: {time}"
        for name, table in self.survey.items():
            yield table.conservation(name)
        yield from self.repeated_ids()

    def repeated_ids(self) -> Iterator[str]:
        """What is said of items and users that have several rows."""
        for name in self.newest:
            if repeated := self.counters[f"{name}.duplicate"]:
                conflicting = self.counters[f"{name}.conflicting"]
                yield (
                    f"{name}: {repeated:,} rows repeat an ID, {conflicting:,} IDs have different values; the newest "
                    "value that is not empty counts"
                )

    def raise_problems(self) -> None:
        """Raises the first problem, if there is one, and says how many more there are.

        Raises:
            InputError: there is one.
        """
        if self.problems:
            more = len(self.problems) - 1
            hint = f" (and {more} more: beam_pipelines.check lists them)" if more else ""
            raise InputError(self.problems[0] + hint)


def check_tables(
    directory: LogDirectory,
    told: ReadingRules,
    *,
    max_bad_fraction: float,
    min_joined: float,
    previous: tuple[Path, Manifest] | None = None,
) -> LogCheck:
    """Reads all rows of a log directory once and compares what is found with what may be lost.

    Args:
        directory: the directory.
        told: how values are read; units of times that are not told are detected.
        max_bad_fraction: share of the rows of a table, or of the values of a column, that may be bad.
        min_joined: share of the rows of impressions and events whose item, and user, must be known. If the others are
            known in another spelling, `max_bad_fraction` bounds their share, too.
        previous: an earlier dataset, whose items and users are known, too.

    Raises:
        InputError: a file is damaged, a column has an impossible type, or the unit of times cannot be told.
    """
    times = detect_units(directory.tables, told)
    reading = dataclasses.replace(told, units={name: time.unit for name, time in times.items()})
    survey = survey_tables(directory.tables, reading)
    counters: Counter[str] = Counter()
    newest: dict[str, pa.Table] = {}
    known: dict[str, pa.Array] = {}
    tables: tuple[Literal["items", "users"], ...] = ("items", "users")
    for name in tables:
        if name in survey and (rows := survey[name].valid) is not None:
            newest[name] = newest_values(name, rows, counters)
            known[name] = known_ids(name, newest, previous)
    joins = check_joins(survey, known)

    problems = [problem for name, table in survey.items() for problem in _lost(name, table, max_bad_fraction)]
    warnings = []
    for (table, other), join in joins.items():
        described = join.describe(table, other)
        if join.counts.share < min_joined:
            problems.append(f"{described}; `min_joined` is {min_joined:g}")
        elif join.cause and 1 - join.counts.share > max_bad_fraction:
            problems.append(f"{described}; `max_bad_fraction` allows {max_bad_fraction:g} of such")
        elif join.cause:
            warnings.append(described)
    return LogCheck(directory, times, reading, survey, newest, counters, joins, problems, warnings)


def _lost(name: str, table: TableSurvey, max_bad_fraction: float) -> Iterator[str]:
    """What of a table is lost beyond the bound: rows, or values of a column."""
    rejected = table.rejected.by_reason()
    reasons = Counter({reason: rows.rows for reason, rows in rejected.items()})
    examples = list(map(str, rejected.values()))
    for check in (
        lambda: check_bad_fraction(f"rows of {name}", reasons, table.rows, max_bad_fraction, examples),
        lambda: check_columns(name, table.columns, max_bad_fraction),
    ):
        try:
            check()
        except InputError as error:
            yield str(error)
