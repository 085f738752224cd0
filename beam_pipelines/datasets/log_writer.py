"""Writes a log directory: the input that `beam_pipelines.build` reads."""

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_logs(directory: Path, tables: Mapping[str, pa.Table], notice: str) -> None:
    """Writes the tables and the notice of a log directory; its pictures are the caller's.

    Args:
        directory: an existing directory.
        tables: `impressions`, `items` and optionally `events`, `users`, each written as `NAME.parquet`.
        notice: what is simulated or sampled in these logs. Every report on them repeats it.
    """
    for name, table in tables.items():
        pq.write_table(table, directory / f"{name}.parquet")
    (directory / "logs.json").write_text(json.dumps({"notice": notice}, indent=2) + "\n")
