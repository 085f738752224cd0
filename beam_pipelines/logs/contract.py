"""The input contract: the tables of a log directory, their columns, and what the values of each must be."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from beam_pipelines.format.location import Location
from beam_pipelines.format.manifest import SPLITS
from beam_pipelines.logs.moments import TIME_FORMS

Kind = Literal["id", "timestamp", "count", "flag", "amount", "event", "split", "text", "path", "statistic"]
Format = Literal["parquet", "csv", "tsv", "jsonl"]

EVENTS = ("click", "pay", "cart", "cart_remove")


class Column(NamedTuple):
    """A column of the contract.

    Attributes:
        name: its name; a name ending in `*` stands for every column with that prefix.
        kind: what its values must be.
        required: whether the table must have it, with a valid value in every row.
    """

    name: str
    kind: Kind
    required: bool = False


TABLES: dict[str, tuple[Column, ...]] = {
    "impressions": (
        Column("page_id", "id", required=True),
        Column("user_id", "id", required=True),
        Column("item_id", "id", required=True),
        Column("timestamp", "timestamp", required=True),
        Column("position", "count", required=True),
        Column("clicked", "flag", required=True),
        Column("converted", "flag"),
        Column("dwell_seconds", "amount"),
        Column("query", "text"),
        Column("split", "split"),
    ),
    "events": (
        Column("user_id", "id", required=True),
        Column("item_id", "id", required=True),
        Column("timestamp", "timestamp", required=True),
        Column("event", "event", required=True),
    ),
    "items": (
        Column("item_id", "id", required=True),
        Column("category", "text"),
        Column("title", "text"),
        Column("image", "path"),
        Column("published_at", "timestamp"),
        Column("updated_at", "timestamp"),
        Column("stat_*", "statistic"),
        Column("cat_*", "text"),
        Column("label_*", "text"),
    ),
    "users": (
        Column("user_id", "id", required=True),
        Column("updated_at", "timestamp"),
        Column("stat_*", "statistic"),
        Column("cat_*", "text"),
    ),
}
TIME_COLUMNS = tuple(
    f"{table}.{column.name}" for table, columns in TABLES.items() for column in columns if column.kind == "timestamp"
)
REQUIRED_TABLES = ("impressions", "items")
REQUIRED_COLUMNS = {"items": ("category", "title", "image")}
"""Columns that a table must have although a row may leave them empty; beside those that are required in every row."""

ARROW_TYPES: dict[Kind, pa.DataType] = {
    "id": pa.string(),
    "timestamp": pa.int64(),
    "count": pa.int64(),
    "flag": pa.bool_(),
    "amount": pa.float32(),
    "event": pa.string(),
    "split": pa.string(),
    "text": pa.string(),
    "path": pa.string(),
    "statistic": pa.float64(),
}
DEFAULTS: dict[Kind, Any] = {"flag": False, "amount": 0.0, "text": "", "path": ""}
"""What a missing value means."""
FLAGS = {
    **dict.fromkeys(("1", "true", "t", "yes", "y"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n"), False),
}
"""How flags are written, in any case."""
ACCEPTED: dict[Kind, str] = {
    "id": "text or a whole number",
    "timestamp": f"{TIME_FORMS}, of a plausible time",
    "count": "a whole number from 0",
    "flag": ", ".join(FLAGS),
    "amount": "a number from 0, such as 12.5",
    "event": ", ".join(EVENTS),
    "split": ", ".join(SPLITS),
    "text": "text",
    "path": "a path or an address",
    "statistic": "a number such as 9.99",
}
"""What can be read, for errors."""


class FileLayout(NamedTuple):
    """How a file is written, and where it has the contract's columns.

    Attributes:
        names: column to its name in the file.
        folders: column to the one value that the folders of the file say it has in all rows; `None` if it is missing.
        format: of the file.
        row_groups: of a Parquet file, 0 of others.
    """

    names: Mapping[str, str]
    folders: Mapping[str, str | None]
    format: Format
    row_groups: int


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a log directory.

    Attributes:
        name: `impressions`, `events`, `items` or `users`.
        files: its files, sorted by name.
        columns: the contract's columns that occur in some file, in the contract's order, and each one's name there.
        optional: columns that need not be there although the contract requires them.
        layouts: how each file is written.
    """

    name: str
    files: tuple[Location, ...]
    columns: Mapping[str, str]
    optional: tuple[str, ...] = ()
    layouts: Mapping[Location, FileLayout] = dataclasses.field(default_factory=dict)

    def rules(self) -> dict[str, Column]:
        """Column name to its rule: the columns in the files, and those that have a default."""
        found = {}
        for rule in TABLES[self.name]:
            if rule.name in self.optional:
                found[rule.name] = rule._replace(required=False)
            elif rule.name.endswith("*"):
                found.update({name: rule for name in self.columns if find_column(self.name, name) is rule})
            elif rule.required or rule.kind in DEFAULTS or rule.name in self.columns:
                found[rule.name] = rule
        return found

    def schema(self) -> pa.Schema:
        """The form that `normalise` brings rows to."""
        return pa.schema([(name, ARROW_TYPES[rule.kind]) for name, rule in self.rules().items()])


def find_column(table: str, name: str) -> Column | None:
    """The column of the contract that `name` is in a table; `None` if the contract knows no such column."""
    for column in TABLES[table]:
        if column.name == name or (column.name.endswith("*") and name.startswith(column.name[:-1])):
            return column
    return None
