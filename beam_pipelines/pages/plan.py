"""What every worker that builds pages must know, and where rows wait for it."""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.contract import Table
from beam_pipelines.logs.file_reader import FilePart, table_parts
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.pages.rules import PageRules, PretrainingRules
from beam_pipelines.workspace import SCRATCH


class Stored(NamedTuple):
    """Rows of a bucket in a scratch file: one of its record batches."""

    table: str
    bucket: int
    file: str
    batch: int


class PagePlan(NamedTuple):
    """What every worker must know.

    Attributes:
        directory: the dataset. Its item and user tables are already there.
        tables: of the logs.
        reading: how the values of the tables are read.
        buckets: how many there are.
        rules: see `PageRules`.
        pretraining: see `PretrainingRules`.
        eligible: bool by item row: whether pre-training sees the item.
    """

    directory: Path
    tables: Mapping[str, Table]
    reading: ReadingRules
    buckets: int
    rules: PageRules
    pretraining: PretrainingRules
    eligible: np.ndarray

    def parts(self) -> list[FilePart]:
        """What is read of impressions and events, part by part."""
        names = [name for name in ("impressions", "events") if name in self.tables]
        return [part for name in names for part in table_parts(self.tables[name])]

    def ids(self, name: str) -> pa.Array:
        """The `item` or `user` IDs by row."""
        path = self.directory / f"{name}s" / f"{name}s.parquet"
        if not path.is_file():
            raise InputError(f"a worker does not see {path}: all must share the output's file system")
        return pq.read_table(path, columns=[f"{name}_id"]).column(0).combine_chunks()

    def item_category(self) -> np.ndarray:
        """Category numbers by item row, in sorted order of the categories."""
        path = self.directory / "items" / "items.parquet"
        category = pq.read_table(path, columns=["category"]).column(0).combine_chunks().dictionary_encode()
        rank = np.argsort(np.argsort(np.array(category.dictionary.to_pylist(), object), kind="stable"), kind="stable")
        return rank.astype(np.int64)[category.indices.to_numpy()]

    def schema(self, table: str) -> pa.Schema:
        """The normalised `impressions` or `events`, with rows of the item and user tables for IDs."""
        schema = self.tables[table].schema() if table in self.tables else Table(table, (), {}).schema()
        for name in ("user_id", "item_id"):
            schema = schema.set(schema.get_field_index(name), pa.field(name, pa.int64()))
        return schema

    def load(self, schema: pa.Schema, stored: Iterable[Stored]) -> pa.Table:
        """Reads back what `PartitionRows` stored."""
        batches = []
        for name, in_file in itertools.groupby(sorted(stored, key=lambda s: s.file), key=lambda s: s.file):
            with pa.ipc.open_file(pa.memory_map(str(self.directory / SCRATCH / name))) as file:
                batches += [file.get_batch(rows.batch) for rows in in_file]
        return pa.Table.from_batches(batches, schema)

    def prepared(self, bucket: int) -> Path:
        """Where the prepared pages of a bucket are."""
        return self.directory / SCRATCH / f"prepared-{bucket:05d}"
