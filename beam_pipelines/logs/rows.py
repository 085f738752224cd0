"""Validates rows of the logs and brings them to one form."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.logs.column_counts import ColumnCounts, LostValue, is_lenient
from beam_pipelines.logs.contract import ARROW_TYPES, DEFAULTS, Table
from beam_pipelines.logs.file_reader import RawBatch
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.logs.rejections import RejectedRow, file_of, shown
from beam_pipelines.logs.values import ReadValues, read_values


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


class _Fault(NamedTuple):
    """Rows that break the contract in one way."""

    column: str
    reason: str
    rows: pa.Array


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
    source, file = raw.rows, file_of(table.name, raw.path)
    faults: list[_Fault] = []
    arrays, columns = [], {}
    for name, rule in table.rules().items():
        if name in source.schema.names:
            read = read_values(rule.kind, source.column(name), rules, f"{table.name}.{name}", raw.path)
        else:
            nothing = pa.nulls(source.num_rows, ARROW_TYPES[rule.kind])
            read = ReadValues(nothing, pc.is_null(nothing), 0)
        values = read.values
        lost = pc.and_not(pc.is_null(values), read.missing)
        if rule.required or rule.kind == "split":
            faults.append(_Fault(name, f"missing {name}", read.missing))
        if not is_lenient(table.name, rule.kind):
            faults.append(_Fault(name, f"invalid {name}", lost))
        if rule.kind == "timestamp":
            outside = rules.out_of_range(f"{table.name}.{name}", values)
            if not is_lenient(table.name, rule.kind):
                faults.append(_Fault(name, f"{name} out of range", outside))
            values = pc.if_else(outside, None, values)
            lost = pc.or_(lost, outside)
        if name in source.schema.names:
            example = None
            if lost.true_count:
                place = pc.index(lost, True).as_py()
                value = _printable(source.column(name).slice(place, 1))[0]
                example = LostValue(file, int(raw.lines[place]), shown(rule.kind, value))
            present = len(lost) - read.missing.true_count
            columns[name] = ColumnCounts(present, present - lost.true_count, read.markers, example)
        if rule.kind in DEFAULTS and not rule.required:
            values = pc.fill_null(values, DEFAULTS[rule.kind])
        arrays.append(values)
    batch = pa.RecordBatch.from_arrays(arrays, schema=table.schema())
    rejected = [RejectedRow.of(table.name, line.reason, line.text, file, line.line or None) for line in raw.malformed]
    faults = [fault for fault in faults if fault.rows.true_count]
    if faults:
        rejected += _rejected(table, raw, faults)
        batch = batch.filter(pc.invert(_any(faults)))
    return NormalisedBatch(batch, rejected, columns)


def _any(faults: list[_Fault]) -> pa.Array:
    bad = faults[0].rows
    for fault in faults[1:]:
        bad = pc.or_(bad, fault.rows)
    return bad


def _rejected(table: Table, raw: RawBatch, faults: list[_Fault]) -> Iterator[RejectedRow]:
    """Dead letters of the rows of a batch, each with its first fault."""
    which = pa.nulls(raw.rows.num_rows, pa.int64())
    for number, fault in enumerate(faults):
        which = pc.if_else(pc.and_(pc.is_null(which), fault.rows), number, which)
    bad = pc.is_valid(which)
    columns = {name: _printable(raw.rows.column(name).filter(bad)) for name in raw.rows.schema.names}
    lines = raw.lines[bad.to_numpy(zero_copy_only=False)].tolist()
    file = file_of(table.name, raw.path)
    rules = table.rules()
    for place, (number, line) in enumerate(zip(which.filter(bad).to_pylist(), lines, strict=True)):
        name, reason, _ = faults[number]
        row = {column: values[place] for column, values in columns.items()}
        # What stands for a missing ID is none.
        kind = "text" if reason == f"missing {name}" else rules[name].kind
        value = shown(kind, row[name]) if row.get(name) not in (None, "") else None
        yield RejectedRow.of(table.name, reason, row, file, line, name, value)


def _printable(column: pa.Array) -> list[object]:
    """Values as Python has them; moments, of which Python does not have all, as text."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type):  # as text in UTC, for which no table of zones is needed
        column = column.cast(pa.int64()).cast(pa.timestamp(column.type.unit))
    return (column.cast(pa.string()) if pa.types.is_temporal(column.type) else column).to_pylist()
