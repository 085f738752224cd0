"""A log directory: finds its tables and checks their columns, reads its notice, notices who writes to it meanwhile."""

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Source
from beam_pipelines.logs.column_names import find_columns
from beam_pipelines.logs.contract import REQUIRED_COLUMNS, REQUIRED_TABLES, TABLES, FileLayout, Table, find_column
from beam_pipelines.logs.file_reader import file_columns
from beam_pipelines.logs.log_files import ACCEPTED, NOTICE_FILE, DataFile, find_data_files
from beam_pipelines.logs.parquet_reader import is_readable
from beam_pipelines.shell.progress import say, warn

_Version = tuple[int, int] | None  # size and time of change; None if the file is gone


class FileCounts(NamedTuple):
    """What became of the lines of a file: those in it are those of used and of rejected rows.

    Attributes:
        path: the file.
        lines: in the file (rows in Parquet), without blank ones and the header.
        continued: how many of these only continue the row of the line before.
        rejected: rows that break the contract, or lines that are none.
    """

    path: Path
    lines: int
    continued: int
    rejected: int

    @property
    def rows(self) -> int:
        """All rows, the rejected ones included."""
        return self.lines - self.continued


@dataclasses.dataclass(frozen=True)
class LogDirectory:
    """A log directory whose tables are complete.

    Attributes:
        path: the directory, absolute: workers may have another working directory.
        tables: those that are there, by name.
        notice: what is simulated or sampled in these logs; may be empty.
        versions: what the files were when the directory was opened.
    """

    path: Path
    tables: Mapping[str, Table]
    notice: str
    versions: Mapping[Path, _Version]

    @classmethod
    def open(cls, path: Path, columns: Mapping[str, str], *, clicked_is_optional: bool = False) -> "LogDirectory":
        """Finds the tables of a directory.

        Args:
            path: the directory.
            columns: see `find_tables`.
            clicked_is_optional: whether impressions may lack the column `clicked`.

        Raises:
            InputError: there is no such directory, a table of it cannot be used, or its notice cannot be read.
        """
        if not path.is_dir():
            raise InputError(f"`logs`: no directory {path}; an adapter in beam_pipelines.datasets makes it")
        path = path.resolve()
        tables = find_tables(path, columns, ("clicked",) if clicked_is_optional else ())
        return cls(path, tables, _read_notice(path), {file: _version(file) for file in _files(tables)})

    @property
    def images(self) -> Path:
        """Where the pictures are, if there are any."""
        return self.path / "images"

    def check_unchanged(self) -> None:
        """Logs are read twice, and what is read must be one thing.

        Raises:
            InputError: a file has changed since the directory was opened.
        """
        for file, version in self.versions.items():
            if _version(file) != version:
                raise InputError(f"{file} changed while it was read; build from logs that nobody writes to")

    def sources(self, counts: Mapping[Path, FileCounts]) -> list[Source]:
        """The files of all tables, as manifests list them.

        Args:
            counts: what became of their rows.
        """
        return [
            Source(
                path=file.relative_to(self.path).as_posix(),
                bytes=file.stat().st_size,
                sha256=file_sha256(file),
                lines=counts[file].lines,
                rows=counts[file].rows,
                rejected=counts[file].rejected,
            )
            for file in _files(self.tables)
        ]


def find_tables(logs: Path, columns: Mapping[str, str], optional: Sequence[str] = ()) -> dict[str, Table]:
    """Finds the tables of a log directory and checks their columns.

    Args:
        logs: the directory.
        columns: columns that have other names in the files: `{"impressions.item_id": "article"}`.
        optional: required columns of `impressions` that may be missing this time.

    Raises:
        InputError: a table or column is missing, there are two candidates for a table, or a file cannot be opened.
    """
    names = _names_by_table(columns)
    found, unread = find_data_files(logs)
    if unread:
        warn(f"{logs}: {', '.join(unread)} not read; tables are {', '.join(TABLES)}")
    tables = {}
    for name in TABLES:
        if name in found:
            left_out = tuple(optional) if name == "impressions" else ()
            tables[name] = _table(name, found[name], names.get(name, {}), left_out)
        elif name in REQUIRED_TABLES:
            raise InputError(
                f"{logs}: no table {name}; it must be a file {name} and one of {ACCEPTED}, or a folder {name}/ of such "
                "files"
            )
        elif name in names:
            raise InputError(f"`columns`: names columns of {name}, but {logs} has no such table")
    return tables


def _names_by_table(columns: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Table to the contract's column name to the name in the files."""
    names: dict[str, dict[str, str]] = {}
    for target, source in columns.items():
        option = f"{target}={source}"
        table, dot, column = target.partition(".")
        if not (dot and source):
            raise InputError(f"`columns`: {option!r} is not TABLE.COLUMN=NAME, for example impressions.item_id=sku")
        if table not in TABLES:
            raise InputError(f"`columns`: no table {table!r} in {option!r}; tables are {', '.join(TABLES)}")
        if find_column(table, column) is None:
            in_contract = ", ".join(c.name for c in TABLES[table])
            raise InputError(f"`columns`: {table} has no column {column!r}; its columns are {in_contract}")
        names.setdefault(table, {})[column] = source
    return names


def _table(table: str, files: Sequence[DataFile], names: Mapping[str, str], optional: Sequence[str]) -> Table:
    """A table, once each of its files has been found to have the columns that it must have."""
    layouts: dict[Path, FileLayout] = {}
    needed = {c.name for c in TABLES[table] if c.required and c.name not in optional}
    needed.update(REQUIRED_COLUMNS.get(table, ()))
    for file, in_folders in files:
        in_file = file_columns(file)
        layout = FileLayout(
            find_columns(table, in_file, names, file),
            {column: in_folders[name] for column, name in find_columns(table, in_folders, names, file).items()},
        )
        columns = {**layout.names, **layout.folders}
        for column in [c.name for c in TABLES[table] if c.name in needed and c.name not in columns]:
            if column in names:
                raise InputError(f"{file}: no column {names[column]!r}, which `columns` names for {table}.{column}")
            raise InputError(
                f"{file}: no column {column!r}, which {table} must have; if it has another name there, pass "
                f"`columns` {table}.{column}=NAME (columns: {', '.join(sorted({*in_file, *in_folders}))})"
            )
        _check_types(table, file, layout, in_file)
        layouts[file] = layout
    return _checked(table, names, layouts, optional)


def _check_types(table: str, file: Path, layout: FileLayout, types: Mapping[str, pa.DataType]) -> None:
    for column, name in layout.names.items():
        rule = find_column(table, column)
        if rule is not None and not is_readable(types[name]):
            kind = "a time" if rule.kind == "timestamp" else rule.kind
            raise InputError(f"{file}: {table}.{column} has type {types[name]}, which cannot be read as {kind}")


def _checked(
    table: str, names: Mapping[str, str], layouts: Mapping[Path, FileLayout], optional: Sequence[str]
) -> Table:
    """The table of files that have been looked at one by one; says what is remarkable about them together."""
    found: dict[str, str] = {}
    holders: Counter[str] = Counter()
    for layout in layouts.values():
        columns = {**dict(zip(layout.folders, layout.folders, strict=True)), **layout.names}
        found = {**columns, **found}
        holders.update(columns.keys())
    for column, name in names.items():
        if column not in found:
            raise InputError(f"`columns`: no file of {table} has a column {name!r}")
    contract = list(TABLES[table])
    order = sorted((contract.index(rule), column) for column in found if (rule := find_column(table, column)))
    in_order = {column: found[column] for _, column in order}
    for column, name in in_order.items():
        if name not in (column, names.get(column)):
            say(f"{table}.{column} is read from the column {name!r}")
        if holders[column] < len(layouts):
            lacking = next(file for file, layout in layouts.items() if column not in {**layout.names, **layout.folders})
            say(f"{len(layouts) - holders[column]} of {len(layouts)} files of {table} have no {column}: {lacking}, ...")
    return Table(table, tuple(layouts), in_order, tuple(optional), dict(layouts))


def _read_notice(logs: Path) -> str:
    path = logs / NOTICE_FILE
    if not path.is_file():
        return ""
    try:
        notice = json.loads(path.read_text())["notice"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path} must be {{"notice": "what is simulated or sampled"}}') from error
    return str(notice)


def _files(tables: Mapping[str, Table]) -> Iterable[Path]:
    return (file for table in tables.values() for file in table.files)


def _version(file: Path) -> _Version:
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_size, file.stat().st_mtime_ns
    return None
