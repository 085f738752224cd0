"""Reads files of one JSON object per line."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location
from beam_pipelines.logs.raw_batch import MalformedLine, RawBatch, make_rows
from beam_pipelines.logs.text_files import BOM, MAX_LINE_BYTES, is_utf8, open_text, read_sample

BATCH_ROWS = 1 << 15

_READ_BYTES = 1 << 22
_KEY = re.compile(rb'"([^"\\]*)"\s*:')
_Row = dict[str, Any]


def jsonl_keys(path: Location) -> list[str]:
    """The keys of all objects of a file, in the order in which they occur first.

    Raises:
        InputError: the file is not one object per line.
    """
    _check_form(path)
    found: dict[str, None] = {}
    seen: set[bytes] = set()
    for _, lines in _blocks(path):
        new = set(_KEY.findall(b"\n".join(lines))) - seen  # keys of objects in objects, too, and texts like keys
        seen |= new
        for line in lines if new else ():
            if not new.isdisjoint(keys := _KEY.findall(line)):
                row = _parse_line(line)
                if isinstance(row, dict):
                    found.update(dict.fromkeys(row))
                    new.difference_update(keys)
    return list(found)


def read_jsonl(path: Location, columns: Mapping[str, str]) -> Iterator[RawBatch]:
    """Reads a file of JSON objects.

    Numbers come as the text that stands in the file, true and false as these words, lists and objects as JSON.

    Args:
        path: the file.
        columns: new names of the columns wanted to keys.
    """
    for first, lines in _blocks(path):
        numbers = first + np.flatnonzero([bool(line.strip()) for line in lines])
        lines = [line for line in lines if line.strip()]
        rows = _parse(lines)
        malformed = [
            MalformedLine(number, row, line[:MAX_LINE_BYTES].decode(errors="replace"))
            for number, line, row in zip(numbers.tolist(), lines, rows, strict=True)
            if isinstance(row, str)
        ]
        objects = [row for row in rows if not isinstance(row, str)]
        if malformed:
            numbers = numbers[[not isinstance(row, str) for row in rows]]
        arrays = {column: _text_column([row.get(name) for row in objects]) for column, name in columns.items()}
        batch = RawBatch(make_rows(arrays, len(objects)), malformed, path, numbers, len(lines), 0)
        batch.check_conserved()
        yield batch


def _check_form(path: Location) -> None:
    """Refuses JSON that is laid out otherwise."""
    sample = read_sample(path).removeprefix(BOM).lstrip()
    lines = [line for line in sample.split(b"\n") if line.strip()][:1000]
    parsed = list(map(_parse_line, lines))
    if any(isinstance(row, dict) for row in parsed):
        return
    if "key twice" in parsed:
        raise InputError(f"{path}: all objects of its first MiB have a key twice")
    if not lines:
        raise InputError(f"{path}: its first MiB is blank")
    form = "one JSON array" if sample.startswith(b"[") else "JSON over several lines"
    if not sample.startswith((b"[", b"{")):
        form = "no JSON"
    raise InputError(f"{path} is {form}, not one JSON object per line (`jq -c '.[]'` makes such lines of an array)")


def _blocks(path: Location) -> Iterator[tuple[int, list[bytes]]]:
    """Lines, some at a time, and the number of the first of them."""
    first = 1
    with open_text(path) as stream:
        rest, pending = b"", list[bytes]()
        while read := stream.read(_READ_BYTES):
            if len(rest) > 2 * MAX_LINE_BYTES:
                rest = rest[: MAX_LINE_BYTES + 1]
            *lines, rest = (rest + read).split(b"\n")
            pending += lines
            while len(pending) >= BATCH_ROWS:
                yield first, pending[:BATCH_ROWS]
                first += BATCH_ROWS
                pending = pending[BATCH_ROWS:]
        pending.append(rest)
        yield first, pending


def _parse(lines: Sequence[bytes]) -> list[_Row | str]:
    """The objects of lines, or why a line is none."""
    rows = _parse_together(lines)
    return [_parse_line(line) for line in lines] if rows is None else rows


def _parse_together(lines: Sequence[bytes]) -> list[_Row | str] | None:
    """Parses many lines at once; `None` if that does not show for each line that it is one object and flawless."""
    text = b",0,".join(lines)  # so that no two lines can make one object and no line two unnoticed
    if b"\\u" in text or BOM in text or any(len(line) > MAX_LINE_BYTES for line in lines):
        return None
    try:
        parsed = json.loads(f"[{text.decode()}]", parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    rows = parsed[::2]
    if len(parsed) != 2 * len(lines) - 1 or parsed[1::2].count("0") != len(lines) - 1:
        return None
    if not all(type(row) is dict for row in rows):
        return None
    keys = text.count(b'":')
    if keys == sum(map(len, rows)) and not any(mark in text for mark in (b" :", b"\t:", b"\r:", b"[")):
        return rows
    # Keys may occur twice, or values be lists or objects, whose numbers are to stay numbers.
    return [
        row if line.count(b":") == len(row) and b"[" not in line else _parse_line(line)
        for line, row in zip(lines, rows, strict=True)
    ]


def _parse_line(line: bytes) -> _Row | str:
    """The object of a line, or why it is none."""
    if len(line) > MAX_LINE_BYTES:
        return "longer than 1 MiB"
    text = line.removeprefix(BOM)
    if not is_utf8(text):
        legible = text.decode(errors="replace").encode()
        return "not UTF-8" if isinstance(_parse_line(legible), dict) else "malformed row"
    try:
        row = json.loads(text, parse_int=str, parse_float=str, object_pairs_hook=_object)
        if b"\\u" in text:  # may escape half a surrogate pair, which is no text
            json.dumps(row, ensure_ascii=False).encode()
    except _RepeatedKeyError:
        return "key twice"
    except json.JSONDecodeError as error:
        return "more than one object" if error.msg == "Extra data" and text.startswith(b"{") else "malformed row"
    except (ValueError, RecursionError):
        return "malformed row"
    if not isinstance(row, dict):
        return "malformed row"
    if any(isinstance(value, (dict, list)) for value in row.values()):
        whole = json.loads(text)
        row = {key: whole[key] if isinstance(value, (dict, list)) else value for key, value in row.items()}
    return row


class _RepeatedKeyError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> _Row:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise _RepeatedKeyError
    return row


def _text_column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([_text(value) for value in values], pa.string())


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
