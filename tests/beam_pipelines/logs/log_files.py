"""Small log directories in every format, and their rows as the build reads them."""

import gzip
import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from beam_pipelines.logs.directory import find_tables
from beam_pipelines.logs.file_reader import read_part, table_parts
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.logs.rows import normalise

DAY = 1_700_000_000_000
IMPRESSIONS = {
    "page_id": ["p", "p", "q"],
    "user_id": ["007", "007", "u1"],
    "item_id": ["01", "02", "01"],
    "timestamp": [DAY, DAY + 1, DAY + 2],
    "position": [0, 1, 0],
    "clicked": [1, 0, 1],
}
ITEMS = {"item_id": ["01", "02"], "category": ["a", "b"], "title": ["x, y", 'say "z"'], "image": ["1.jpg", ""]}


def write(path, columns):
    table = pa.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name
    if name.endswith("parquet"):
        pq.write_table(table, path)
    elif ".csv" in name:
        with pa.output_stream(path) as stream:
            pa.csv.write_csv(table, stream)
    else:
        text = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
        path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    return path


def rows_of(table, unit="milliseconds"):
    rules = ReadingRules(units=dict.fromkeys(("impressions.timestamp", "events.timestamp", "items.published_at"), unit))
    valid, rejected = [], []
    for part in table_parts(table):
        for raw in read_part(table, part):
            batch, bad, _ = normalise(table, raw, rules)
            valid += batch.to_pylist()
            rejected += bad
    return valid, rejected


def columns_of(table, rules):
    """What became of the values of a small table."""
    columns = {}
    for raw in (raw for part in table_parts(table) for raw in read_part(table, part)):
        for name, counts in normalise(table, raw, rules).columns.items():
            columns[name] = counts.merge(columns[name]) if name in columns else counts
    return columns


def impressions_of(tmp_path, unit="milliseconds", **columns):
    write(tmp_path / "impressions.parquet", {**IMPRESSIONS, **columns})
    write(tmp_path / "items.parquet", ITEMS)
    return rows_of(find_tables(tmp_path, {})["impressions"], unit)
