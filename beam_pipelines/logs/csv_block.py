"""Lines of a CSV file that are in memory, and which of them are one record each.

Nearly all lines of nearly all files are: those go to Arrow as they are. The others are looked at one by one, so that a
damaged line costs that line and not what follows it.
"""

import re
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from beam_pipelines.logs.raw_batch import MalformedLine
from beam_pipelines.logs.text_files import BOM, MAX_LINE_BYTES, is_utf8, is_utf8_block

MAX_RECORD_LINES = 1000
"""A quote that does not close within as many lines never does."""

_QUOTE, _LINE_FEED, _RETURN = b'"\n\r'
_QUOTED_FIELD = re.compile(rb'"((?:[^"]++|"")*+)"')
_NUMBER = re.compile(rb"\s*[-+]?\d+(\.\d*)?\s*")


class Dialect(NamedTuple):
    """How a CSV file is written.

    Attributes:
        delimiter: one byte.
        fields: how many a record has.
        ends_at_return: whether a carriage return by itself ends a line, as in files of old Macintoshes.
    """

    delimiter: bytes
    fields: int
    ends_at_return: bool


class Record(NamedTuple):
    """What was read from the beginning of a line on.

    Attributes:
        fields: their text, without quotes.
        last_line: where the record ends.
        problem: why it is no record; one of a few fixed phrases; empty if it is one.
        has_stray_quote: whether a field without quotes around it contains one, beside fields with quotes.
    """

    fields: list[bytes]
    last_line: int
    problem: str
    has_stray_quote: bool


class Records(NamedTuple):
    """The records of a block, one to a line.

    Attributes:
        text: CSV in which every line that is not blank is a record; it may still have a wrong number of fields.
        lines: int64 `(records,)`: where each record begins, from 0.
        malformed: lines that are no record; their numbers, too, begin with 0.
        lines_in, continued: see `RawBatch`.
        lines_used: how many lines of the block that is; the record that begins there may go on in the next block.
    """

    text: bytes
    lines: np.ndarray
    malformed: list[MalformedLine]
    lines_in: int
    continued: int
    lines_used: int


class CsvBlock:
    """Whole lines of a CSV file.

    Args:
        data: the lines; only the last one of a file may lack its end.
        dialect: of the file.
        is_last: whether the file ends here.
    """

    def __init__(self, data: bytes, dialect: Dialect, is_last: bool) -> None:
        if not data.endswith((b"\n", b"\r")):
            data += b"\n"
        self.data = data
        self._dialect = dialect
        self._is_last = is_last
        self._bytes = np.frombuffer(data, np.uint8)
        ends_line = self._bytes == _LINE_FEED
        if dialect.ends_at_return:
            ends_line |= self._lone_returns()
        stops = np.flatnonzero(ends_line)
        self._starts = np.concatenate([[0], stops[:-1] + 1])
        self._ends = stops
        if b"\r" in data:  # "\r\n", and "\r\r\n", which a file becomes that is converted twice
            while (returns := (stops > self._starts) & (self._bytes[stops - 1] == _RETURN)).any():
                stops = stops - returns
            self._ends = stops
        self._stray: set[int] = set()  # lines to come whose quote closes a value that a stray one opened

    def __len__(self) -> int:
        """The number of lines, blank ones included."""
        return len(self._starts)

    def start(self, line: int) -> int:
        """Where a line begins; where the block ends if there is no such line."""
        return int(self._starts[line]) if line < len(self) else len(self.data)

    def first_line(self) -> int | None:
        """The first line that is not blank; `None` if all are."""
        filled = np.flatnonzero(self._ends > self._starts)
        return int(filled[0]) if len(filled) else None

    def records(self) -> Records:
        """Finds the records."""
        is_filled = self._ends > self._starts
        doubtful = self._doubtful_lines()
        if not doubtful:
            lines = np.flatnonzero(is_filled)
            return Records(self.data, lines, [], len(lines), 0, len(self))
        text: list[bytes] = []
        found: list[np.ndarray] = []
        malformed: list[MalformedLine] = []
        continued = added = line = 0
        while doubtful:
            next_line = heappop(doubtful)
            if next_line < line:  # inside a value that has been read
                continue
            text.append(self.data[self.start(line) : self.start(next_line)])
            found.append(line + np.flatnonzero(is_filled[line:next_line]))
            line = next_line
            pieces, reason, last = self._resolve(line)
            if reason == _UNDECIDED:
                break
            if reason:
                malformed.append(self._malformed(line, reason))
            if reason == "stray quote" and last in self._stray:
                heappush(doubtful, last)
                last = line
            text += pieces
            found.append(np.full(len(pieces), line))
            added += max(0, len(pieces) - 1)
            continued += int(is_filled[line + 1 : last + 1].sum())
            line = last + 1
        else:
            text.append(self.data[self.start(line) :])
            found.append(line + np.flatnonzero(is_filled[line:]))
            line = len(self)
        lines_in = int(is_filled[:line].sum()) + added
        return Records(b"".join(text), np.concatenate(found), malformed, lines_in, continued, line)

    def read(self, line: int) -> Record:
        """Reads the record that begins with a line: RFC 4180, but a quote inside a field without quotes is text."""
        data, delimiter = self.data, self._dialect.delimiter
        position = int(self._starts[line])
        if data.startswith(BOM, position):
            position += len(BOM)
        limit = min(len(data), position + MAX_LINE_BYTES)
        last, end = line, int(self._ends[line])
        fields: list[bytes] = []
        quoted = unquoted_quote = False
        while True:
            if data[position] == _QUOTE:
                match = _QUOTED_FIELD.match(data, position, limit)
                if match is not None and match.end() > end:
                    last = int(np.searchsorted(self._starts, match.end() - 1, "right")) - 1
                    end = int(self._ends[last])
                if match is None or last - line >= MAX_RECORD_LINES:
                    return Record(fields, line, "unclosed quote", False)
                quoted = True
                fields.append(match[1].replace(b'""', b'"'))
                position = match.end()
                if position != end and data[position : position + 1] != delimiter:
                    escaped = data[position - 2 : position - 1] == b"\\"
                    problem = "quote escaped by a backslash" if escaped else "text after a closing quote"
                    return Record(fields, last, problem, False)
            else:
                stop = data.find(delimiter, position, end)
                stop = end if stop < 0 else stop
                fields.append(data[position:stop])
                unquoted_quote = unquoted_quote or b'"' in fields[-1]
                position = stop
            if position == end:
                return Record(fields, last, "", quoted and unquoted_quote)
            position += 1

    def _lone_returns(self) -> np.ndarray:
        """Where carriage returns are that no line feed follows."""
        returns = self._bytes == _RETURN
        returns[:-1] &= self._bytes[1:] != _LINE_FEED
        return returns

    def _doubtful_lines(self) -> list[int]:
        """Lines that may be no record, or not one by themselves, or not as they are, in their order."""
        starts, ends, data = self._starts, self._ends, self._bytes
        found = [np.flatnonzero(ends - starts > MAX_LINE_BYTES)]
        if b'"' in self.data:
            found.append(self._lines_with_odd_quotes())
        if b"\0" in self.data:
            found.append(self._lines_of(np.flatnonzero(data == 0)))
        if b"\r" in self.data and not self._dialect.ends_at_return:
            lone = np.flatnonzero(self._lone_returns())
            line = self._lines_of(lone)
            found.append(line[lone < ends[line]])
        if not self.data.isascii():
            marks = np.flatnonzero(data[starts] == BOM[0])
            found.append(marks[[self.data.startswith(BOM, start) for start in starts[marks].tolist()]])
            if not is_utf8_block(pa.py_buffer(self.data)):
                foreign = np.unique(self._lines_of(np.flatnonzero(data >= 0x80)))
                found.append(foreign[[not is_utf8(self._line(line)) for line in foreign.tolist()]])
        lines = [lines for lines in found if len(lines)]
        return np.unique(np.concatenate(lines)).tolist() if lines else []

    def _lines_with_odd_quotes(self) -> np.ndarray:
        """Lines whose quotes, by themselves, do not all stand around a field or double in one."""
        quotes = np.flatnonzero(self._bytes == _QUOTE)
        before = np.searchsorted(quotes, self._starts)
        if not (before & 1).any() and not len(quotes) & 1:
            # A doubled quote is one that closes and one that opens; before the first byte is the last: a line end.
            opening, closing = quotes[::2], quotes[1::2]
            wrong = [opening[~self._is_edge(opening - 1)], closing[~self._is_edge(closing + 1)]]
            return self._lines_of(np.concatenate(wrong))
        count = np.diff(before, append=len(quotes))
        opens = (np.arange(len(quotes)) - np.repeat(before, count)) & 1 == 0
        wrong_here = ~self._is_edge(quotes - np.where(opens, 1, -1))
        return np.concatenate([np.flatnonzero(count & 1), self._lines_of(quotes[wrong_here])])

    def _is_edge(self, positions: np.ndarray) -> np.ndarray:
        """Whether there is something that may stand before or after a quote."""
        is_edge = np.zeros(256, bool)
        is_edge[[_QUOTE, _LINE_FEED, _RETURN, self._dialect.delimiter[0]]] = True
        return is_edge[self._bytes[positions]]

    def _lines_of(self, positions: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts, positions, "right") - 1

    def _line(self, line: int) -> bytes:
        return self.data[int(self._starts[line]) : int(self._ends[line])]

    def _malformed(self, line: int, reason: str) -> MalformedLine:
        return MalformedLine(line, reason, self._line(line)[:MAX_LINE_BYTES].decode(errors="replace"))

    def _resolve(self, line: int) -> tuple[list[bytes], str, int]:
        """Reads a doubtful line: the records in it as proper lines, or why it is none; and the last line of it.

        A stray quote that opens a value is in this line alone, and the last line has one that closes it.
        """
        text = self._line(line)
        if len(text) > MAX_LINE_BYTES:
            return [], "longer than 1 MiB", line
        if line in self._stray:
            self._stray.remove(line)
            return [], "stray quote", line
        if b"\r" in text and len(parts := self._split_at_returns(text)) > 1:
            return [part + b"\n" for part in parts], "", line
        record = self.read(line)
        if record.problem == "unclosed quote" and not self._is_bounded(line):
            return [], _UNDECIDED, line
        if record.problem:
            return [], record.problem if record.last_line == line else "unclosed quote", line
        if len(record.fields) != self._dialect.fields:
            return [], "malformed row" if record.last_line == line else "unclosed quote", line
        if record.has_stray_quote:
            return [], "stray quote", line
        if record.last_line > line and self._runs_over_rows(line, record.last_line):
            self._stray.add(record.last_line)
            return [], "stray quote", record.last_line
        whole = self.data[int(self._starts[line]) : int(self._ends[record.last_line])]
        if not is_utf8(whole):
            return [], "not UTF-8", record.last_line
        if b"\0" in whole:
            return [], "NUL byte", record.last_line
        quoted = [b'"' + field.replace(b'"', b'""') + b'"' for field in record.fields]
        return [self._dialect.delimiter.join(quoted) + b"\n"], "", record.last_line

    def _is_bounded(self, line: int) -> bool:
        """Whether enough of the file is here to say that a quote in a line closes nowhere."""
        far = len(self.data) - int(self._starts[line]) >= MAX_LINE_BYTES + len(BOM)
        return self._is_last or far or len(self) - line > MAX_RECORD_LINES

    def _split_at_returns(self, text: bytes) -> list[bytes]:
        """The rows of a line in which single carriage returns end lines; nothing if they are part of a value."""
        parts = [part for part in text.split(b"\r") if part]
        delimiter, fields = self._dialect.delimiter, self._dialect.fields
        are_rows = fields > 1 and b'"' not in text and is_utf8(text) and b"\0" not in text
        return parts if are_rows and all(part.count(delimiter) == fields - 1 for part in parts) else []

    def _runs_over_rows(self, first: int, last: int) -> bool:
        """Whether the quotes around a value of several lines are stray ones: rows are in it.

        They are if each line is like a row by itself; or each but the first and last, which the quotes may have broken.
        """
        whole = [text for text in map(self._line, range(first, last + 1)) if text]
        inner = whole[1:-1]
        return self._are_rows(whole) is not None or (b'"' not in b"".join(inner) and bool(self._are_rows(inner)))

    def _are_rows(self, lines: list[bytes]) -> list[int] | None:
        """Which fields are numbers in lines that look like rows; `None` if they do not.

        Rows have all their fields, and numbers in the same ones.
        """
        numeric: list[int] | None = None
        for text in lines:
            fields = self._fields_alone(text)
            if len(fields) != self._dialect.fields:
                return None
            if numeric is None:
                numeric = [number for number, field in enumerate(fields) if _NUMBER.fullmatch(field)]
            values = [fields[number] for number in numeric if fields[number]]
            if not all(map(_NUMBER.fullmatch, values)) or (numeric and not values):
                return None
        return numeric

    def _fields_alone(self, text: bytes) -> list[bytes]:
        """The fields of a line, where a quote that does not close in it is text."""
        fields, position = [], 0
        while True:
            match = _QUOTED_FIELD.match(text, position)
            if match is not None and text[match.end() : match.end() + 1] in (b"", self._dialect.delimiter):
                stop = match.end()
                fields.append(match[1])
            else:
                stop = text.find(self._dialect.delimiter, position)
                stop = len(text) if stop < 0 else stop
                fields.append(text[position:stop])
            if stop >= len(text):
                return fields
            position = stop + 1


_UNDECIDED = "undecided"
