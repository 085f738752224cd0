"""Validates rows of the logs and brings them to one form."""

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.logs.contract import ARROW_TYPES, DEFAULTS, Table
from beam_pipelines.logs.file_reader import RawBatch
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.logs.rejections import RejectedRow
from beam_pipelines.logs.values import is_empty, read_values


class ColumnCounts(NamedTuple):
    """What became of the values of a column.

    Attributes:
        present: rows that have a value.
        read: of these, values that could be read.
        markers: rows whose value is a marker of a missing one.
        lost: one of the values that could not be read, with its place: empty if there is none.
    """

    present: int
    read: int
    markers: int = 0
    lost: str = ""


class NormalisedBatch(NamedTuple):
    """A batch in the form of the contract.

    Attributes:
        rows: the valid ones, of `table.schema()`.
        rejected: the others.
        columns: what became of the values of each column that the file has, rejected rows included.
    """

    rows: pa.RecordBatch
    rejected: list[RejectedRow]
    columns: Mapping[str, ColumnCounts]


def normalise(table: Table, raw: RawBatch, rules: ReadingRules) -> NormalisedBatch:
    """Brings a batch to `table.schema()` and takes out the rows that break the contract.

    Optional values that are missing become what the contract says they mean: 0, false or the empty string. In `items`
    and `users`, a value that cannot be read only empties its field; there, rows are rejected for their ID alone.

    Args:
        table: the table that the batch is from.
        raw: the batch.
        rules: how values are read.

    Returns:
        The valid rows, the rejected ones, and what became of the values.
    """
    rows, rejected = raw.rows, [RejectedRow.of(table.name, line.reason, line.text) for line in raw.malformed]
    lenient = table.name in ("items", "users")
    reasons = pa.nulls(rows.num_rows, pa.string())
    arrays = []
    columns = {}
    for name, rule in table.rules().items():
        if name in rows.schema.names:
            source = rows.column(name)
            unit = rules.units.get(f"{table.name}.{name}", "iso")
            values = read_values(rule.kind, source, unit, f"{raw.path}: {table.name}.{name}")
            present = len(source) - (pc.sum(is_empty(source)).as_py() or 0)
            columns[name] = ColumnCounts(present, len(values) - values.null_count)
        else:
            source = values = pa.nulls(rows.num_rows, ARROW_TYPES[rule.kind])
        if rule.required or rule.kind == "split":
            missing = is_empty(source)
            reasons = _first(reasons, missing, f"missing {name}")
            reasons = _first(reasons, pc.is_null(values), f"invalid {name}")
        elif not lenient:
            reasons = _first(reasons, pc.and_not(pc.is_null(values), is_empty(source)), f"invalid {name}")
        if rule.kind in DEFAULTS and not rule.required:
            values = pc.fill_null(values, DEFAULTS[rule.kind])
        arrays.append(values)
    batch = pa.RecordBatch.from_arrays(arrays, schema=table.schema())
    if reasons.null_count == rows.num_rows:
        return NormalisedBatch(batch, rejected, columns)
    bad = pc.is_valid(reasons)
    for reason, row in zip(reasons.filter(bad).to_pylist(), rows.filter(bad).to_pylist(), strict=True):
        rejected.append(RejectedRow.of(table.name, reason, row))
    return NormalisedBatch(batch.filter(pc.invert(bad)), rejected, columns)


def _first(reasons: pa.Array, broken: pa.Array, reason: str) -> pa.Array:
    return pc.if_else(pc.and_(pc.is_null(reasons), broken), reason, reasons)
