"""A log directory: finds its tables and checks their columns, reads its notice, notices who writes to it meanwhile.

A table is `NAME.parquet`, `NAME.csv[.gz]`, `NAME.jsonl[.gz]`, or a directory `NAME/` of such files.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Source, file_sha256
from beam_pipelines.logs.contract import REQUIRED_COLUMNS, REQUIRED_TABLES, TABLES, Table, find_column
from beam_pipelines.logs.file_reader import FORMATS, file_columns

NOTICE_FILE = "logs.json"
_ENDINGS = tuple(f".{format}" for format in FORMATS)

_Version = tuple[int, int] | None  # size and time of change; None if the file is gone


class FileCounts(NamedTuple):
    """What became of the rows of a file: `rows` are all of them, the rejected ones included."""

    path: Path
    rows: int
    rejected: int


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
    tables = {}
    for name in TABLES:
        candidates = [logs / f"{name}.{format}" for format in FORMATS if (logs / f"{name}.{format}").is_file()]
        if (logs / name).is_dir():
            candidates.append(logs / name)
        if len(candidates) > 1:
            raise InputError(f"{logs}: table {name} exists twice ({', '.join(c.name for c in candidates)}); keep one")
        if not candidates:
            if name in REQUIRED_TABLES:
                raise InputError(
                    f"{logs}: no table {name}; it must be {name}.parquet, .csv, .csv.gz, .jsonl, .jsonl.gz "
                    f"or a directory {name}/ of such files"
                )
            if name in names:
                raise InputError(f"`columns`: names columns of {name}, but {logs} has no such table")
            continue
        files = [candidates[0]]
        if files[0].is_dir():
            files = sorted(f for f in files[0].rglob("[!._]*") if f.is_file() and f.name.endswith(_ENDINGS))
            if not files:
                raise InputError(f"{logs / name}: no {', '.join(FORMATS)} file in it")
        left_out = tuple(optional) if name == "impressions" else ()
        tables[name] = Table(name, tuple(files), _columns_in(name, files, names.get(name, {}), left_out), left_out)
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


def _columns_in(table: str, files: Sequence[Path], names: Mapping[str, str], optional: Sequence[str]) -> dict[str, str]:
    """The contract's columns that the files have, in the contract's order, and each one's name there."""
    found: set[str] = set()
    renamed = {source: column for column, source in names.items()}
    required = [c.name for c in TABLES[table] if c.required]
    needed = [c for c in required if c not in optional] + list(REQUIRED_COLUMNS.get(table, ()))
    for file in files:
        in_file = set(file_columns(file))
        columns = {renamed.get(c, c) for c in in_file if c in renamed or c not in names}
        for column, source in names.items():
            if source not in in_file and column in required:
                raise InputError(f"{file}: no column {source!r}, which `columns` names for {table}.{column}")
        if missing := [c for c in needed if c not in columns]:
            raise InputError(
                f"{file}: no column {missing[0]!r}, which {table} must have; if it has another name there, pass "
                f"`columns` {table}.{missing[0]}=NAME (columns: {', '.join(sorted(in_file))})"
            )
        found |= columns
    for column, source in names.items():
        if column not in found:
            raise InputError(f"`columns`: no file of {table} has a column {source!r}")
    contract = list(TABLES[table])
    in_order = sorted(
        (contract.index(rule), column) for column in found if (rule := find_column(table, column)) is not None
    )
    return {column: names.get(column, column) for _, column in in_order}


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
