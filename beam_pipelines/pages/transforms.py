"""The Beam transforms from log tables to page shards. They pass references to files, never single rows.

    PartitionRows -> FindSharedPages -> PreparePages -> SumStatistics -> WritePages

Rows lie in scratch files of Arrow batches, by bucket of users; only where they lie goes through Beam's shuffle. So
memory follows from the largest bucket, not from the input, on a runner that shuffles in memory, too. Every transform
writes a file under a temporary name and renames it, so that a retried or duplicated bundle is harmless. Results come
back to the driver as small files in `results/`.
"""

import contextlib
import functools
import hashlib
import itertools
import pickle
import uuid
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsList, TaggedOutput

from beam_pipelines.format.manifest import PRETRAINING, SPLITS
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.format.tfrecord import write_records
from beam_pipelines.logs.contract import Table
from beam_pipelines.logs.file_reader import FilePart, read_part
from beam_pipelines.logs.rejections import write_dead_letters
from beam_pipelines.logs.rows import normalise
from beam_pipelines.pages.assembly import build_bucket
from beam_pipelines.pages.bucket import Bucket
from beam_pipelines.pages.item_statistics import DailyCounts, ItemStatistics, StatisticsPart
from beam_pipelines.pages.plan import PagePlan, Stored
from beam_pipelines.pages.pretraining_view import pretraining_view
from beam_pipelines.workspace import SCRATCH, write_result

REJECTED, OWNERS, COUNTS = "rejected", "owners", "counts"
ITEMS_PER_STATISTICS_PART = 1 << 16
_CHUNK_ROWS = 1 << 19
_TOGETHER = 2
"""Buckets that a worker builds side by side: while one holds the interpreter's lock, the other sorts or writes."""
_IPC = pa.ipc.IpcWriteOptions(compression="lz4")
_PAGE_OWNERS = pa.schema([("page_id", pa.string()), ("user_id", pa.int64())])


Rejected: TypeAlias = TaggedOutput[Literal["rejected"], tuple[str, list[str]]]
Owners: TypeAlias = TaggedOutput[Literal["owners"], tuple[int, Stored]]
Counts: TypeAlias = TaggedOutput[Literal["counts"], tuple[int, str]]


@beam.typehints.with_input_types(FilePart)
@beam.typehints.with_output_types(tuple[int, Stored])
class PartitionRows(beam.DoFn):
    """Reads a part of a table and stores its rows by bucket of users.

    Beside that it stores the distinct (page, user) pairs by bucket of pages, and yields rejected rows.
    """

    def __init__(self, plan: PagePlan) -> None:
        self._plan = plan

    def setup(self) -> None:
        """Loads the IDs."""
        self._ids = {f"{name}_id": self._plan.ids(name) for name in ("item", "user")}

    def process(self, part: FilePart) -> Iterator[tuple[int, Stored] | Owners | Rejected]:
        """Stores one part."""
        table = self._plan.tables[part.table]
        schema = self._plan.schema(part.table)
        with self._scratch_file(part.table, schema) as rows, self._scratch_file(OWNERS, _PAGE_OWNERS) as owners:
            for chunk in self._chunks(table, part):
                if isinstance(chunk, TaggedOutput):
                    yield chunk
                    continue
                bucket = _bucket_of_user(chunk["user_id"].to_numpy(), self._plan.buckets)
                for number, batch in _grouped(chunk, bucket):
                    yield number // _TOGETHER, rows.store(number, batch)
                if part.table == "impressions":
                    for number, batch in self._page_owners(chunk):
                        yield TaggedOutput(OWNERS, (number, owners.store(number, batch)))

    @contextlib.contextmanager
    def _scratch_file(self, table: str, schema: pa.Schema) -> Iterator["_ScratchFile"]:
        name = f"{table}-{uuid.uuid4().hex}"
        with (
            whole_file(self._plan.directory / SCRATCH / name) as path,
            pa.ipc.new_file(str(path), schema, options=_IPC) as writer,
        ):
            yield _ScratchFile(table, name, writer)

    def _chunks(self, table: Table, part: FilePart) -> Iterator[pa.RecordBatch | Rejected]:
        """Normalised rows in chunks, and rejected ones."""
        pending: list[pa.RecordBatch] = []
        for raw in read_part(table, part):
            batch, rejected, _ = normalise(table, raw, self._plan.reading)
            if rejected:
                yield TaggedOutput(REJECTED, (part.table, [row.to_json() for row in rejected]))
            pending.append(batch)
            if sum(batch.num_rows for batch in pending) >= _CHUNK_ROWS:
                yield self._numbered(pending)
                pending = []
        if any(batch.num_rows for batch in pending):
            yield self._numbered(pending)

    def _numbered(self, batches: list[pa.RecordBatch]) -> pa.RecordBatch:
        """One batch, with rows of the item and user tables for IDs."""
        chunk = pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
        columns = [
            pc.index_in(column, self._ids[name]).cast(pa.int64()) if name in self._ids else column
            for name, column in zip(chunk.schema.names, chunk.columns, strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, names=chunk.schema.names)

    def _page_owners(self, chunk: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        pairs = chunk.select(_PAGE_OWNERS.names)
        page, user = pairs.columns
        runs = np.ones(len(page), bool)  # the rows of a page mostly follow each other
        runs[1:] = ~pc.and_(pc.equal(page[1:], page[:-1]), pc.equal(user[1:], user[:-1])).to_numpy(zero_copy_only=False)
        pairs = pa.Table.from_batches([pairs.filter(pa.array(runs))])
        pairs = pairs.group_by(_PAGE_OWNERS.names, use_threads=False).aggregate([]).combine_chunks().to_batches()[0]
        pages = pairs.column("page_id").to_pylist()
        bucket = np.array([zlib.crc32(text.encode()) % self._plan.buckets for text in pages], np.int64)
        yield from _grouped(pairs, bucket)


def _bucket_of_user(user: np.ndarray, buckets: int) -> np.ndarray:
    """A bucket of about equally many users each, whatever the order of user rows means."""
    return ((user.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) % np.uint64(buckets)


def _grouped(batch: pa.RecordBatch, bucket: np.ndarray) -> Iterator[tuple[int, pa.RecordBatch]]:
    order = np.argsort(bucket, kind="stable")
    found, start = np.unique(bucket[order], return_index=True)
    batch = batch.take(pa.array(order))
    for number, first, last in zip(found.tolist(), start, [*start[1:], len(order)], strict=True):
        yield number, batch.slice(first, last - first)


class _ScratchFile:
    """Stores batches in a file, one after the other."""

    def __init__(self, table: str, name: str, writer: pa.ipc.RecordBatchFileWriter) -> None:
        self._table = table
        self._name = name
        self._writer = writer
        self._batches = 0

    def store(self, bucket: int, batch: pa.RecordBatch) -> Stored:
        self._writer.write_batch(batch)
        self._batches += 1
        return Stored(self._table, bucket, self._name, self._batches - 1)


@beam.typehints.with_input_types(tuple[int, Iterable[Stored]])
@beam.typehints.with_output_types(str)
class FindSharedPages(beam.DoFn):
    """Yields the IDs of pages that have rows of several users."""

    def __init__(self, plan: PagePlan) -> None:
        self._plan = plan

    def process(self, element: tuple[int, Iterable[Stored]]) -> Iterator[str]:
        """Looks through the pages of one bucket."""
        pairs = self._plan.load(_PAGE_OWNERS, element[1])
        owners = pairs.group_by("page_id").aggregate([("user_id", "count_distinct")])
        yield from owners.filter(pc.greater(owners["user_id_count_distinct"], 1))["page_id"].to_pylist()


class Prepared(NamedTuple):
    """What came of a bucket: its number, the parts and files of its counts, and rejected rows by table."""

    bucket: int
    counts: list[tuple[int, str]]
    rejected: dict[str, list[str]]


@beam.typehints.with_input_types(tuple[int, Iterable[Stored]], list[str])
@beam.typehints.with_output_types(list[int])
class PreparePages(beam.DoFn):
    """Builds the pages of some buckets, all but their statistics; counts what the statistics of all buckets need."""

    def __init__(self, plan: PagePlan) -> None:
        self._plan = plan

    def setup(self) -> None:
        """Loads the IDs and categories."""
        self._items = {f"{name}_ids": self._plan.ids(name) for name in ("item", "user")}
        self._items["item_category"] = self._plan.item_category()

    def process(
        self, element: tuple[int, Iterable[Stored]], shared_pages: list[str]
    ) -> Iterator[list[int] | Counts | Rejected]:
        """Prepares the buckets of one element."""
        by_bucket: dict[int, list[Stored]] = {}
        for rows in element[1]:
            by_bucket.setdefault(rows.bucket, []).append(rows)
        prepare = functools.partial(self._prepare, shared_pages=sorted(shared_pages))
        with ThreadPoolExecutor(_TOGETHER) as pool:
            prepared = list(pool.map(prepare, sorted(by_bucket.items())))
        for bucket in prepared:
            for counts in bucket.counts:
                yield TaggedOutput(COUNTS, counts)
            for rejected in bucket.rejected.items():
                yield TaggedOutput(REJECTED, rejected)
        yield [bucket.bucket for bucket in prepared]

    def _prepare(self, bucket_rows: tuple[int, list[Stored]], shared_pages: list[str]) -> Prepared:
        number, stored = bucket_rows
        by_table: dict[str, list[Stored]] = {"impressions": [], "events": []}
        for rows in stored:
            by_table[rows.table].append(rows)
        tables = {name: self._plan.load(self._plan.schema(name), found) for name, found in by_table.items()}
        bucket = build_bucket(**tables, rules=self._plan.rules, **self._items, shared_pages=shared_pages)
        with whole_file(self._plan.prepared(number)) as path, open(path, "wb") as file:
            pickle.dump(bucket, file, protocol=pickle.HIGHEST_PROTOCOL)
        counted = []
        for part, counts in enumerate(bucket.counts.split(self._statistics_parts())):
            path = self._plan.directory / SCRATCH / f"counts-{part:05d}-of-bucket-{number:05d}"
            with whole_file(path) as temporary:
                counts.save(temporary)
            counted.append((part, path.name))
        rejected: dict[str, list[str]] = {}
        for row in bucket.rejected:
            rejected.setdefault(row.table, []).append(row.to_json())
        return Prepared(number, counted, rejected)

    def _statistics_parts(self) -> int:
        return -(-len(self._items["item_ids"]) // ITEMS_PER_STATISTICS_PART)


@beam.typehints.with_input_types(tuple[int, Iterable[str]])
@beam.typehints.with_output_types(str)
class SumStatistics(beam.DoFn):
    """Adds up what all buckets counted of some items."""

    def __init__(self, plan: PagePlan) -> None:
        self._plan = plan

    def process(self, element: tuple[int, Iterable[str]]) -> Iterator[str]:
        """Adds up one part of the items."""
        part, names = element
        scratch = self._plan.directory / SCRATCH
        total = DailyCounts.sum([])
        rest = iter(names)
        while block := list(itertools.islice(rest, 16)):  # bounds how much lies in memory
            total = DailyCounts.sum([total, *(DailyCounts.load(scratch / name) for name in block)])
        path = scratch / f"statistics-{part:05d}-{uuid.uuid4().hex}"  # a retried bundle writes another one
        StatisticsPart.of(total).save(path)
        yield path.name


@beam.typehints.with_input_types(list[int], list[str])
class WritePages(beam.DoFn):
    """Adds statistics to the pages of some buckets and writes a shard per split, and one of the pre-training view."""

    def __init__(self, plan: PagePlan) -> None:
        self._plan = plan

    def setup(self) -> None:
        """Loads the IDs."""
        self._user_ids = self._plan.ids("user")
        self._statistics: ItemStatistics | None = None

    def process(self, buckets: list[int], statistics: list[str]) -> None:
        """Writes the shards of some buckets and what is in them."""
        if self._statistics is None:
            scratch = self._plan.directory / SCRATCH
            self._statistics = ItemStatistics([StatisticsPart.load(scratch / name) for name in sorted(statistics)])
        write = functools.partial(self._write_bucket, statistics=self._statistics)
        with ThreadPoolExecutor(_TOGETHER) as pool:
            list(pool.map(write, buckets))

    def _write_bucket(self, number: int, statistics: ItemStatistics) -> None:
        plan = self._plan
        with open(plan.prepared(number), "rb") as file:
            bucket: Bucket = pickle.load(file)
        bucket = bucket.with_statistics(statistics)
        view = pretraining_view(bucket, plan.pretraining, plan.rules.reach("click"), plan.eligible, self._user_ids)
        if plan.pretraining.kind == "causal":
            view = view.with_statistics(statistics)
        shards = {}
        for split, name in enumerate(SPLITS):
            if len(pages := bucket.pages_of(split)):
                shards[name] = self._write(bucket, pages, f"pages/{name}-{number:05d}-of-{plan.buckets:05d}.tfrecord")
        if len(view.page_id):
            path = f"{PRETRAINING}/{plan.pretraining.kind}-{number:05d}-of-{plan.buckets:05d}.tfrecord"
            shards[PRETRAINING] = self._write(view, view.pages_of(0), path)
        counters = {**bucket.counters, **view.counters}
        result = {"shards": shards, "counters": counters, "reused": bucket.reused}
        write_result(plan.directory, f"pages-{number:05d}.json", result)

    def _write(self, bucket: Bucket, pages: np.ndarray, path: str) -> dict[str, Any]:
        with whole_file(self._plan.directory / path) as temporary, open(temporary, "wb") as file:
            hashing = _HashingFile(file)
            for records in bucket.encode(pages):
                write_records(hashing, records.to_pylist())
        clicks = np.concatenate([[0], np.cumsum(bucket.candidates["clicked"])])
        candidates = np.diff(bucket.start)[pages]
        return {
            "file": {
                "path": path,
                "records": len(pages),
                "bytes": hashing.bytes,
                "sha256": hashing.digest.hexdigest(),
            },
            "impressions": int(candidates.sum()),
            "clicks": int((clicks[bucket.start[1:]] - clicks[bucket.start[:-1]])[pages].sum()),
            "first": int(bucket.time[pages].min()),
            "last": int(bucket.time[pages].max()),
            "max_candidates": int(candidates.max()),
            "history_lengths": {
                name: _count_lengths((history.stop - history.start)[pages])
                for name, history in bucket.histories.items()
            },
        }


def _count_lengths(lengths: np.ndarray) -> list[int]:
    """How many are 0, 1, 2 to 3, 4 to 7, ...: see `manifest.Split`."""
    return np.bincount(np.ceil(np.log2(lengths + 1)).astype(np.int64)).tolist()


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


def build_pages(pipeline: beam.Pipeline, plan: PagePlan) -> None:
    """Adds the transforms from log tables to page shards and dead letters."""
    rows = (
        pipeline
        | "Files" >> beam.Create(plan.parts(), reshuffle=True)
        | "PartitionRows" >> beam.ParDo(PartitionRows(plan)).with_outputs(REJECTED, OWNERS, main="rows")
    )
    shared = (
        rows[OWNERS] | "GroupPageOwners" >> beam.GroupByKey() | "FindSharedPages" >> beam.ParDo(FindSharedPages(plan))
    )
    prepared = (
        rows["rows"]
        | "GroupByBucket" >> beam.GroupByKey()
        | "PreparePages" >> beam.ParDo(PreparePages(plan), AsList(shared)).with_outputs(REJECTED, COUNTS, main="pages")
    )
    statistics = (
        prepared[COUNTS] | "GroupCounts" >> beam.GroupByKey() | "SumStatistics" >> beam.ParDo(SumStatistics(plan))
    )
    _ = (
        prepared["pages"]
        | "Spread" >> beam.Reshuffle()
        | "WritePages" >> beam.ParDo(WritePages(plan), AsList(statistics))
    )
    _ = (
        (rows[REJECTED], prepared[REJECTED])
        | "AllRejected" >> beam.Flatten()
        | "GroupRejected" >> beam.GroupByKey()
        | "WriteDeadLetters" >> beam.ParDo(WriteDeadLetters(plan.directory))
    )
