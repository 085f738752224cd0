"""Writes a log directory: the input that `beam_pipelines.build_dataset` reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.logs.directory import NOTICE_FILE


class LogSummary(NamedTuple):
    """What an adapter wrote.

    Attributes:
        pages, impressions, clicks, events, users, items: how many there are.
        counters: what else a reader of these logs should know, by what was counted.
    """

    pages: int
    impressions: int
    clicks: int
    events: int
    users: int
    items: int
    counters: dict[str, int]


def write_logs(directory: Path, tables: Mapping[str, pa.Table], notice: str) -> None:
    """Writes the tables and the notice of a log directory; its pictures are the caller's.

    Args:
        directory: an existing directory.
        tables: `impressions`, `items` and optionally `events`, `users`, each written as `NAME.parquet`.
        notice: what is simulated or sampled in these logs. Every report on them repeats it.
    """
    for name, table in tables.items():
        pq.write_table(table, directory / f"{name}.parquet")
    (directory / NOTICE_FILE).write_text(json.dumps({"notice": notice}, indent=2) + "\n")
