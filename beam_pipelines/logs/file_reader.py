"""Reads log tables from Parquet, CSV and JSON lines as Arrow record batches, part by part.

A row that breaks the contract is rejected with a reason and counted; a file that cannot be read at all is an error.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.contract import Table

FORMATS = ("parquet", "csv", "csv.gz", "jsonl", "jsonl.gz")
BATCH_ROWS = 1 << 17


class FilePart(NamedTuple):
    """What one worker reads at a time: a file, or (Parquet) one row group of it; -1 means all."""

    table: str
    path: Path
    row_group: int


class MalformedLine(NamedTuple):
    """A line that is no row: its number in the file, from 1; why; what it says, as far as it can be shown."""

    line: int
    reason: str
    text: str


class RawBatch(NamedTuple):
    """Rows as they are in a file, and lines that are no rows at all.

    Attributes:
        rows: under the contract's column names.
        malformed: what is between them.
        path: the file.
        lines: int64 `(rows,)`: where each row begins, as the number of a line (of a row in Parquet), from 1.
    """

    rows: pa.RecordBatch
    malformed: list[MalformedLine]
    path: Path
    lines: np.ndarray


def file_columns(path: Path) -> list[str]:
    """The column names of a file; of JSON lines, those of the first 1000.

    Raises:
        InputError: the file cannot be read, or two columns have one name.
    """
    names = _file_columns(path)
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: two columns are named {name!r}; rename or remove one")
    return names


def _file_columns(path: Path) -> list[str]:
    with _readable(path):
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes)")
        if path.name.endswith("parquet"):
            return pq.read_schema(path).names
        if ".csv" in path.name:
            with _open_csv(path, None, []) as reader:
                return reader.schema.names
        names: dict[str, None] = {}
        with pa.input_stream(path) as stream:
            for line, _ in zip(_lines(stream), range(1000), strict=False):
                row = _parse_json(line)
                names.update(dict.fromkeys(row or ()))
        return list(names)


def table_parts(table: Table) -> list[FilePart]:
    """Splits a table into what workers read independently."""
    found = []
    for path in table.files:
        groups = range(pq.read_metadata(path).num_row_groups) if path.name.endswith("parquet") else [-1]
        found += [FilePart(table.name, path, group) for group in groups]
    return found


def read_part(table: Table, part: FilePart, only: Sequence[str] | None = None) -> Iterator[RawBatch]:
    """Reads a part of a table in batches.

    Args:
        table: the table.
        part: one of `table_parts(table)`.
        only: the contract's columns wanted; all of them if `None`.

    Raises:
        InputError: the file is damaged.
    """
    columns = {c: n for c, n in table.columns.items() if only is None or c in only}
    with _readable(part.path):
        if part.path.name.endswith("parquet"):
            batches = _read_parquet(part, columns)
        elif ".csv" in part.path.name:
            batches = _read_csv(part.path, columns)
        else:
            batches = _read_jsonl(part.path, columns)
        yield from batches


def _read_parquet(part: FilePart, columns: Mapping[str, str]) -> Iterator[RawBatch]:
    with pq.ParquetFile(part.path) as file:
        there = {c: n for c, n in columns.items() if n in file.schema_arrow.names}
        first = 1 + sum(file.metadata.row_group(group).num_rows for group in range(part.row_group))
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[part.row_group], columns=list(there.values())):
            arrays = [batch.column(name) for name in there.values()]
            rows = pa.RecordBatch.from_arrays(arrays, names=list(there))
            yield RawBatch(rows, [], part.path, np.arange(first, first + len(rows)))
            first += len(rows)


def _open_csv(path: Path, columns: Sequence[str] | None, malformed: list[MalformedLine]) -> pa.csv.CSVStreamingReader:
    def skip(row: pa.csv.InvalidRow) -> str:
        malformed.append(MalformedLine(row.number or 0, "malformed row", row.text or f"{row.actual_columns} columns"))
        return "skip"

    types = None if columns is None else {name: pa.string() for name in columns}
    return pa.csv.open_csv(
        pa.input_stream(path),
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=1 << 23),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
        convert_options=pa.csv.ConvertOptions(
            column_types=types, include_columns=columns, null_values=[""], strings_can_be_null=True
        ),
    )


def _read_csv(path: Path, columns: Mapping[str, str]) -> Iterator[RawBatch]:
    in_file = set(file_columns(path))
    there = {c: n for c, n in columns.items() if n in in_file}
    malformed: list[MalformedLine] = []
    line = 2
    with _open_csv(path, list(there.values()), malformed) as reader:
        for batch in reader:
            rows = pa.RecordBatch.from_arrays([batch.column(name) for name in there.values()], names=list(there))
            yield RawBatch(rows, malformed[:], path, np.arange(line, line + len(rows)))
            line += len(rows) + len(malformed)
            malformed.clear()
    if malformed:
        none = pa.RecordBatch.from_pylist([], pa.schema([(c, pa.string()) for c in there]))
        yield RawBatch(none, malformed, path, np.zeros(0, np.int64))


def _read_jsonl(path: Path, columns: Mapping[str, str]) -> Iterator[RawBatch]:
    first = 1
    with pa.input_stream(path) as stream:
        lines = _lines(stream)
        while block := [line for line, _ in zip(lines, range(BATCH_ROWS), strict=False)]:
            rows = [_parse_json(line) for line in block]
            numbers = np.arange(first, first + len(block))
            first += len(block)
            malformed = [
                MalformedLine(number, "malformed row", line.decode(errors="replace"))
                for number, line, row in zip(numbers.tolist(), block, rows, strict=True)
                if row is None
            ]
            numbers = numbers[[row is not None for row in rows]]
            arrays = [
                pa.array([_json_text(row.get(name)) for row in rows if row is not None], pa.string())
                for name in columns.values()
            ]
            yield RawBatch(pa.RecordBatch.from_arrays(arrays, names=list(columns)), malformed, path, numbers)


def _lines(stream: pa.NativeFile) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(1 << 22):
        *lines, rest = (rest + block).split(b"\n")
        yield from (line for line in lines if line.strip())
    if rest.strip():
        yield rest


def _parse_json(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8-sig"))
        if b"\\u" in line:  # may escape half a surrogate pair, which is no text
            json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _json_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what Arrow raises on a damaged file into an error that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
