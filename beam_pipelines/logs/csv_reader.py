"""Reads CSV files, and files whose columns are separated by tabs."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location
from beam_pipelines.logs.csv_block import CsvBlock, Dialect, Records
from beam_pipelines.logs.raw_batch import MalformedLine, RawBatch, make_rows
from beam_pipelines.logs.text_files import BOM, MAX_LINE_BYTES, open_text, read_sample

BLOCK_BYTES = 1 << 23

_DELIMITERS = {b",": "commas", b"\t": "tabs", b";": "semicolons", b"|": "vertical bars"}


class CsvHeader(NamedTuple):
    """The first record of a CSV file: the names of columns.

    Attributes:
        names: of all columns.
        dialect: of the file.
        size: bytes up to the end of the header.
        lines: lines up to there.
    """

    names: list[str]
    dialect: Dialect
    size: int
    lines: int

    @classmethod
    def read(cls, path: Location, delimiter: str = ",") -> "CsvHeader":
        """Reads the header of a file.

        Raises:
            InputError: there is none, or columns are separated by something else.
        """
        sample = read_sample(path)
        text = sample.removeprefix(BOM)
        end = re.search(rb"\r*\n|\r", text)
        dialect = Dialect(delimiter.encode(), 0, end is not None and not end[0].endswith(b"\n"))
        block = CsvBlock(text, dialect, is_last=True)
        line = block.first_line()
        if line is None:
            raise InputError(f"{path} has no header: its first MiB is blank")
        header = block.read(line)
        if header.problem:
            raise InputError(f"{path}: {header.problem} in the header (line {line + 1})")
        if len(header.fields) == 1:
            other = max(_DELIMITERS, key=header.fields[0].count)
            if other in header.fields[0]:
                raise InputError(
                    f"{path}: columns seem to be separated by {_DELIMITERS[other]}, not by "
                    f"{_DELIMITERS[dialect.delimiter]}; the header is {header.fields[0].decode()!r}"
                )
        used = header.last_line + 1
        size = len(sample) - len(text) + block.start(used)
        if any(b"\0" in field for field in header.fields):
            raise InputError(f"{path} is no text: there are NUL bytes in its first line")
        names = [field.decode() for field in header.fields]
        return cls(names, dialect._replace(fields=len(names)), size, used)


def read_csv(
    path: Location, columns: Mapping[str, str], delimiter: str = ",", block_bytes: int = BLOCK_BYTES
) -> Iterator[RawBatch]:
    """Reads a CSV file.

    Records are those of RFC 4180, and a quote inside a field without quotes is text. A quote that opens a value and
    does not close it, or closes it only at a quote that is a stray one, too, costs its line; what follows is read.

    Args:
        path: the file.
        columns: new names of the columns wanted to those in the file.
        delimiter: between fields.
        block_bytes: how much is read at a time. What is read does not depend on it.

    Raises:
        InputError: the file is damaged as a whole.
    """
    header = CsvHeader.read(path, delimiter)
    parser = _Parser(path, header, columns)
    with open_text(path) as stream:
        stream.read(header.size)
        rest, line, is_last = b"", header.lines, False
        while not is_last:
            read = stream.read(block_bytes)
            is_last = not read
            rest = _without_end_of_long_line(rest) + read
            cut = len(rest) if is_last else _last_line_end(rest, header.dialect)
            if not cut:
                continue
            block = CsvBlock(rest[:cut], header.dialect, is_last)
            records = block.records()
            if records.lines_used:
                yield parser.parse(block, records, line)
            line += records.lines_used
            rest = rest[block.start(records.lines_used) :]


def _last_line_end(text: bytes, dialect: Dialect) -> int:
    if dialect.ends_at_return:  # one at the end may be half of "\r\n"
        return max(text.rfind(b"\n"), text.rfind(b"\r", 0, -1)) + 1
    return text.rfind(b"\n") + 1


def _without_end_of_long_line(text: bytes) -> bytes:
    """What waits for its line end; of a line that is too long, only as much as shows that."""
    if len(text) > 2 * MAX_LINE_BYTES and b"\n" not in text and b"\r" not in text[:-1]:
        return text[: MAX_LINE_BYTES + 1]
    return text


class _Parser:
    """Makes batches of the records of one file."""

    def __init__(self, path: Location, header: CsvHeader, columns: Mapping[str, str]) -> None:
        self._path = path
        self._names = header.names
        self._columns = {column: str(header.names.index(name)) for column, name in columns.items()}
        self._numbers = [str(number) for number in range(len(header.names))]
        self._parsing = {"delimiter": header.dialect.delimiter.decode(), "newlines_in_values": True}
        # The first column is always read: it shows whether a row is another header.
        self._converting = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(self._numbers, pa.string()),
            include_columns=sorted({"0", *self._columns.values()}, key=int),
            null_values=[""],
            strings_can_be_null=True,
        )

    def parse(self, block: CsvBlock, records: Records, first: int) -> RawBatch:
        """The batch of a block whose first line has the number `first`, from 0."""
        malformed = list(records.malformed)
        table, wrong = self._read(records)
        lines = records.lines
        if wrong:
            numbers = np.array([number for number, _ in wrong]) - 1
            malformed += [
                MalformedLine(line, "malformed row", text)
                for line, (_, text) in zip(lines[numbers].tolist(), wrong, strict=True)
            ]
            lines = np.delete(lines, numbers)
        kept = self._without_headers(table, block, lines, malformed, first)
        if not kept.all():
            table, lines = table.filter(pa.array(kept)), lines[kept]
        table = table.combine_chunks()
        arrays = {column: _one_chunk(table.column(number)) for column, number in self._columns.items()}
        batch = RawBatch(
            make_rows(arrays, table.num_rows),
            sorted(line._replace(line=line.line + first + 1) for line in malformed),
            self._path,
            lines + first + 1,
            records.lines_in,
            records.continued,
        )
        batch.check_conserved()
        return batch

    def _read(self, records: Records) -> tuple[pa.Table, list[tuple[int, str]]]:
        """Rows, and number and text of records with a wrong number of fields."""
        if not len(records.lines):
            none = pa.array([], pa.string())
            return pa.table({number: none for number in {"0", *self._columns.values()}}), []
        wrong: list[tuple[int, str]] = []

        def note(row: pa.csv.InvalidRow) -> str:
            wrong.append((row.number, row.text))
            return "skip"

        size = len(records.text) + 1
        table = pa.csv.read_csv(
            pa.BufferReader(records.text),
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=size, column_names=self._numbers),
            parse_options=pa.csv.ParseOptions(**self._parsing, invalid_row_handler=note),
            convert_options=self._converting,
        )
        return table, wrong

    def _without_headers(
        self, table: pa.Table, block: CsvBlock, lines: np.ndarray, malformed: list[MalformedLine], first: int
    ) -> np.ndarray:
        """Which rows are none of the headers that are left where files were put together."""
        kept = np.ones(table.num_rows, bool)
        names = [name.strip() for name in self._names]
        suspects = pc.is_in(table.column("0"), pa.array({self._names[0], *names}, pa.string()))
        for row in np.flatnonzero(suspects.to_numpy()).tolist():
            line = int(lines[row])
            fields = [field.decode(errors="replace").strip() for field in block.read(line).fields]
            if fields == names:
                kept[row] = False
                malformed.append(MalformedLine(line, "repeated header", self._separator.join(fields)))
            elif sorted(fields) == sorted(names) and len(set(fields)) == len(fields) > 1:
                raise InputError(
                    f"{self._path}: line {first + line + 1} is another header, with the columns in another order; "
                    "keep files with different headers apart"
                )
        return kept

    @property
    def _separator(self) -> str:
        return str(self._parsing["delimiter"])


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
