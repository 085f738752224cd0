"""Validates rows of the logs and brings them to one form."""

import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.logs.contract import ARROW_TYPES, DEFAULTS, Table
from beam_pipelines.logs.file_reader import RawBatch
from beam_pipelines.logs.moments import TimestampUnit
from beam_pipelines.logs.rejections import RejectedRow
from beam_pipelines.logs.values import is_empty, read_values


def normalise(table: Table, raw: RawBatch, unit: TimestampUnit) -> tuple[pa.RecordBatch, list[RejectedRow]]:
    """Brings a batch to `table.schema()` and takes out the rows that break the contract.

    Optional values that are missing become what the contract says they mean: 0, false or the empty string. In `items`
    and `users`, a value that cannot be read only empties its field; there, rows are rejected for their ID alone.

    Args:
        table: the table that the batch is from.
        raw: the batch.
        unit: of timestamps that are not of a date type.

    Returns:
        The valid rows and the rejected ones.
    """
    rows, rejected = raw.rows, [RejectedRow.of(table.name, "malformed row", line) for line in raw.malformed]
    lenient = table.name in ("items", "users")
    reasons = pa.nulls(rows.num_rows, pa.string())
    arrays = []
    for name, rule in table.rules().items():
        if name in rows.schema.names:
            source = rows.column(name)
            values = read_values(rule.kind, source, unit, f"{raw.path}: {table.name}.{name}")
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
        return batch, rejected
    bad = pc.is_valid(reasons)
    for reason, row in zip(reasons.filter(bad).to_pylist(), rows.filter(bad).to_pylist(), strict=True):
        rejected.append(RejectedRow.of(table.name, reason, row))
    return batch.filter(pc.invert(bad)), rejected


def _first(reasons: pa.Array, broken: pa.Array, reason: str) -> pa.Array:
    return pc.if_else(pc.and_(pc.is_null(reasons), broken), reason, reasons)
