"""What every worker that builds pages must know."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.exchange import Exchange
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location, storage_errors
from beam_pipelines.logs.contract import Table
from beam_pipelines.logs.file_reader import FilePart, table_parts
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.pages.rules import PageRules, PretrainingRules


class PagePlan(NamedTuple):
    """What every worker must know.

    Attributes:
        directory: the dataset. Its item and user tables are already there.
        exchange: how rows and pages go from one transform to the next.
        tables: of the logs.
        reading: how the values of the tables are read.
        buckets: how many there are.
        statistics_parts: in so many parts the items' statistics are added up.
        rules: see `PageRules`.
        pretraining: see `PretrainingRules`.
    """

    directory: Location
    exchange: Exchange
    tables: Mapping[str, Table]
    reading: ReadingRules
    buckets: int
    statistics_parts: int
    rules: PageRules
    pretraining: PretrainingRules

    def parts(self) -> list[FilePart]:
        """What is read of impressions and events, part by part."""
        names = [name for name in ("impressions", "events") if name in self.tables]
        return [part for name in names for part in table_parts(self.tables[name])]

    def ids(self, name: str) -> pa.Array:
        """The `item` or `user` IDs by row."""
        return self._column(f"{name}s", f"{name}_id")

    def item_category(self) -> np.ndarray:
        """Category numbers by item row, in sorted order of the categories."""
        category = self.item_column("category").dictionary_encode()
        rank = np.argsort(np.argsort(np.array(category.dictionary.to_pylist(), object), kind="stable"), kind="stable")
        return rank.astype(np.int64)[category.indices.to_numpy()]

    def item_column(self, name: str) -> pa.Array:
        """A column of the item table."""
        return self._column("items", name)

    def _column(self, table: str, column: str) -> pa.Array:
        path = self.directory / table / f"{table}.parquet"
        try:
            with storage_errors(path), path.open("rb") as file:
                return pq.read_table(file, columns=[column]).column(0).combine_chunks()
        except FileNotFoundError as error:
            raise InputError(f"a worker does not see {path}: all must share the output's file system") from error

    def schema(self, table: str) -> pa.Schema:
        """The normalised `impressions` or `events`, with rows of the item and user tables for IDs."""
        schema = self.tables[table].schema() if table in self.tables else Table(table, (), {}).schema()
        for name in ("user_id", "item_id"):
            schema = schema.set(schema.get_field_index(name), pa.field(name, pa.int64()))
        return schema
