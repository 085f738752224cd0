"""Rows that a build cannot use: how they are noted, counted, and how many are too many."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.outputs import whole_file

DEAD_LETTERS = "dead_letters"


class RejectedRow(NamedTuple):
    """A dead letter: the table, why, and a hash that finds the row again without showing it."""

    table: str
    reason: str
    row_hash: str

    @classmethod
    def of(cls, table: str, reason: str, row: object) -> "RejectedRow":
        """Describes `row`, any JSON value."""
        text = json.dumps(row, sort_keys=True, default=str)
        return cls(table, reason, hashlib.sha256(text.encode()).hexdigest()[:32])

    def to_json(self) -> str:
        """One line of a `dead_letters/` file."""
        return json.dumps(self._asdict())


def write_dead_letters(dataset: Path, table: str, lines: Iterable[str]) -> None:
    """Writes `dead_letters/TABLE.jsonl`, sorted, into a dataset."""
    with whole_file(dataset / DEAD_LETTERS / f"{table}.jsonl") as path:
        path.write_text("".join(f"{line}\n" for line in sorted(lines)))


def count_dead_letters(dataset: Path, counters: Counter[str], max_bad_fraction: float) -> None:
    """Counts the dead letters of a dataset by table and reason.

    Args:
        dataset: the directory.
        counters: has the rows of each table as `rows.TABLE`; what is counted is added here.
        max_bad_fraction: of the rows of a table.

    Raises:
        InputError: a table has more.
    """
    for path in sorted((dataset / DEAD_LETTERS).glob("*.jsonl")):
        with open(path) as lines:
            reasons = Counter(json.loads(line)["reason"] for line in lines)
        table = path.stem
        counters.update({f"rejected.{table}.{reason}": count for reason, count in reasons.items()})
        check_bad_fraction(f"rows of {table}", reasons, counters[f"rows.{table}"], max_bad_fraction)


def check_bad_fraction(what: str, reasons: Counter[str], total: int, max_bad_fraction: float) -> None:
    """Stops a build with too much bad input.

    Args:
        what: what was counted, for the error.
        reasons: the bad ones by reason.
        total: all of them.
        max_bad_fraction: of `total` that may be bad.

    Raises:
        InputError: more are.
    """
    bad = reasons.total()
    if bad > max_bad_fraction * total:
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
        raise InputError(f"{bad} of {total} {what} are bad ({listed}); `max_bad_fraction` allows {max_bad_fraction:g}")
