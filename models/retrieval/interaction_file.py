"""Reads interactions from the layout of public benchmarks: one file, with the part that each row belongs to."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.csv_reader import CsvHeader, read_csv
from beam_pipelines.logs.raw_batch import RawBatch
from beam_pipelines.logs.text_files import open_text, readable
from models.retrieval.interactions import Interactions, Pairs

COLUMNS = ("userID", "itemID", "x_label")
"""The columns, of which the last one is 0 for train, 1 for validation and 2 for test; `timestamp` may be there, too."""

_PARTS = ("0", "1", "2")
_LARGEST_SECONDS = 100_000_000_000  # of the year 5138; as milliseconds it would be 1973


def read_interactions(path: Path | str) -> Interactions:
    """Reads a file `userID itemID x_label [timestamp] …`, separated by tabs or commas, perhaps compressed.

    Times are whole seconds or milliseconds since 1970. IDs are texts and stay so. Users and items are numbered in the
    order of their IDs: by value if all of them are whole numbers, else as texts.

    Args:
        path: the file.

    Raises:
        InputError: it cannot be read, a column is missing, or a row is damaged; its line is named.

    Example:
        >>> interactions = read_interactions("baby.inter")
        >>> len(interactions.train), interactions.num_items
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file {path}")
    with readable(path):
        delimiter = _delimiter(path)
        names = CsvHeader.read(path, delimiter).names
        if missing := [name for name in COLUMNS if name not in names]:
            raise InputError(f"{path} has no column {', '.join(missing)} (columns: {', '.join(names)})")
        timed = "timestamp" in names
        wanted = {name: name for name in (*COLUMNS, *(["timestamp"] if timed else []))}
        rows = pa.Table.from_batches([*_whole_rows(read_csv(path, wanted, delimiter))] or [_no_rows(wanted)])
    users, user_ids = _numbered(rows["userID"])
    items, item_ids = _numbered(rows["itemID"])
    label = rows["x_label"].to_numpy()
    times = _milliseconds(pc.cast(rows["timestamp"], pa.int64()).to_numpy()) if timed else None
    pairs = Pairs(users, items, times)
    if not (label == "0").any():
        raise InputError(f"{path} has no row with the x_label 0, which are those to learn from")
    return Interactions.of(user_ids, item_ids, *(pairs.take(label == part) for part in _PARTS))


def _delimiter(path: Path) -> str:
    with open_text(path) as stream:
        return "\t" if b"\t" in bytes(stream.read(1 << 16)).split(b"\n", 1)[0] else ","


def _whole_rows(batches: Iterator[RawBatch]) -> Iterator[pa.RecordBatch]:
    """The rows, all of which must be whole: a benchmark without some of its rows is another one."""
    for batch in batches:
        if batch.malformed:
            line = batch.malformed[0]
            raise InputError(f"{batch.path}:{line.line}: {line.reason} ({line.text[:80]!r})")
        for name, column in zip(batch.rows.schema.names, batch.rows.columns, strict=True):
            wrong, rule = _wrong(name, column)
            if wrong.any():
                row = int(np.argmax(wrong))
                raise InputError(f"{batch.path}:{batch.lines[row]}: {name} {rule}. Received: {column[row].as_py()!r}")
        yield batch.rows


def _wrong(name: str, column: pa.Array) -> tuple[np.ndarray, str]:
    """Which values of a column cannot be used, and the rule."""
    if name == "x_label":
        fine, rule = pc.is_in(column, pa.array(_PARTS)), "must be 0 (train), 1 (validation) or 2 (test)"
    elif name == "timestamp":
        fine, rule = pc.match_substring_regex(column, "^-?[0-9]{1,18}$"), "must be a whole number"
    else:
        fine, rule = pc.is_valid(column), "must not be empty"
    return ~pc.fill_null(fine, False).to_numpy(zero_copy_only=False), rule


def _no_rows(names: Sequence[str] | dict[str, str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({name: pa.array([], pa.string()) for name in names})


def _milliseconds(times: np.ndarray) -> np.ndarray:
    return times * 1000 if len(times) and np.abs(times).max() < _LARGEST_SECONDS else times


def _numbered(ids: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Row numbers of the IDs, and the IDs by row."""
    distinct = pc.unique(ids).to_pylist()
    whole = all(text.isascii() and text.isdigit() for text in distinct)
    by_row = sorted(distinct, key=lambda text: (int(text), text)) if whole else sorted(distinct)
    rows = pc.index_in(ids.combine_chunks(), pa.array(by_row, pa.string()))
    return rows.to_numpy(zero_copy_only=False).astype(np.int32), by_row
