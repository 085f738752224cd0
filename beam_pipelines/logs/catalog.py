"""The item and user tables of a dataset: one row per ID; a row's number stands for the ID in pages."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_pipelines.format.location import Location
from beam_pipelines.format.manifest import File, Manifest, ids_sha256
from beam_pipelines.format.manifest import Table as TableEntry
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.logs.rejections import DeadLetters, write_dead_letters
from beam_pipelines.logs.survey import KEYS, TableSurvey, named_ids

_ALWAYS = {"items": ("item_id", "category", "title", "image"), "users": ("user_id",)}
_UPDATED = "updated_at"


class Catalog(NamedTuple):
    """The written item and user tables.

    Attributes:
        items, users: their entries in the manifest.
        image_of_item: the picture that each item row names in the logs, empty if none; `None` for items that are only
            in the previous dataset.
        dead_letters: what was written of their rejected rows.
    """

    items: TableEntry
    users: TableEntry
    image_of_item: list[str | None]
    dead_letters: list[DeadLetters]


def write_catalog(
    directory: Location,
    survey: Mapping[str, TableSurvey],
    newest: Mapping[str, pa.Table],
    counters: Counter[str],
    previous: tuple[Path, Manifest] | None = None,
) -> Catalog:
    """Writes `items/items.parquet` and `users/users.parquet`, and the dead letters of both.

    Args:
        directory: the dataset.
        survey: of all tables.
        newest: `items` and `users`, as far as the logs have them; see `newest_values`.
        counters: what is counted is added here.
        previous: an earlier dataset, whose rows keep their numbers.

    Raises:
        InputError: a table of the previous dataset is not what its manifest lists.
    """
    items, image = _write_table(directory, "items", survey, newest, counters, previous)
    users, _ = _write_table(directory, "users", survey, newest, counters, previous)
    dead_letters = [
        write_dead_letters(directory, name, [row.to_json() for row in survey[name].dead_letters])
        for name in KEYS
        if name in survey and survey[name].dead_letters
    ]
    return Catalog(items, users, image, dead_letters)


def known_ids(
    name: Literal["items", "users"], newest: Mapping[str, pa.Table], previous: tuple[Path, Manifest] | None = None
) -> pa.Array:
    """The distinct IDs that have a row in a table of the logs or of the previous dataset; see `write_catalog`."""
    tables = [newest[name]] if name in newest else []
    if previous is not None:
        tables.append(_read_previous(name, previous))
    return pc.unique(pa.chunked_array([chunk for table in tables for chunk in table[KEYS[name]].chunks], pa.string()))


def _read_previous(name: Literal["items", "users"], previous: tuple[Path, Manifest]) -> pa.Table:
    dataset, manifest = previous
    file = (manifest.items if name == "items" else manifest.users).file
    manifest.verify(dataset, [file])
    return pq.read_table(dataset / file.path)


def _write_table(
    directory: Location,
    name: Literal["items", "users"],
    survey: Mapping[str, TableSurvey],
    newest: Mapping[str, pa.Table],
    counters: Counter[str],
    previous: tuple[Path, Manifest] | None,
) -> tuple[TableEntry, list[str | None]]:
    """Writes one of the tables, without the names of pictures; returns its entry and these names."""
    earlier = _read_previous(name, previous) if previous is not None else None
    built = build_table(name, newest.get(name), named_ids(survey, KEYS[name]), counters, earlier)
    images: list[str | None] = []
    if name == "items":
        images = built["image"].to_pylist()
        built = built.drop_columns("image")
    path = f"{name}/{name}.parquet"
    with whole_file(directory / path) as scratch:
        pq.write_table(built, scratch)
        file = File.at(scratch, path, built.num_rows)
    return TableEntry(file=file, ids_sha256=ids_sha256(built.column(0).to_pylist())), images


def build_table(
    name: Literal["items", "users"],
    rows: pa.Table | None,
    seen_ids: pa.Array,
    counters: Counter[str],
    previous: pa.Table | None = None,
) -> pa.Table:
    """Builds the `items` or `users` table.

    Args:
        name: `items` or `users`.
        rows: the table in the logs, one row per ID, if there is one; see `newest_values`.
        seen_ids: the distinct IDs in impressions and events. Those without a row of their own get one with empty
            fields.
        counters: what is counted is added here.
        previous: the table of an earlier dataset. Its rows keep their numbers; those that the logs no longer have keep
            their features, too.

    Returns:
        The previous IDs in their order, then the others sorted; for items with the `image` column, null where the
        previous dataset has the picture.
    """
    key = KEYS[name]
    none = pa.schema([(column, pa.string()) for column in _ALWAYS[name]]).empty_table()
    kept = rows if rows is not None else none
    schema = kept.schema

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
    return complete


def newest_values(name: Literal["items", "users"], rows: pa.Table, counters: Counter[str]) -> pa.Table:
    """One row per ID: of each column the newest value that is not empty.

    The newest row is the one with the latest `updated_at`; among equals, and without that column, the last one in the
    order of files and lines.

    Args:
        name: `items` or `users`.
        rows: normalised rows in the order of files and lines.
        counters: `NAME.duplicate`, the rows beyond the first of an ID, and `NAME.conflicting`, the IDs with different
            values in a column, are added here.

    Returns:
        The rows, without `updated_at`, sorted by ID; empty values are null.
    """
    key = KEYS[name]
    columns = [column for column in rows.column_names if column not in (key, _UPDATED)]
    if _UPDATED in rows.column_names:
        rows = rows.take(pc.sort_indices(rows, [(_UPDATED, "ascending", "at_start")]))  # it is stable
        rows = rows.drop_columns(_UPDATED)
    for column in columns:
        if pa.types.is_string(rows.schema.field(column).type):
            values = rows[column]
            rows = rows.set_column(
                rows.column_names.index(column), column, pc.if_else(pc.equal(values, ""), None, values)
            )
    schema = rows.schema
    if pc.count_distinct(rows[key]).as_py() == len(rows):
        counters.update({f"{name}.duplicate": 0, f"{name}.conflicting": 0})
        return rows.sort_by(key)
    aggregations = [(column, "last") for column in columns] + [(column, "count_distinct") for column in columns]
    distinct = rows.group_by(key, use_threads=False).aggregate(aggregations).sort_by(key)
    conflicts = np.zeros(len(distinct), bool)
    for column in columns:
        conflicts |= distinct[f"{column}_count_distinct"].to_numpy() > 1
    counters[f"{name}.duplicate"] = len(rows) - len(distinct)
    counters[f"{name}.conflicting"] = int(conflicts.sum())
    return pa.table({c: distinct[c if c == key else f"{c}_last"] for c in schema.names}).cast(schema)


def _without_nulls(table: pa.Table) -> pa.Table:
    """Missing strings are empty and missing numbers NaN; a missing time stays null."""
    fill: Mapping[pa.DataType, str | float] = {pa.string(): "", pa.float64(): float("nan")}
    columns = {
        name: pc.fill_null(column, fill[column.type]) if column.type in fill else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return pa.table(columns).combine_chunks()
