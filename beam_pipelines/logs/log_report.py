"""A log check as text: a table for each table of the logs, and what holds between them."""

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from beam_pipelines.logs.contract import Table
from beam_pipelines.logs.file_reader import read_part, table_parts
from beam_pipelines.logs.log_check import LogCheck

_LONGEST = 32


class TableReport(NamedTuple):
    """A table of the logs: a title with its rows, and a row of text for each of its columns, the head first."""

    title: str
    columns: list[list[str]]


def table_reports(check: LogCheck) -> Iterator[TableReport]:
    """Each table of the logs in turn.

    Args:
        check: of the logs. The first rows of each table are read again, for examples.
    """
    for name, surveyed in check.survey.items():
        files = surveyed.files
        title = f"{surveyed.conservation(name)} ({files[0].path.name if len(files) == 1 else f'{len(files)} files'})"
        rows = [["column", "type", "present", "read", "markers", "for example"]]
        examples = _examples(check, check.directory.tables[name])
        for column, counts in surveyed.columns.items():
            kind, example = examples.get(column, ("", ""))
            rows.append(
                [
                    column,
                    kind,
                    _percent(counts.present, surveyed.rows),
                    _percent(counts.read, counts.present),
                    f"{counts.markers:,}",
                    example,
                ]
            )
        yield TableReport(title, rows)


def facts(check: LogCheck) -> Iterator[str]:
    """What holds of all tables, a line each: times, joins, and why rows are rejected."""
    for name, time in check.times.items():
        yield f"{name}: {time}"
    yield from check.repeated_ids()
    for (table, other), join in check.joins.items():
        yield join.describe(table, other)
    if check.pictures is not None:
        yield str(check.pictures)
    for name, surveyed in check.survey.items():
        for reason, rejected in surveyed.rejected.by_reason().items():
            yield f"rejected: {rejected.rows:,} rows of {name}: {reason}"


def _examples(check: LogCheck, table: Table) -> dict[str, tuple[str, str]]:
    """Column to its type in the first file and one of its values."""
    for part in table_parts(table):
        for raw in read_part(table, part):
            return {
                name: (str(column.type), _example(column))
                for name, column in zip(raw.rows.schema.names, raw.rows.columns, strict=True)
            }
    return {}


def _example(column: pa.Array) -> str:
    value = next((value for value in column.to_pylist() if value not in (None, "")), None)
    text = "" if value is None else str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
