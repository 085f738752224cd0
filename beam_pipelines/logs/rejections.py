"""Rows that a build cannot use: how they are noted, counted, explained, and how many are too many."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location
from beam_pipelines.format.manifest import File
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.logs.contract import ACCEPTED, Kind, find_column
from beam_pipelines.logs.moments import appearance

DEAD_LETTERS = "dead_letters"

_CANONICAL = json.JSONEncoder(sort_keys=True, default=str)
_SHOWN = 40
"""Characters of a value that are shown."""
_FEW_VALUES = ("event", "split", "flag")
"""Kinds of columns of which the values met are listed: they say what the column is."""
_DISTINCT = 1000
"""Distinct values of such a column that are counted."""


class RejectedRow(NamedTuple):
    """A dead letter: why a row is rejected, a hash that finds it again without showing it, and its place.

    Attributes:
        table: the row's table.
        reason: in few words, the same for all rows of one kind of fault.
        row_hash: of the row.
        file, line: where it is; `None` for rows that were fine where they stood.
        column, value: the one that is at fault, and what it says, shortened; `None` if it is not a single one.
    """

    table: str
    reason: str
    row_hash: str
    file: str | None = None
    line: int | None = None
    column: str | None = None
    value: str | None = None

    @classmethod
    def of(
        cls,
        table: str,
        reason: str,
        row: object,
        file: str | None = None,
        line: int | None = None,
        column: str | None = None,
        value: str | None = None,
    ) -> "RejectedRow":
        """Describes `row`, any JSON value."""
        row_hash = hashlib.sha256(_CANONICAL.encode(row).encode()).hexdigest()[:32]
        return cls(table, reason, row_hash, file, line, column, value)

    def to_json(self) -> str:
        """One line of a `dead_letters/` file."""
        return json.dumps(self._asdict())


class Rejections(NamedTuple):
    """What is known of the rows that were rejected for one reason.

    Attributes:
        rows: how many there are.
        first: the first one, by file and line.
        values: what the column at fault says, of columns of few values.
    """

    rows: int
    first: RejectedRow
    values: Counter[str]

    def __str__(self) -> str:
        """One of them, and what would have been accepted."""
        row = self.first
        place = f"{row.file}:{row.line}: " if row.line is not None else f"{row.file}: " if row.file is not None else ""
        if row.column is None or (rule := find_column(row.table, row.column)) is None:
            return f"{place}{self.first.reason}"
        if row.reason.startswith("missing"):
            marker = "" if row.value is None else f" ('{row.value}' is one of `missing_markers`)"
            return f"{place}no {row.column}{marker}"
        said = f"{place}{row.column} '{row.value}'"
        if self.values:
            met = ", ".join(f"'{value}' {count} times" for value, count in _most_common(self.values, 5))
            said += f" (met: {met})"
        if rule.kind == "timestamp" and (look := appearance(row.value or "")):
            said += f" (looks like {look})"
        accepted = "times within `time_range`" if row.reason.endswith("out of range") else ACCEPTED[rule.kind]
        return f"{said}; accepted: {accepted}"


def file_of(table: str, path: Location) -> str:
    """The name of a file of a table, without the path to the logs."""
    folders = [place for place, name in enumerate(path.parts[:-1]) if name == table]
    if not folders or path.name.lower().startswith(f"{table}."):
        return path.name
    return "/".join(path.parts[folders[-1] :])


def shown(kind: Kind, value: object) -> str:
    """A value for people to read: shortened, on one line; of an ID, which is nobody's business, a hash."""
    text = str(value)
    if kind == "id":
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if len(text) > _SHOWN:
        text = f"{text[: _SHOWN - 1]}…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class RejectionSummary:
    """Counts rejected rows by reason, in memory that does not grow with them."""

    def __init__(self) -> None:
        self._found: dict[str, Rejections] = {}

    def add(self, rejected: Iterable[RejectedRow]) -> None:
        """Counts rows."""
        for row in rejected:
            count, first, values = self._found.get(row.reason) or Rejections(0, row, Counter())
            rule = find_column(row.table, row.column) if row.column is not None else None
            if rule is not None and rule.kind in _FEW_VALUES and row.value is not None:
                _count(values, row.value, 1)
            self._found[row.reason] = Rejections(count + 1, min(first, row, key=_place), values)

    def merge(self, other: "RejectionSummary") -> None:
        """Adds what another one counted."""
        for reason, theirs in other._found.items():
            count, first, values = self._found.get(reason) or Rejections(0, theirs.first, Counter())
            for value, times in theirs.values.items():
                _count(values, value, times)
            self._found[reason] = Rejections(count + theirs.rows, min(first, theirs.first, key=_place), values)

    def rows(self) -> int:
        """How many there are."""
        return sum(one.rows for one in self._found.values())

    def by_reason(self) -> dict[str, Rejections]:
        """By reason, the most frequent first."""
        return dict(sorted(self._found.items(), key=lambda one: (-one[1].rows, one[0])))


def _count(values: Counter[str], value: str, times: int) -> None:
    if value in values or len(values) < _DISTINCT:
        values[value] += times


def _place(row: RejectedRow) -> tuple[str, int, str]:
    return row.file or "", row.line or 0, row.row_hash


def _most_common(counts: Counter[str], most: int) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:most]


class DeadLetters(NamedTuple):
    """A written file of dead letters.

    Attributes:
        table: whose rows they are.
        file: the file.
        rejected: how many there are, by reason.
    """

    table: str
    file: File
    rejected: RejectionSummary


def write_dead_letters(dataset: Location, table: str, lines: Iterable[str]) -> DeadLetters:
    """Writes `dead_letters/TABLE.jsonl`, sorted, into a dataset.

    Args:
        dataset: the directory.
        table: whose rows they are.
        lines: see `RejectedRow.to_json`.
    """
    lines = sorted(lines)
    path = f"{DEAD_LETTERS}/{table}.jsonl"
    content = "".join(f"{line}\n" for line in lines).encode()
    with whole_file(dataset / path) as scratch:
        scratch.write_bytes(content)
    file = File(path=path, records=len(lines), bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    rejected = RejectionSummary()
    rejected.add(RejectedRow(**json.loads(line)) for line in lines)
    return DeadLetters(table, file, rejected)


def count_dead_letters(written: Iterable[DeadLetters], counters: Counter[str], max_bad_fraction: float) -> None:
    """Counts the dead letters of a dataset by table and reason.

    Args:
        written: of the tables that have any.
        counters: has the rows of each table as `rows.TABLE`; what is counted is added here.
        max_bad_fraction: of the rows of a table.

    Raises:
        InputError: a table has more.
    """
    for table, _, summary in sorted(written, key=lambda letters: letters.table):
        rejected = summary.by_reason()
        reasons = Counter({reason: one.rows for reason, one in rejected.items()})
        counters.update({f"rejected.{table}.{reason}": count for reason, count in reasons.items()})
        examples = [str(one) for one in rejected.values()]
        check_bad_fraction(f"rows of {table}", reasons, counters[f"rows.{table}"], max_bad_fraction, examples)


def check_bad_fraction(
    what: str, reasons: Counter[str], total: int, max_bad_fraction: float, examples: Sequence[str] = ()
) -> None:
    """Stops a build with too much bad input.

    Args:
        what: what was counted, for the error.
        reasons: the bad ones by reason.
        total: all of them.
        max_bad_fraction: of `total` that may be bad.
        examples: of the reasons, in the order of their frequency.

    Raises:
        InputError: more are.
    """
    bad = reasons.total()
    if bad > max_bad_fraction * total:
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
        shown_examples = f"; e.g. {'; '.join(examples[:3])}" if examples else ""
        raise InputError(
            f"{bad} of {total} {what} are bad ({listed}){shown_examples}; "
            f"`max_bad_fraction` allows {max_bad_fraction:g}"
        )
