"""Reads log tables from Parquet, CSV and JSON lines as Arrow record batches, part by part.

A row that breaks the contract is rejected with a reason and counted; a file that cannot be read at all is an error.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location
from beam_pipelines.logs.contract import Format, Table
from beam_pipelines.logs.csv_reader import CsvHeader, read_csv
from beam_pipelines.logs.jsonl_reader import jsonl_keys, read_jsonl
from beam_pipelines.logs.log_files import file_format
from beam_pipelines.logs.parquet_reader import parquet_types, read_row_group
from beam_pipelines.logs.raw_batch import MalformedLine, RawBatch, make_rows
from beam_pipelines.logs.text_files import readable

__all__ = ["FileColumns", "FilePart", "MalformedLine", "RawBatch", "file_columns", "read_part", "table_parts"]

_DELIMITERS = {"csv": ",", "tsv": "\t"}


class FilePart(NamedTuple):
    """What one worker reads at a time: a file, or (Parquet) one row group of it; -1 means all."""

    table: str
    path: Location
    row_group: int


class FileColumns(NamedTuple):
    """What a file has.

    Attributes:
        types: the columns and, as far as the file says, their types: what is in text files is text.
        format: of the file.
        row_groups: of a Parquet file, 0 of others.
    """

    types: Mapping[str, pa.DataType]
    format: Format
    row_groups: int


def file_columns(path: Location) -> FileColumns:
    """Looks what a file has.

    Raises:
        InputError: the file cannot be read, or two columns have one name.
    """
    with readable(path):
        format = file_format(path)
        if format == "parquet":
            types, row_groups = parquet_types(path)
            return FileColumns(types, format, row_groups)
        names = jsonl_keys(path) if format == "jsonl" else CsvHeader.read(path, _DELIMITERS[format]).names
    names = [name for name in names if name.strip()]  # spreadsheets leave columns without a name behind
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: two columns are named {name!r}; rename or remove one")
    return FileColumns(dict.fromkeys(names, pa.string()), format, 0)


def table_parts(table: Table) -> list[FilePart]:
    """Splits a table into what workers read independently."""
    return [
        FilePart(table.name, path, group)
        for path in table.files
        for group in (range(table.layouts[path].row_groups) if table.layouts[path].format == "parquet" else [-1])
    ]


def read_part(table: Table, part: FilePart, only: Sequence[str] | None = None) -> Iterator[RawBatch]:
    """Reads a part of a table in batches, which together account for every line of it.

    Args:
        table: the table.
        part: one of `table_parts(table)`.
        only: the contract's columns wanted; all of them if `None`.

    Raises:
        InputError: the file is damaged.
    """
    layout = table.layouts[part.path]
    columns = {c: n for c, n in layout.names.items() if only is None or c in only}
    folders = {c: v for c, v in layout.folders.items() if only is None or c in only}
    with readable(part.path):
        if layout.format == "parquet":
            batches = read_row_group(part.path, part.row_group, columns)
        elif layout.format == "jsonl":
            batches = read_jsonl(part.path, columns)
        else:
            batches = read_csv(part.path, columns, _DELIMITERS[layout.format])
        for batch in batches:
            yield batch._replace(rows=_with_folders(batch, folders)) if folders else batch


def _with_folders(batch: RawBatch, folders: Mapping[str, str | None]) -> pa.RecordBatch:
    """The rows of a batch with the columns that folders give."""
    rows = batch.rows
    arrays = dict(zip(rows.schema.names, rows.columns, strict=True))
    for column, value in folders.items():
        if column in arrays:
            texts = arrays[column].cast(pa.string())
            same = pc.is_null(texts) if value is None else pc.fill_null(pc.equal(texts, value), False)
            if not pc.all(same).as_py() and len(same):
                raise InputError(
                    f"{batch.path}: the folder says that {column} is {value or 'missing'}, but the file has another "
                    f"value in line {batch.lines[int(np.argmin(same.to_numpy(zero_copy_only=False)))]}"
                )
        elif value is None:
            arrays[column] = pa.nulls(len(rows), pa.string())
        else:
            arrays[column] = pa.DictionaryArray.from_arrays(np.zeros(len(rows), np.int32), pa.array([value]))
    return make_rows(arrays, len(rows))
