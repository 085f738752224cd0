"""The Beam transforms from log tables to page shards. They pass Arrow batches, encoded, never single rows.

Every transform writes a file under a temporary name and renames it, so that a retried or duplicated bundle is harmless.
Results come back to the driver as small files in `results/`.
"""

import hashlib
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.pvalue import AsList, TaggedOutput

from beam_pipelines.command import whole_file
from beam_pipelines.logs import FilePart, Table, TimestampUnit, parts, read
from beam_pipelines.manifest import SPLITS
from beam_pipelines.pages import build_bucket
from beam_pipelines.rows import normalise
from beam_pipelines.tfrecord import write_record

REJECTED = "rejected"
Rejected = TaggedOutput[Literal["rejected"], tuple[str, list[str]]]
RESULTS = "results"
_IPC = pa.ipc.IpcWriteOptions(compression="lz4")


def _to_bytes(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_IPC) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _to_table(schema: pa.Schema, encoded: Iterable[bytes]) -> pa.Table:
    return pa.concat_tables([schema.empty_table(), *(pa.ipc.open_stream(data).read_all() for data in encoded)])


def _by_hash(column: pa.Array, buckets: int) -> Iterator[tuple[int, pa.Array]]:
    """Groups rows by a stable hash of a string column: yields bucket and row numbers."""
    encoded = column.dictionary_encode()
    hashes = np.array([zlib.crc32(text.encode()) % buckets for text in encoded.dictionary.to_pylist()], np.int64)
    bucket = hashes[encoded.indices.to_numpy()]
    order = np.argsort(bucket, kind="stable")
    found, start = np.unique(bucket[order], return_index=True)
    for number, rows in zip(found.tolist(), np.split(order, start[1:]), strict=True):
        yield number, pa.array(rows)


def _write_result(directory: Path, name: str, result: dict[str, Any]) -> None:
    with whole_file(directory / RESULTS / name) as path:
        path.write_text(json.dumps(result))


@beam.typehints.with_input_types(FilePart)
class ReadRows(beam.DoFn):
    """Reads a part of a table; yields `(table name, normalised batch)`, and rejected rows beside it."""

    def __init__(self, tables: Mapping[str, Table], unit: TimestampUnit) -> None:
        self._tables = tables
        self._unit = unit

    def process(self, part: FilePart) -> Iterator[tuple[str, Any] | Rejected]:
        """Reads one part."""
        table = self._tables[part.table]
        for raw in read(table, part):
            batch, rejected = normalise(table, raw, self._unit)
            if batch.num_rows:
                yield part.table, batch
            if rejected:
                yield TaggedOutput(REJECTED, (part.table, [row.to_json() for row in rejected]))


@beam.typehints.with_input_types(tuple[str, Any])
@beam.typehints.with_output_types(tuple[int, tuple[str, bytes]])
class PartitionByUser(beam.DoFn):
    """Splits a batch by user into buckets."""

    def __init__(self, buckets: int) -> None:
        self._buckets = buckets

    def process(self, element: tuple[str, pa.RecordBatch]) -> Iterator[tuple[int, tuple[str, bytes]]]:
        """Splits one batch."""
        table, batch = element
        for bucket, rows in _by_hash(batch.column("user_id"), self._buckets):
            yield bucket, (table, _to_bytes(batch.take(rows)))


@beam.typehints.with_input_types(tuple[str, Any])
@beam.typehints.with_output_types(tuple[int, bytes])
class PartitionPageOwners(beam.DoFn):
    """Splits the distinct (page, user) pairs of a batch of impressions by page."""

    def __init__(self, buckets: int) -> None:
        self._buckets = buckets

    def process(self, element: tuple[str, pa.RecordBatch]) -> Iterator[tuple[int, bytes]]:
        """Splits one batch."""
        table, batch = element
        if table != "impressions":
            return
        pairs = pa.Table.from_batches([batch.select(["page_id", "user_id"])])
        pairs = pairs.group_by(["page_id", "user_id"], use_threads=False).aggregate([]).combine_chunks().to_batches()[0]
        for bucket, rows in _by_hash(pairs.column("page_id"), self._buckets):
            yield bucket, _to_bytes(pairs.take(rows))


@beam.typehints.with_input_types(tuple[int, Iterable[bytes]])
@beam.typehints.with_output_types(str)
class FindSharedPages(beam.DoFn):
    """Yields the IDs of pages that have rows of several users."""

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[str]:
        """Looks through the pages of one bucket."""
        schema = pa.schema([("page_id", pa.string()), ("user_id", pa.string())])
        pairs = _to_table(schema, element[1])
        owners = pairs.group_by("page_id").aggregate([("user_id", "count_distinct")])
        yield from owners.filter(pc.greater(owners["user_id_count_distinct"], 1))["page_id"].to_pylist()


@beam.typehints.with_input_types(tuple[int, Iterable[tuple[str, bytes]]], list[str])
class WritePages(beam.DoFn):
    """Builds the pages of a bucket and writes a shard per split.

    Args:
        directory: the dataset. Its item and user tables are already there.
        buckets: how many there are.
        schemas: of the normalised `impressions` and `events`.
        split_times: see `pages.build_bucket`.
    """

    def __init__(
        self, directory: Path, buckets: int, schemas: dict[str, pa.Schema], split_times: tuple[int, int] | None
    ) -> None:
        self._directory = directory
        self._buckets = buckets
        self._schemas = schemas
        self._split_times = split_times

    def setup(self) -> None:
        """Loads the tables of IDs."""
        self._ids = {
            f"{name}_ids": pq.read_table(self._directory / f"{name}s" / f"{name}s.parquet", columns=[f"{name}_id"])
            .column(0)
            .combine_chunks()
            for name in ("item", "user")
        }

    def process(self, element: tuple[int, Iterable[tuple[str, bytes]]], shared_pages: list[str]) -> Iterator[Rejected]:
        """Writes the shards of one bucket and what is in them."""
        number, batches = element
        encoded: dict[str, list[bytes]] = {name: [] for name in self._schemas}
        for name, data in batches:
            encoded[name].append(data)
        tables = {name: _to_table(schema, encoded[name]) for name, schema in self._schemas.items()}
        bucket = build_bucket(**tables, **self._ids, shared_pages=sorted(shared_pages), split_times=self._split_times)
        shards = {}
        clicks = np.concatenate([[0], np.cumsum(bucket.clicked)])
        for split, name in enumerate(SPLITS):
            pages = bucket.pages_of(split)
            if not pages:
                continue
            path = f"pages/{name}-{number:05d}-of-{self._buckets:05d}.tfrecord"
            size, digest = self._write(self._directory / path, bucket.encode(pages))
            candidates = np.diff(bucket.start)[pages]
            shards[name] = {
                "file": {"path": path, "records": len(pages), "bytes": size, "sha256": digest},
                "impressions": int(candidates.sum()),
                "clicks": int((clicks[bucket.start[1:]] - clicks[bucket.start[:-1]])[pages].sum()),
                "first": int(bucket.time[pages].min()),
                "last": int(bucket.time[pages].max()),
                "max_candidates": int(candidates.max()),
            }
        result = {"shards": shards, "counters": bucket.counters}
        _write_result(self._directory, f"pages-{number:05d}.json", result)
        if bucket.rejected:
            yield TaggedOutput(REJECTED, ("impressions", [row.to_json() for row in bucket.rejected]))

    @staticmethod
    def _write(path: Path, records: Iterable[bytes]) -> tuple[int, str]:
        with whole_file(path) as temporary:
            with open(temporary, "wb") as file:
                hashing = _HashingFile(file)
                for record in records:
                    write_record(hashing, record)
            return hashing.bytes, hashing.digest.hexdigest()


class _HashingFile:
    """Counts and hashes what is written to a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.digest.update(data)
        self.bytes += len(data)


@beam.typehints.with_input_types(tuple[str, Iterable[list[str]]])
class WriteDeadLetters(beam.DoFn):
    """Writes the rejected rows of a table, sorted, as `dead_letters/TABLE.jsonl`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def process(self, element: tuple[str, Iterable[list[str]]]) -> None:
        """Writes one table's."""
        table, lines = element
        write_dead_letters(self._directory, table, itertools.chain.from_iterable(lines))


def write_dead_letters(directory: Path, table: str, lines: Iterable[str]) -> None:
    """Writes `directory/dead_letters/TABLE.jsonl`."""
    with whole_file(directory / "dead_letters" / f"{table}.jsonl") as path:
        path.write_text("".join(f"{line}\n" for line in sorted(lines)))


def build_pages(
    pipeline: beam.Pipeline,
    directory: Path,
    tables: Mapping[str, Table],
    unit: TimestampUnit,
    buckets: int,
    split_times: tuple[int, int] | None,
) -> None:
    """Adds the transforms from log tables to page shards and dead letters."""
    schemas = {name: tables.get(name, Table(name, (), {})).schema() for name in ("impressions", "events")}
    file_parts = [part for name in schemas if name in tables for part in parts(tables[name])]
    rows = (
        pipeline
        | "Files" >> beam.Create(file_parts, reshuffle=True)
        | "ReadRows" >> beam.ParDo(ReadRows(tables, unit)).with_outputs(REJECTED, main="rows")
    )
    shared = (
        rows["rows"]
        | "PartitionPageOwners" >> beam.ParDo(PartitionPageOwners(buckets))
        | "GroupPageOwners" >> beam.GroupByKey()
        | "FindSharedPages" >> beam.ParDo(FindSharedPages())
    )
    written = (
        rows["rows"]
        | "PartitionByUser" >> beam.ParDo(PartitionByUser(buckets))
        | "GroupByBucket" >> beam.GroupByKey()
        | "WritePages"
        >> beam.ParDo(WritePages(directory, buckets, schemas, split_times), AsList(shared)).with_outputs(
            REJECTED, main="written"
        )
    )
    _ = (
        (rows[REJECTED], written[REJECTED])
        | "AllRejected" >> beam.Flatten()
        | "GroupRejected" >> beam.GroupByKey()
        | "WriteDeadLetters" >> beam.ParDo(WriteDeadLetters(directory))
    )
