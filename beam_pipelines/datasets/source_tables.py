"""The tables of a public data set: found by the names that the publisher gave them, read strictly, batch by batch."""

import csv
import dataclasses
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from beam_pipelines.datasets.source_files import ARCHIVES, READ_ERRORS, SourceFiles, first_line
from beam_pipelines.format.errors import InputError
from beam_pipelines.shell.progress import progress_bar, say

_BLOCK = 8 << 20  # bytes
_LONGEST_LINE = 16 << 20
_SEPARATOR = b"\x1f"  # what a separator of several bytes becomes: Arrow's are single
_REFUSED_VALUE = re.compile(
    r"CSV column #(?P<place>\d+): .*conversion error to (?P<type>[^:]+): invalid value '(?P<value>.*)'"
)
_EARLIEST, _LATEST = 631_152_000, 4_102_444_800  # seconds: 1990 and 2100


class Format(NamedTuple):
    """How the lines of a table are written.

    Attributes:
        separator: between the values of a line.
        columns: names of the columns, if the file has no header.
        quoted: whether values may stand in double quotes.
        encoding: of the text; in `latin-1`, what is valid UTF-8 is read as that.
    """

    separator: bytes = b","
    columns: tuple[str, ...] = ()
    quoted: bool = True
    encoding: str = "utf-8"


CSV = Format()


class TableFile(NamedTuple):
    """A table that a publisher's layout has.

    Attributes:
        file: its name, wherever in the source it lies.
        schema: the columns that are read, with their types. IDs are strings, so that leading zeros survive; a column
            that is not nullable has a value in every row.
        required: whether the layout must have it.
        format: of its lines.
    """

    file: str
    schema: pa.Schema
    required: bool = True
    format: Format = CSV


class Layout(NamedTuple):
    """The files of one edition of a data set.

    Attributes:
        name: what people call it.
        tables: by the name that the adapter gives them.
    """

    name: str
    tables: Mapping[str, TableFile]

    @property
    def required(self) -> list[str]:
        """The files that it must have."""
        return [table.file for table in self.tables.values() if table.required]

    def expected(self) -> str:
        """Its files, for messages."""
        optional = [table.file for table in self.tables.values() if not table.required]
        return f"{self.name}: {', '.join(self.required)}" + (f" (also read: {', '.join(optional)})" if optional else "")


@dataclasses.dataclass
class SourceTable:
    """A table that was found.

    Attributes:
        files: the source.
        path: its path in the source.
        schema: the columns that are read.
        format: of its lines.
        rows: how many were read; known when all batches were.
    """

    files: SourceFiles
    path: str
    schema: pa.Schema
    format: Format
    rows: int = 0

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(self.path).name

    def check_columns(self) -> None:
        """Reads the header.

        Raises:
            InputError: a column is missing or there twice, or the file cannot be read.
        """
        if self.format.columns:
            return
        try:
            with self.files.open(self.path) as stream:
                header = stream.readline(_LONGEST_LINE)
        except READ_ERRORS as error:
            raise self._unreadable(error) from error
        try:
            names = next(csv.reader([header.decode("utf-8-sig").rstrip("\r\n")]), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{self._where}: its header is no line of UTF-8 text ({header[:40]!r})") from error
        if not names:
            raise InputError(f"{self._where} has no header")
        for column in self.schema.names:
            if names.count(column) != 1:
                how_often = "no column" if column not in names else "more than one column"
                raise InputError(f"{self._where}: {how_often} {column!r} (columns: {', '.join(names)})")

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Reads the rows. What is held in memory does not grow with the file.

        Every line that is not blank becomes a row: a value has no line end in these files, so a quote that is not
        closed, which would swallow lines, is an error.

        Raises:
            InputError: the file is damaged or has no rows, a line has too many or too few values, a value is not of
                its type, or one is missing that the schema says is there.
        """
        self.rows = 0
        try:
            with self.files.open(self.path) as stream, progress_bar(desc=self.name, unit=" rows", leave=False) as bar:
                lines = _Lines(stream, self.format)
                with pa.csv.open_csv(
                    lines, self._read_options(), self._parse_options(), self._convert_options()
                ) as reader:
                    for batch in reader:
                        self._check_values(batch)
                        self.rows += batch.num_rows
                        bar.update(batch.num_rows)
                        yield pa.record_batch(batch.columns, self.schema)
                while lines.read():
                    pass  # whatever the reader left is counted, and missed below
                told = lines.count - (not self.format.columns)
        except (pa.ArrowException, *READ_ERRORS) as error:
            if isinstance(error, pa.ArrowException) and (found := self._first_bad_line(str(error))):
                raise InputError(f"{self._where}, {found}") from error
            raise self._unreadable(error) from error
        if told != self.rows:
            found = self._first_bad_line() or "a value holds a line end"
            raise InputError(f"{self._where}: {told} lines make {self.rows} rows; {found}")
        if not self.rows:
            raise InputError(f"{self._where} has no rows")

    def read(self) -> pa.Table:
        """Reads all rows at once; see `batches`."""
        return pa.Table.from_batches(self.batches(), self.schema).combine_chunks()

    def check_times(self, name: str, column: pa.Array, per_second: int) -> None:
        """Refuses a column of times in another unit.

        Args:
            name: of the column.
            column: of integers.
            per_second: how many make a second.

        Raises:
            InputError: a value is no time between 1990 and 2100.
        """
        times = column.to_numpy(zero_copy_only=False)
        wrong = (times < _EARLIEST * per_second) | (times >= _LATEST * per_second)
        if wrong.any():
            unit = {1: "seconds", 1000: "milliseconds"}[per_second]
            raise InputError(
                f"{self._where}: column {name!r} must be {unit} since 1970, between 1990 and 2100. "
                f"Received: {times[wrong][0]}"
            )

    def check_flags(self, name: str, column: pa.Array) -> None:
        """Refuses a column of flags that holds anything but 0 and 1.

        Raises:
            InputError: another value is found.
        """
        values = column.to_numpy(zero_copy_only=False)
        wrong = (values != 0) & (values != 1)
        if wrong.any():
            raise InputError(f"{self._where}: column {name!r} must be 0 or 1. Received: {values[wrong][0]}")

    @property
    def _where(self) -> str:
        return self.files.describe(self.path)

    def _unreadable(self, error: BaseException) -> InputError:
        return InputError(f"{self._where} cannot be read: {first_line(error)}")

    def _read_options(self) -> pa.csv.ReadOptions:
        return pa.csv.ReadOptions(block_size=_BLOCK, column_names=list(self.format.columns) or None)

    def _parse_options(self) -> pa.csv.ParseOptions:
        separator = self.format.separator if len(self.format.separator) == 1 else _SEPARATOR
        return pa.csv.ParseOptions(delimiter=separator.decode(), quote_char='"' if self.format.quoted else False)

    def _convert_options(self) -> pa.csv.ConvertOptions:
        names, types = self.schema.names, dict(zip(self.schema.names, self.schema.types, strict=True))
        return pa.csv.ConvertOptions(
            include_columns=names, column_types=types, null_values=[""], strings_can_be_null=True
        )

    def _check_values(self, batch: pa.RecordBatch) -> None:
        for field in self.schema:
            if not field.nullable and batch[field.name].null_count:
                row = self.rows + pc.index(batch[field.name].is_null(), True).as_py() + 1
                raise InputError(f"{self._where}: column {field.name!r} is empty in row {row}")

    def _first_bad_line(self, message: str = "") -> str:
        """What is wrong with the first line that is not as the others; "" if nothing is found.

        Args:
            message: Arrow's, which tells a column and a value, but no line.
        """
        refused = _REFUSED_VALUE.search(message)
        columns = list(self.format.columns)
        try:
            with self.files.open(self.path) as stream:
                for number, line in enumerate(stream, start=1):
                    if not line.strip(b"\r\n"):
                        continue
                    if self.format.quoted and line.count(b'"') % 2:
                        return f"line {number}: a quote that opens is not closed"
                    values = self._values(line)
                    columns = columns or values
                    if len(values) != len(columns):
                        return f"line {number} has {len(values)} values, not {len(columns)}"
                    if refused and values[int(refused["place"])] == refused["value"]:
                        column = columns[int(refused["place"])]
                        return f"line {number}: column {column!r} holds {refused['value']!r}, no {refused['type']}"
        except UnicodeDecodeError:
            return f"line {number} is not UTF-8"
        except csv.Error as error:
            return f"line {number} is no CSV: {error}"
        except READ_ERRORS:
            pass  # what was found already is told
        return ""

    def _values(self, line: bytes) -> list[str]:
        text = line.rstrip(b"\r\n").decode("utf-8-sig" if self.format.encoding == "utf-8" else self.format.encoding)
        separator = self.format.separator.decode()
        return next(csv.reader([text], delimiter=separator)) if self.format.quoted else text.split(separator)


def find_layout(files: SourceFiles, layouts: Sequence[Layout]) -> tuple[Layout, str, dict[str, SourceTable]]:
    """Finds which edition of a data set a source holds, and checks the columns of its tables without reading them.

    Args:
        files: the source.
        layouts: the editions.

    Returns:
        The edition, the folder of its files, and its tables by name.

    Raises:
        InputError: the source holds none of the editions, or more than one; or a table lacks a column.
    """
    complete = []
    for layout in layouts:
        found = {table.file: files.find(table.file) for table in layout.tables.values()}
        required = [set(found[name]) for name in layout.required]
        complete += [(layout, folder, found) for folder in sorted(set.intersection(*required))]
    if len(complete) > 1:
        editions = " and ".join(f"{layout.name} in {folder or '.'}" for layout, folder, _ in complete)
        raise InputError(f"`source`: {files.path} holds more than one data set: {editions}; name the folder of one")
    if not complete:
        raise InputError(_none_complete(files, layouts))
    layout, folder, found = complete[0]
    tables = {
        name: SourceTable(files, found[table.file][folder], table.schema, table.format)
        for name, table in layout.tables.items()
        if folder in found[table.file]
    }
    for table in tables.values():
        table.check_columns()
    return layout, folder, tables


def say_unread(files: SourceFiles, folder: str, used: Sequence[SourceTable]) -> None:
    """Says which files of the data set's folder are not read."""
    beside = [name for name in files.names if name.rpartition("/")[0] == folder]
    if unread := [PurePosixPath(name).name for name in beside if name not in {table.path for table in used}]:
        say(f"not read: {', '.join(unread)}")


def _none_complete(files: SourceFiles, layouts: Sequence[Layout]) -> str:
    """Says which files are missing: of the edition that most are there of, or of all editions."""
    missing = [[name for name in layout.required if not files.find(name)] for layout in layouts]
    there = [1 - len(names) / len(layout.required) for names, layout in zip(missing, layouts, strict=True)]
    closest = there.index(max(there))
    shown = files.names[:12] + ([f"{len(files.names) - 12} more"] if len(files.names) > 12 else [])
    expected = layouts if not there[closest] else layouts[closest : closest + 1]
    if missing[closest]:
        problem = f"no {' and no '.join(missing[closest])} in {files.path}"
    else:
        problem = f"the files are not in one folder of {files.path}"
    archives = [name for name in files.names if name.lower().endswith(ARCHIVES)]
    hint = f"; to read {archives[0]}, name it" if archives else ""
    return (
        f"`source`: {problem}; expected {'; or '.join(layout.expected() for layout in expected)} "
        f"(each also as .gz or .zip); found {', '.join(shown) or 'nothing'}{hint}"
    )


class _Lines(io.RawIOBase):
    """The lines of a stream, counted, in UTF-8 and with single separators, as Arrow wants them; blank ones left out."""

    def __init__(self, stream: BinaryIO, format: Format) -> None:
        self.count = 0
        self._stream = stream
        self._format = format
        self._rest = b""  # of a line that has not ended yet
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; none at the end."""
        if not self._ready:
            self._ready = memoryview(self._next_lines())
        end = size if size > 0 else len(self._ready)
        found, self._ready = self._ready[:end], self._ready[end:]
        return bytes(found)

    def _next_lines(self) -> bytes:
        while True:
            data = self._stream.read(_BLOCK)
            block, newline, rest = (self._rest + data).rpartition(b"\n")
            self._rest = rest
            if not data:
                block, newline, self._rest = block + newline, rest, b""
            elif len(rest) > _LONGEST_LINE:
                raise OSError(f"a line of more than {_LONGEST_LINE >> 20} MB")
            # Arrow takes a block that begins in the middle of \\r\\n for the last one if nothing else is in it.
            block = (block + newline).replace(b"\r\n", b"\n")
            if b"\n\n" in block or block.startswith(b"\n"):
                block = b"".join(line + b"\n" for line in block.split(b"\n") if line)
            self.count += block.count(b"\n") + (bool(block) and not block.endswith(b"\n"))
            if block or not data:
                return self._translated(block)

    def _translated(self, block: bytes) -> bytes:
        if self._format.encoding != "utf-8":
            try:
                block.decode()
            except UnicodeDecodeError:
                block = block.decode(self._format.encoding).encode()
        if len(self._format.separator) > 1:
            block = block.replace(self._format.separator, _SEPARATOR)
        return block
