"""A log directory: finds its tables and checks their columns, reads its notice, notices who writes to it meanwhile."""

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa
from upath import UPath

from beam_pipelines.format.contents import CONTENTS_NAME, Contents
from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location, is_remote, storage_errors
from beam_pipelines.format.manifest import Source
from beam_pipelines.format.remote_file import list_directory
from beam_pipelines.logs.column_names import find_columns
from beam_pipelines.logs.contract import REQUIRED_COLUMNS, REQUIRED_TABLES, TABLES, FileLayout, Table, find_column
from beam_pipelines.logs.file_reader import file_columns
from beam_pipelines.logs.log_files import ACCEPTED, NOTICE_FILE, DataFile, find_data_files
from beam_pipelines.logs.parquet_reader import is_readable
from beam_pipelines.shell.progress import say, warn

_Version = tuple[int, int | str] | None  # size, and time of change or what a store has for it; None if it is gone
_REQUESTS = 16  # at once


class FileCounts(NamedTuple):
    """What became of the lines of a file: those in it are those of used and of rejected rows.

    Attributes:
        path: the file.
        lines: in the file (rows in Parquet), without blank ones and the header.
        continued: how many of these only continue the row of the line before.
        rejected: rows that break the contract, or lines that are none.
    """

    path: Location
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

    path: Location
    tables: Mapping[str, Table]
    notice: str
    versions: Mapping[Location, _Version]

    @classmethod
    def open(cls, path: Location, columns: Mapping[str, str], *, clicked_is_optional: bool = False) -> "LogDirectory":
        """Finds the tables of a directory.

        Args:
            path: the directory.
            columns: see `find_tables`.
            clicked_is_optional: whether impressions may lack the column `clicked`.

        Raises:
            InputError: there is no such directory, a table of it cannot be used, or its notice cannot be read.
        """
        if is_remote(path):
            path = _remote_directory(path)
        elif path.is_dir():
            path = path.resolve()
        else:
            raise InputError(f"`logs`: no directory {path}; an adapter in beam_pipelines.datasets makes it")
        tables = find_tables(path, columns, ("clicked",) if clicked_is_optional else ())
        return cls(path, tables, _read_notice(path), _versions(path, tables))

    @property
    def images(self) -> Location:
        """Where the pictures are, if there are any."""
        return self.path / "images"

    def check_unchanged(self) -> None:
        """Logs are read twice, and what is read must be one thing.

        Raises:
            InputError: a file has changed since the directory was opened.
        """
        now = _versions(self.path, self.tables)
        for file, version in self.versions.items():
            if now[file] != version:
                raise InputError(f"{file} changed while it was read; build from logs that nobody writes to")

    def sources(self, counts: Mapping[Location, FileCounts]) -> list[Source]:
        """The files of all tables, as manifests list them.

        Args:
            counts: what became of their rows.
        """
        files = list(_files(self.tables))
        return [
            Source(
                path="/".join(file.parts[len(self.path.parts) :]),
                bytes=(self.versions[file] or (0,))[0],
                sha256=sha256,
                lines=counts[file].lines,
                rows=counts[file].rows,
                rejected=counts[file].rejected,
            )
            for file, sha256 in zip(files, _of_each(file_sha256, files), strict=True)
        ]


def find_tables(logs: Location, columns: Mapping[str, str], optional: Sequence[str] = ()) -> dict[str, Table]:
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
    layouts: dict[Location, FileLayout] = {}
    needed = {c.name for c in TABLES[table] if c.required and c.name not in optional}
    needed.update(REQUIRED_COLUMNS.get(table, ()))
    for (file, in_folders), found in zip(files, _of_each(file_columns, [file.path for file in files]), strict=True):
        in_file = found.types
        layout = FileLayout(
            find_columns(table, in_file, names, file),
            {column: in_folders[name] for column, name in find_columns(table, in_folders, names, file).items()},
            found.format,
            found.row_groups,
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


def _check_types(table: str, file: Location, layout: FileLayout, types: Mapping[str, pa.DataType]) -> None:
    for column, name in layout.names.items():
        rule = find_column(table, column)
        if rule is not None and not is_readable(types[name]):
            kind = "a time" if rule.kind == "timestamp" else rule.kind
            raise InputError(f"{file}: {table}.{column} has type {types[name]}, which cannot be read as {kind}")


def _checked(
    table: str, names: Mapping[str, str], layouts: Mapping[Location, FileLayout], optional: Sequence[str]
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


def _remote_directory(logs: UPath) -> UPath:
    """Where the tables lie: what a command of ours has written lies in one of its attempts."""
    if any(entry.path == CONTENTS_NAME for entry in list_directory(logs)):
        contents = Contents.read(logs)
        if contents is not None:
            return logs / contents.attempt
    return logs


def _read_notice(logs: Location) -> str:
    path = logs / NOTICE_FILE
    with storage_errors(path):
        text = path.read_text() if path.is_file() else None
    if text is None:
        return ""
    try:
        notice = json.loads(text)["notice"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path} must be {{"notice": "what is simulated or sampled"}}') from error
    return str(notice)


def _files(tables: Mapping[str, Table]) -> Iterable[Location]:
    return (file for table in tables.values() for file in table.files)


_Found = TypeVar("_Found")


def _of_each(look: Callable[[Location], _Found], files: Sequence[Location]) -> Iterator[_Found]:
    """What a function gives for each file: of remote ones, several at a time, for most of it is waiting."""
    if not any(map(is_remote, files)):
        yield from map(look, files)
        return
    with ThreadPoolExecutor(_REQUESTS) as pool:
        yield from pool.map(look, files)


def _versions(logs: Location, tables: Mapping[str, Table]) -> dict[Location, _Version]:
    """What all files are now."""
    if not is_remote(logs):
        return {file: _version(file) for file in _files(tables) if not is_remote(file)}
    found: dict[Location, _Version] = {}
    folders = {logs / file.parts[len(logs.parts)]: file for file in _files(tables)}
    listed = [(logs, False), *((folder, True) for folder, file in folders.items() if folder != file)]
    for folder, below in listed:  # one listing of each, however many files there are
        for entry in list_directory(folder, below=below):
            found[folder / entry.path] = entry.bytes, entry.version
    return {file: found.get(file) for file in _files(tables)}


def _version(file: Path) -> _Version:
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_size, file.stat().st_mtime_ns
    return None
