"""The input contract: a directory of log tables, read as Arrow record batches and brought to one form.

A table is `NAME.parquet`, `NAME.csv[.gz]`, `NAME.jsonl[.gz]`, or a directory `NAME/` of such files. A row that breaks
the contract is rejected with a reason and counted; a file that cannot be read at all stops the build.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from beam_pipelines.shell.command import CommandError

Kind = Literal["id", "timestamp", "count", "flag", "amount", "event", "split", "text", "statistic"]
TimestampUnit = Literal["seconds", "milliseconds", "iso"]

FORMATS = ("parquet", "csv", "csv.gz", "jsonl", "jsonl.gz")
EVENTS = ("click", "pay", "cart", "cart_remove")
_ENDINGS = tuple(f".{format}" for format in FORMATS)
BATCH_ROWS = 1 << 17


class Column(NamedTuple):
    """A column of the contract.

    Attributes:
        name: its name; a name ending in `*` stands for every column with that prefix.
        kind: what its values must be.
        required: whether the table must have it, with a valid value in every row.
    """

    name: str
    kind: Kind
    required: bool = False


TABLES: dict[str, tuple[Column, ...]] = {
    "impressions": (
        Column("page_id", "id", required=True),
        Column("user_id", "id", required=True),
        Column("item_id", "id", required=True),
        Column("timestamp", "timestamp", required=True),
        Column("position", "count", required=True),
        Column("clicked", "flag", required=True),
        Column("converted", "flag"),
        Column("dwell_seconds", "amount"),
        Column("query", "text"),
        Column("split", "split"),
    ),
    "events": (
        Column("user_id", "id", required=True),
        Column("item_id", "id", required=True),
        Column("timestamp", "timestamp", required=True),
        Column("event", "event", required=True),
    ),
    "items": (
        Column("item_id", "id", required=True),
        Column("category", "text"),
        Column("title", "text"),
        Column("image", "text"),
        Column("published_at", "timestamp"),
        Column("stat_*", "statistic"),
        Column("cat_*", "text"),
        Column("label_*", "text"),
    ),
    "users": (
        Column("user_id", "id", required=True),
        Column("stat_*", "statistic"),
        Column("cat_*", "text"),
    ),
}
REQUIRED_TABLES = ("impressions", "items")
_PRESENT = {"items": ("category", "title", "image")}  # must exist, but may be empty in a row

ARROW_TYPES: dict[Kind, pa.DataType] = {
    "id": pa.string(),
    "timestamp": pa.int64(),
    "count": pa.int64(),
    "flag": pa.bool_(),
    "amount": pa.float32(),
    "event": pa.string(),
    "split": pa.string(),
    "text": pa.string(),
    "statistic": pa.float64(),
}
DEFAULTS: dict[Kind, Any] = {"flag": False, "amount": 0.0, "text": ""}
"""What a missing value means."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a log directory.

    Attributes:
        name: `impressions`, `events`, `items` or `users`.
        files: its files, sorted by name.
        columns: the contract's columns that occur in some file, in the contract's order, and each one's name there.
        optional: columns that need not be there although the contract requires them.
    """

    name: str
    files: tuple[Path, ...]
    columns: Mapping[str, str]
    optional: tuple[str, ...] = ()

    def rules(self) -> dict[str, Column]:
        """Column name to its rule: the columns in the files, and those that have a default."""
        found = {}
        for rule in TABLES[self.name]:
            if rule.name in self.optional:
                found[rule.name] = rule._replace(required=False)
            elif rule.name.endswith("*"):
                found.update({name: rule for name in self.columns if _rule(self.name, name) is rule})
            elif rule.required or rule.kind in DEFAULTS or rule.name in self.columns:
                found[rule.name] = rule
        return found

    def schema(self) -> pa.Schema:
        """The form that `normalise` brings rows to."""
        return pa.schema([(name, ARROW_TYPES[rule.kind]) for name, rule in self.rules().items()])


class FilePart(NamedTuple):
    """What one worker reads at a time: a file, or (Parquet) one row group of it; -1 means all."""

    table: str
    path: Path
    row_group: int


class RawBatch(NamedTuple):
    """Rows as they are in the file `path`, under the contract's column names, and lines that are no rows at all."""

    rows: pa.RecordBatch
    malformed: list[str]
    path: Path


def parse_columns(options: Sequence[str]) -> dict[str, dict[str, str]]:
    """Parses `--columns impressions.item_id=article ...` into table -> the contract's name -> the name in the files."""
    names: dict[str, dict[str, str]] = {}
    for option in options:
        target, equals, source = option.partition("=")
        table, dot, column = target.partition(".")
        if not (equals and dot and source):
            raise CommandError(f"--columns: {option!r} is not TABLE.COLUMN=NAME, for example impressions.item_id=sku")
        if table not in TABLES:
            raise CommandError(f"--columns: no table {table!r} in {option!r}; tables are {', '.join(TABLES)}")
        if _rule(table, column) is None:
            known = ", ".join(c.name for c in TABLES[table])
            raise CommandError(f"--columns: {table} has no column {column!r}; its columns are {known}")
        names.setdefault(table, {})[column] = source
    return names


def find_tables(logs: Path, names: Mapping[str, Mapping[str, str]], optional: Sequence[str] = ()) -> dict[str, Table]:
    """Finds the tables of a log directory and checks their columns.

    Args:
        logs: the directory.
        names: see `parse_columns`.
        optional: required columns of `impressions` that may be missing this time.

    Raises:
        CommandError: a table or column is missing, there are two candidates for a table, or a file cannot be opened.
    """
    tables = {}
    for name in TABLES:
        candidates = [logs / f"{name}.{format}" for format in FORMATS if (logs / f"{name}.{format}").is_file()]
        if (logs / name).is_dir():
            candidates.append(logs / name)
        if len(candidates) > 1:
            raise CommandError(f"{logs}: table {name} exists twice ({', '.join(c.name for c in candidates)}); keep one")
        if not candidates:
            if name in REQUIRED_TABLES:
                raise CommandError(
                    f"{logs}: no table {name}; it must be {name}.parquet, .csv, .csv.gz, .jsonl, .jsonl.gz "
                    f"or a directory {name}/ of such files"
                )
            if name in names:
                raise CommandError(f"--columns: names columns of {name}, but {logs} has no such table")
            continue
        files = [candidates[0]]
        if files[0].is_dir():
            files = sorted(f for f in files[0].rglob("[!._]*") if f.is_file() and f.name.endswith(_ENDINGS))
            if not files:
                raise CommandError(f"{logs / name}: no {', '.join(FORMATS)} file in it")
        left_out = tuple(optional) if name == "impressions" else ()
        tables[name] = Table(name, tuple(files), _columns(name, files, names.get(name, {}), left_out), left_out)
    return tables


def _columns(table: str, files: Sequence[Path], names: Mapping[str, str], optional: Sequence[str]) -> dict[str, str]:
    found: set[str] = set()
    renamed = {source: column for column, source in names.items()}
    for file in files:
        in_file = set(file_columns(file))
        columns = {renamed.get(c, c) for c in in_file if c in renamed or c not in names}
        for column, source in names.items():
            if source not in in_file and _rule(table, column).required:
                raise CommandError(f"{file}: no column {source!r}, which --columns names for {table}.{column}")
        required = [c.name for c in TABLES[table] if c.required and c.name not in optional]
        required += _PRESENT.get(table, ())
        if missing := [c for c in required if c not in columns]:
            raise CommandError(
                f"{file}: no column {missing[0]!r}, which {table} must have; if it has another name there, pass "
                f"--columns {table}.{missing[0]}=NAME (columns: {', '.join(sorted(in_file))})"
            )
        found |= {c for c in columns if _rule(table, c) is not None}
    for column, source in names.items():
        if column not in found:
            raise CommandError(f"--columns: no file of {table} has a column {source!r}")
    order = {c.name: i for i, c in enumerate(TABLES[table])}
    return {c: names.get(c, c) for c in sorted(found, key=lambda c: (order[_rule(table, c).name], c))}


def _rule(table: str, column: str) -> Column | None:
    for rule in TABLES[table]:
        if rule.name == column or (rule.name.endswith("*") and column.startswith(rule.name[:-1])):
            return rule
    return None


def file_columns(path: Path) -> list[str]:
    """The column names of a file; of JSON lines, those of the first 1000.

    Raises:
        CommandError: the file cannot be read, or two columns have one name.
    """
    names = _file_columns(path)
    for name in names:
        if names.count(name) > 1:
            raise CommandError(f"{path}: two columns are named {name!r}; rename or remove one")
    return names


def _file_columns(path: Path) -> list[str]:
    with _readable(path):
        if path.stat().st_size == 0:
            raise CommandError(f"{path} is empty (0 bytes)")
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


def parts(table: Table) -> list[FilePart]:
    """Splits a table into what workers read independently."""
    found = []
    for path in table.files:
        groups = range(pq.read_metadata(path).num_row_groups) if path.name.endswith("parquet") else [-1]
        found += [FilePart(table.name, path, group) for group in groups]
    return found


def read(table: Table, part: FilePart, only: Sequence[str] | None = None) -> Iterator[RawBatch]:
    """Reads a part of a table in batches.

    Args:
        table: the table.
        part: one of `parts(table)`.
        only: the contract's columns wanted; all of them if `None`.

    Raises:
        CommandError: the file is damaged.
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
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[part.row_group], columns=list(there.values())):
            arrays = [batch.column(name) for name in there.values()]
            yield RawBatch(pa.RecordBatch.from_arrays(arrays, names=list(there)), [], part.path)


def _open_csv(path: Path, columns: Sequence[str] | None, malformed: list[str]) -> pa.csv.CSVStreamingReader:
    def skip(row: pa.csv.InvalidRow) -> str:
        malformed.append(row.text or f"{row.actual_columns} columns")
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
    malformed: list[str] = []
    with _open_csv(path, list(there.values()), malformed) as reader:
        for batch in reader:
            rows = pa.RecordBatch.from_arrays([batch.column(name) for name in there.values()], names=list(there))
            yield RawBatch(rows, malformed[:], path)
            malformed.clear()
    if malformed:
        none = pa.RecordBatch.from_pylist([], pa.schema([(c, pa.string()) for c in there]))
        yield RawBatch(none, malformed, path)


def _read_jsonl(path: Path, columns: Mapping[str, str]) -> Iterator[RawBatch]:
    with pa.input_stream(path) as stream:
        lines = _lines(stream)
        while block := [line for line, _ in zip(lines, range(BATCH_ROWS), strict=False)]:
            rows = [_parse_json(line) for line in block]
            malformed = [line.decode(errors="replace") for line, row in zip(block, rows, strict=True) if row is None]
            arrays = [
                pa.array([_json_text(row.get(name)) for row in rows if row is not None], pa.string())
                for name in columns.values()
            ]
            yield RawBatch(pa.RecordBatch.from_arrays(arrays, names=list(columns)), malformed, path)


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
        raise CommandError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
