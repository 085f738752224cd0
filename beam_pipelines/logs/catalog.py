"""The item and user tables of a dataset: one row per ID; a row's number stands for the ID in pages."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_pipelines.format.manifest import File, Manifest, ids_sha256
from beam_pipelines.format.manifest import Table as TableEntry
from beam_pipelines.logs.contract import Table
from beam_pipelines.logs.file_reader import read_part, table_parts
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.logs.rejections import RejectedRow, write_dead_letters
from beam_pipelines.logs.rows import normalise
from beam_pipelines.logs.scan import Scan

_KEY = {"items": "item_id", "users": "user_id"}
_ALWAYS = {"items": ("item_id", "category", "title", "image"), "users": ("user_id",)}


class Catalog(NamedTuple):
    """The written item and user tables.

    Attributes:
        items, users: their entries in the manifest.
        image_of_item: the picture that each item row names in the logs, empty if none; `None` for items that are only
            in the previous dataset.
    """

    items: TableEntry
    users: TableEntry
    image_of_item: list[str | None]


def write_catalog(
    directory: Path,
    tables: Mapping[str, Table],
    seen: Scan,
    rules: ReadingRules,
    counters: Counter[str],
    previous: tuple[Path, Manifest] | None = None,
) -> Catalog:
    """Writes `items/items.parquet` and `users/users.parquet`, and the dead letters of both.

    Args:
        directory: the dataset.
        tables: of the logs.
        seen: the IDs in impressions and events.
        rules: how values are read.
        counters: what is counted is added here.
        previous: an earlier dataset, whose rows keep their numbers.

    Raises:
        InputError: a table cannot be read, or one of the previous dataset is not what its manifest lists.
    """
    items, image = _write_table(directory, "items", tables.get("items"), seen.item_ids, rules, counters, previous)
    users, _ = _write_table(directory, "users", tables.get("users"), seen.user_ids, rules, counters, previous)
    return Catalog(items, users, image)


def _write_table(
    directory: Path,
    name: Literal["items", "users"],
    table: Table | None,
    ids: pa.Array,
    rules: ReadingRules,
    counters: Counter[str],
    previous: tuple[Path, Manifest] | None,
) -> tuple[TableEntry, list[str | None]]:
    """Writes one of the tables, without the names of pictures; returns its entry and these names."""
    earlier = None
    if previous is not None:
        dataset, manifest = previous
        file = (manifest.items if name == "items" else manifest.users).file
        manifest.verify(dataset, [file])
        earlier = pq.read_table(dataset / file.path)
    built, rejected = build_table(name, table, ids, rules, counters, earlier)
    if rejected:
        write_dead_letters(directory, name, [row.to_json() for row in rejected])
    images: list[str | None] = []
    if name == "items":
        images = built["image"].to_pylist()
        built = built.drop_columns("image")
    path = f"{name}/{name}.parquet"
    (directory / name).mkdir()
    pq.write_table(built, directory / path)
    row_ids = built.column(0).to_pylist()
    return TableEntry(file=File.of(directory, path, built.num_rows), ids_sha256=ids_sha256(row_ids)), images


def build_table(
    name: str,
    table: Table | None,
    seen_ids: pa.Array,
    rules: ReadingRules,
    counters: Counter[str],
    previous: pa.Table | None = None,
) -> tuple[pa.Table, list[RejectedRow]]:
    """Builds the `items` or `users` table.

    Args:
        name: `items` or `users`.
        table: the table in the logs, if there is one.
        seen_ids: the distinct IDs in impressions and events. Those without a row of their own get one with empty
            fields. Of several rows of one ID that differ, the one that sorts first is kept.
        rules: how values are read.
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
    if table is not None:
        for raw in (raw for part in table_parts(table) for raw in read_part(table, part)):
            batch, bad, _ = normalise(table, raw, rules)
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
    complete = pa.concat_tables([kept, empty.cast(schema)]).sort_by(key)
    if previous is not None:
        ids = complete[key].combine_chunks()
        numbered = pc.index_in(previous[key], ids).combine_chunks()
        new = pc.indices_nonzero(pc.invert(pc.is_in(ids, previous[key].combine_chunks())))
        complete = complete.take(pa.concat_arrays([numbered.cast(pa.uint64()), new]))
    complete = _without_nulls(complete)
    if previous is not None and name == "items":
        image = pc.if_else(pc.is_in(complete[key], gone[key].combine_chunks()), None, complete["image"])
        complete = complete.set_column(complete.column_names.index("image"), "image", image)
    return complete, rejected


def _without_nulls(table: pa.Table) -> pa.Table:
    """Missing strings are empty and missing numbers NaN; a missing time stays null."""
    fill: Mapping[pa.DataType, str | float] = {pa.string(): "", pa.float64(): float("nan")}
    columns = {
        name: pc.fill_null(column, fill[column.type]) if column.type in fill else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return pa.table(columns).combine_chunks()
