"""The item and user tables of a dataset: one row per ID; a row's number stands for the ID in pages."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.logs.rows import RejectedRow, normalise
from beam_pipelines.logs.tables import Table, TimestampUnit, parts, read

_KEY = {"items": "item_id", "users": "user_id"}
_ALWAYS = {"items": ("item_id", "category", "title", "image"), "users": ("user_id",)}


def build_table(
    name: str,
    table: Table | None,
    seen_ids: pa.Array,
    unit: TimestampUnit,
    counters: Counter[str],
    previous: pa.Table | None = None,
) -> tuple[pa.Table, list[RejectedRow]]:
    """Builds the `items` or `users` table.

    Args:
        name: `items` or `users`.
        table: the table in the logs, if there is one.
        seen_ids: the distinct IDs in impressions and events. Those without a row of their own get one with empty
            fields. Of several rows of one ID that differ, the one that sorts first is kept.
        unit: of timestamps.
        counters: what is counted is added here.
        previous: the table of an earlier dataset. Its rows keep their numbers; those that the logs no longer have keep
            their features, too.

    Returns:
        The table: the previous IDs in their order, then the others sorted; for items with the `image` column, null
        where the previous dataset has the picture. And the rejected rows.
    """
    key = _KEY[name]
    schema = pa.schema([(column, pa.string()) for column in _ALWAYS[name]]) if table is None else table.schema()
    batches, rejected = [], []
    for part in parts(table) if table is not None else []:
        for raw in read(table, part):
            batch, bad = normalise(table, raw, unit)
            counters[f"rows.{name}"] += raw.rows.num_rows + len(raw.malformed)
            batches.append(batch)
            rejected += bad
    rows = pa.Table.from_batches(batches, schema)
    distinct = rows.group_by(schema.names, use_threads=False).aggregate([])
    distinct = distinct.select(schema.names).sort_by([(column, "ascending") for column in schema.names])
    ids = distinct[key].combine_chunks()
    first = np.ones(len(ids), bool)
    first[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    kept = distinct.filter(pa.array(first))
    counters[f"{name}.duplicate"] = rows.num_rows - distinct.num_rows
    counters[f"{name}.conflicting"] = distinct.num_rows - kept.num_rows

    if previous is not None:
        gone = previous.filter(pc.invert(pc.is_in(previous[key], kept[key].combine_chunks())))
        counters[f"{name}.only_in_previous"] = len(gone)
        columns = {c: gone[c] if c in gone.column_names else pa.nulls(len(gone)) for c in schema.names}
        kept = pa.concat_tables([kept, pa.table(columns).cast(schema)])
    absent = seen_ids.filter(pc.invert(pc.is_in(seen_ids, kept[key].combine_chunks())))
    counters[f"{name}.only_in_logs"] = len(absent)
    empty = pa.table({c: absent if c == key else pa.nulls(len(absent), schema.field(c).type) for c in schema.names})
    whole = pa.concat_tables([kept, empty.cast(schema)]).sort_by(key)
    if previous is not None:
        ids = whole[key].combine_chunks()
        known = pc.index_in(previous[key], ids).combine_chunks()
        new = pc.indices_nonzero(pc.invert(pc.is_in(ids, previous[key].combine_chunks())))
        whole = whole.take(pa.concat_arrays([known.cast(pa.uint64()), new]))
    whole = _without_nulls(whole)
    if previous is not None and name == "items":
        image = pc.if_else(pc.is_in(whole[key], gone[key].combine_chunks()), None, whole["image"])
        whole = whole.set_column(whole.column_names.index("image"), "image", image)
    return whole, rejected


def _without_nulls(table: pa.Table) -> pa.Table:
    """Missing strings are empty and missing numbers NaN; a missing time stays null."""
    fill: Mapping[pa.DataType, str | float] = {pa.string(): "", pa.float64(): float("nan")}
    columns = {
        name: pc.fill_null(column, fill[column.type]) if column.type in fill else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return pa.table(columns).combine_chunks()
