"""The files of a log directory: which of them are data of which table, and in what format."""

import difflib
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from upath import UPath

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location, is_remote
from beam_pipelines.format.remote_file import list_directory, open_file
from beam_pipelines.logs.contract import TABLES, Format
from beam_pipelines.logs.text_files import open_text

ENDINGS: dict[str, Format] = {
    "parquet": "parquet",
    "csv": "csv",
    "tsv": "tsv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "jsonl",
}
NOTICE_FILE = "logs.json"
COMPRESSIONS = ("gz", "bz2", "zst", "lz4")
ACCEPTED = f"{', '.join(f'.{ending}' for ending in ENDINGS)}, all but the first also with {', '.join(COMPRESSIONS)}"

_NAME = re.compile(
    rf"(.*)\.(parquet|(?:{'|'.join(list(ENDINGS)[1:])})(?:\.(?:{'|'.join(COMPRESSIONS)}))?)", re.I | re.S
)
_PART = re.compile(rf"part-[\w-]+(?:\.(?:{'|'.join(COMPRESSIONS)}))?", re.I)  # as Hadoop names them
_MISSING_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_FOREIGN = {
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"ARROW1": "an Arrow (Feather) file",
    b"FEA1": "a Feather file",
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "an SQLite database",
    b"7z\xbc\xaf": "a 7z archive",
    b"\xfd7zXZ": "an xz file",
    b"%PDF": "a PDF document",
    b"SEQ": "a Hadoop sequence file",
}


class DataFile(NamedTuple):
    """A file of a table.

    Attributes:
        path: the file.
        folder_columns: what the names of its folders say of all its rows: column to value.
    """

    path: Location
    folder_columns: Mapping[str, str | None]


def find_data_files(logs: Location) -> tuple[dict[str, list[DataFile]], list[str]]:
    """Finds the files of the tables of a log directory, each table's sorted by path.

    A table is a file `TABLE.ENDING` or a folder `TABLE` or `TABLE.ENDING`, whatever the case of the letters. In a
    folder, files and folders are passed over whose names begin with `_` or `.`, as Spark and Hive do it; links are
    followed; and folders `column=value` give columns.

    Returns:
        The files, and the names of data files beside the tables, which are not read.

    Raises:
        InputError: there are two candidates for a table, or something in its folder is no data and not marked as such.
    """
    candidates: dict[str, list[Location]] = {table: [] for table in TABLES}
    others = {}
    is_directory = _entries(logs)
    for entry in sorted(is_directory, key=lambda path: path.name):
        if entry.name.startswith(("_", ".")) or entry.name == NOTICE_FILE:
            continue
        name = _NAME.fullmatch(entry.name)
        table = (name[1] if name else entry.name).lower()
        if table in TABLES and (name or is_directory[entry]):
            candidates[table].append(entry)
        else:
            others[entry] = is_directory[entry]
    found = {}
    for table, paths in candidates.items():
        if len(paths) > 1:
            raise InputError(f"{logs}: table {table} exists twice ({', '.join(p.name for p in paths)}); keep one")
        if paths:
            path = paths[0]
            is_folder = is_directory[path] if is_remote(path) else _is_folder(path)
            found[table] = _files_below(path) if is_folder else [DataFile(path, {})]
    return found, _check_others(logs, others, found)


def file_format(path: Location) -> Format:
    """The format of a file of a table: as its name says, or its first bytes if these do not fit.

    Raises:
        InputError: it is of a format that is not read.
    """
    with open_file(path, 64) as file:
        head = file.read(64)
    if head.startswith(b"PAR1"):
        return "parquet"
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise InputError(f"{path} is {what}; store it as Parquet, CSV or JSON lines")
    name = _NAME.fullmatch(path.name)
    if name is None:  # part-00000
        with open_text(path) as stream:
            head = stream.read(64)
        return "jsonl" if head.lstrip().startswith(b"{") else "csv"
    found = ENDINGS[name[2].lower().split(".")[0]]
    if found == "parquet":
        raise InputError(f"{path} is empty (0 bytes)" if not head else f"{path} cannot be read: it is no Parquet file")
    return found


def _entries(logs: Location) -> dict[Location, bool]:
    """What lies in a log directory, and whether it is a directory."""
    if is_remote(logs):
        return {logs / entry.path: entry.is_directory for entry in list_directory(logs)}
    return {path: path.is_dir() for path in logs.iterdir()}


def _is_folder(path: Path) -> bool:
    if not path.exists():
        raise InputError(f"{path} is a link to {os.readlink(path)}, which does not exist")
    if not (path.is_dir() or path.is_file()):
        raise InputError(f"{path} is neither a file nor a folder")
    return path.is_dir()


def _files_below(folder: Location) -> list[DataFile]:
    """The data files of a table's folder."""
    found = _remote_files(folder) if is_remote(folder) else _walk(folder, {}, ())
    files = sorted(found, key=lambda file: tuple(file.path.parts))
    if not files:
        raise InputError(f"{folder}: no data in it; files must end in {ACCEPTED}")
    places: dict[Path, Path] = {}
    for path, columns in files:
        if not is_remote(path) and (first := places.setdefault(path.resolve(), path)) != path:
            raise InputError(f"{path} is the same file as {first}; keep one")
        if columns.keys() != files[0].folder_columns.keys():
            raise InputError(
                f"{path}: its folders give the columns {', '.join(columns) or '(none)'}, those of "
                f"{files[0].path} give {', '.join(files[0].folder_columns) or '(none)'}; they must be the same"
            )
    return files


def _walk(folder: Path, columns: Mapping[str, str | None], above: Sequence[Path]) -> Iterator[DataFile]:
    place = folder.resolve()
    if place in above:
        raise InputError(f"{folder} is a link to a folder that it is in")
    for entry in folder.iterdir():
        if _is_passed_over(entry.name):
            continue
        if _is_folder(entry):
            yield from _walk(entry, {**columns, **_folder_column(entry.name)}, [*above, place])
        else:
            yield _data_file(entry, columns)


def _remote_files(folder: UPath) -> Iterator[DataFile]:
    """What `_walk` finds, by one listing."""
    for entry in list_directory(folder, below=True):
        *folders, name = entry.path.split("/")
        if not any(map(_is_passed_over, [*folders, name])):
            columns = {column: value for above in folders for column, value in _folder_column(above).items()}
            yield _data_file(folder / entry.path, columns)


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _data_file(path: Location, columns: Mapping[str, str | None]) -> DataFile:
    if not (_NAME.fullmatch(path.name) or _PART.fullmatch(path.name)):
        raise InputError(
            f"{path}: a table's files end in {ACCEPTED}; take it away, or begin its name with _ if it is no data"
        )
    return DataFile(path, columns)


def _folder_column(folder: str) -> dict[str, str | None]:
    name, equals, value = folder.partition("=")
    if not (name and equals):
        return {}
    value = urllib.parse.unquote(value)
    return {urllib.parse.unquote(name): None if value in ("", _MISSING_PARTITION) else value}


def _check_others(logs: Location, others: Mapping[Location, bool], found: Mapping[str, object]) -> list[str]:
    """Refuses what seems to be meant for a table, and finds other data."""
    absent = [table for table in TABLES if table not in found]
    unread = []
    for entry, is_directory in others.items():
        name = _NAME.fullmatch(entry.name)
        stem = (name[1] if name else entry.name).lower()
        table = next((table for table in TABLES if re.match(rf"{table}(?![a-z])", stem)), None)
        if table is not None and not is_directory:
            raise InputError(
                f"{entry} is not read, but its name begins like that of the table {table}, which must be {table} and "
                f"one of {ACCEPTED}, or a folder {table}/ of such files; put it there or rename it"
            )
        if near := difflib.get_close_matches(stem, absent, 1, 0.8) if name or is_directory else []:
            raise InputError(f"{logs}: no table {near[0]}; if it is {entry.name}, rename that")
        if name:
            unread.append(entry.name)
    return unread
