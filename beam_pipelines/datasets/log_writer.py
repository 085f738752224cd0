"""Writes a log directory: the input that `beam_pipelines.build_dataset` reads."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.logs.log_files import NOTICE_FILE

_ROWS = 500_000  # of a row group


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


class LogWriter:
    """Writes the tables of a log directory, each part by part, as `NAME.parquet`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._waiting: dict[str, list[pa.Table]] = {}

    def append(self, name: str, table: pa.Table) -> None:
        """Appends rows to a table; its columns are those of the first part."""
        waiting = self._waiting.setdefault(name, [])
        waiting.append(table)
        if sum(map(len, waiting)) >= _ROWS:
            self._flush(name)

    def close(self) -> None:
        """Ends the files."""
        for name in self._waiting:
            self._flush(name)
        for writer in self._writers.values():
            writer.close()

    def _flush(self, name: str) -> None:
        if not self._waiting[name]:
            return
        table = pa.concat_tables(self._waiting[name])
        self._waiting[name] = []
        if name not in self._writers:
            self._writers[name] = pq.ParquetWriter(self._directory / f"{name}.parquet", table.schema)
        self._writers[name].write_table(table)


@contextlib.contextmanager
def log_writer(directory: Path, notice: str) -> Iterator[LogWriter]:
    """Yields the writer of a log directory; its pictures are the caller's.

    Args:
        directory: an existing directory.
        notice: what is simulated or sampled in these logs. Every report on them repeats it.
    """
    writer = LogWriter(directory)
    with contextlib.closing(writer):
        yield writer
    (directory / NOTICE_FILE).write_text(json.dumps({"notice": notice}, indent=2) + "\n")


def write_logs(directory: Path, tables: Mapping[str, pa.Table], notice: str) -> None:
    """Writes a log directory at once; see `log_writer`.

    Args:
        directory: an existing directory.
        tables: `impressions`, `items` and optionally `events`, `users`.
        notice: what is simulated or sampled in these logs.
    """
    with log_writer(directory, notice) as writer:
        for name, table in tables.items():
            writer.append(name, table)
