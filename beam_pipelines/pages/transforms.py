"""The Beam transforms from log tables to page shards. They pass pieces of rows and pages, never single rows.

    PartitionRows -> FindSharedPages -> PreparePages -> SumStatistics -> WritePages

An `Exchange` moves the pieces, which are grouped by bucket of users. So memory follows from the largest bucket, not
from the input. A retried or duplicated bundle writes the same bytes again. What was written flows on to the last step
of the pipeline.
"""

import functools
import hashlib
import itertools
import pickle
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsIter, AsList, PCollection, TaggedOutput

from beam_pipelines.exchange import Piece
from beam_pipelines.format.location import Location
from beam_pipelines.format.manifest import PRETRAINING, SPLITS
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.format.tfrecord import write_records
from beam_pipelines.logs.contract import Table
from beam_pipelines.logs.file_reader import FilePart, read_part
from beam_pipelines.logs.rejections import DeadLetters, write_dead_letters
from beam_pipelines.logs.rows import normalise
from beam_pipelines.pages.assembly import build_bucket
from beam_pipelines.pages.bucket import Bucket
from beam_pipelines.pages.item_statistics import DailyCounts, ItemStatistics, StatisticsPart
from beam_pipelines.pages.plan import PagePlan
from beam_pipelines.pages.pretraining_view import pretraining_view
from beam_pipelines.picture_plan import PicturePlan

REJECTED, OWNERS, COUNTS, ROWS = "rejected", "owners", "counts", "rows"
_CHUNK_ROWS = 1 << 19
_REJECTED_TOGETHER = 4096
_PAGE_OWNERS = pa.schema([("page_id", pa.string()), ("user_id", pa.int64())])

BucketRows: TypeAlias = tuple[str, int, Piece]
"""Table, bucket and rows."""
PreparedBucket: TypeAlias = tuple[int, int, Piece]
"""Bucket, number of the piece, and the piece."""
Rejected: TypeAlias = TaggedOutput[Literal["rejected"], tuple[str, list[str]]]
Owners: TypeAlias = TaggedOutput[Literal["owners"], tuple[int, Piece]]
Counts: TypeAlias = TaggedOutput[Literal["counts"], tuple[int, Piece]]
RowCount: TypeAlias = TaggedOutput[Literal["rows"], int]


@beam.typehints.with_input_types(FilePart)
@beam.typehints.with_output_types(tuple[int, Any])
class PartitionRows(beam.DoFn):
    """Reads a part of a table and hands its rows on by bucket of users.

    Beside that it hands on the distinct (page, user) pairs by bucket of pages, rejected rows, and the number of others.
    """

    def __init__(self, plan: PagePlan) -> None:
        self._plan = plan

    def setup(self) -> None:
        """Loads the IDs."""
        self._ids = {f"{name}_id": self._plan.ids(name) for name in ("item", "user")}

    def process(self, part: FilePart) -> Iterator[tuple[int, BucketRows] | Owners | Rejected | RowCount]:
        """Hands one part on."""
        table, exchange = self._plan.tables[part.table], self._plan.exchange
        with exchange.writer() as writer:
            for chunk in self._chunks(table, part):
                if isinstance(chunk, TaggedOutput):
                    yield chunk
                    continue
                yield TaggedOutput(ROWS, chunk.num_rows)
                bucket = _bucket_of_user(chunk["user_id"].to_numpy(), self._plan.buckets)
                for number, batch in _grouped(chunk, bucket):
                    for piece in exchange.write_batch(writer, batch):
                        yield number // exchange.buckets_at_once, (part.table, number, piece)
                if part.table == "impressions":
                    for number, batch in self._page_owners(chunk):
                        for piece in exchange.write_batch(writer, batch):
                            yield TaggedOutput(OWNERS, (number, piece))
        exchange.report()

    def _chunks(self, table: Table, part: FilePart) -> Iterator[pa.RecordBatch | Rejected]:
        """Normalised rows in chunks, and rejected ones."""
        pending: list[pa.RecordBatch] = []
        for raw in read_part(table, part):
            batch, rejected, _ = normalise(table, raw, self._plan.reading)
            yield from _tag_rejected(part.table, [row.to_json() for row in rejected])
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


def _tag_rejected(table: str, lines: list[str]) -> Iterator[Rejected]:
    for first in range(0, len(lines), _REJECTED_TOGETHER):
        yield TaggedOutput(REJECTED, (table, lines[first : first + _REJECTED_TOGETHER]))


@beam.typehints.with_input_types(tuple[int, Iterable[Any]])
@beam.typehints.with_output_types(str)
class FindSharedPages(beam.DoFn):
    """Yields the IDs of pages that have rows of several users."""

    def __init__(self, plan: PagePlan) -> None:
        self._plan = plan

    def process(self, element: tuple[int, Iterable[Piece]]) -> Iterator[str]:
        """Looks through the pages of one bucket."""
        pairs = self._plan.exchange.read_table(_PAGE_OWNERS, element[1])
        owners = pairs.group_by("page_id").aggregate([("user_id", "count_distinct")])
        yield from owners.filter(pc.greater(owners["user_id_count_distinct"], 1))["page_id"].to_pylist()


class _Prepared(NamedTuple):
    """What came of a bucket of so many rows: its pages, counts by part of the items, and rejected rows by table."""

    number: int
    rows: int
    pages: list[tuple[int, Piece]]
    counts: list[tuple[int, Piece]]
    rejected: dict[str, list[str]]


@beam.typehints.with_input_types(tuple[int, Iterable[Any]], list[str])
@beam.typehints.with_output_types(tuple[int, Any])
class PreparePages(beam.DoFn):
    """Builds the pages of some buckets, all but their statistics; counts what the statistics of all buckets need.

    Yields pieces of buckets, and beside them those of the counts, rejected rows, and how many rows a bucket has.
    """

    def __init__(self, plan: PagePlan) -> None:
        self._plan = plan

    def setup(self) -> None:
        """Loads the IDs and categories."""
        self._items = {f"{name}_ids": self._plan.ids(name) for name in ("item", "user")}
        self._items["item_category"] = self._plan.item_category()

    def process(
        self, element: tuple[int, Iterable[BucketRows]], shared_pages: list[str]
    ) -> Iterator[tuple[int, PreparedBucket] | Counts | Rejected | RowCount]:
        """Prepares the buckets of one element."""
        group, rows = element
        by_bucket: dict[int, dict[str, list[Piece]]] = {}
        for table, bucket, piece in rows:
            by_bucket.setdefault(bucket, {"impressions": [], "events": []})[table].append(piece)
        prepare = functools.partial(self._prepare, shared_pages=sorted(shared_pages))
        with ThreadPoolExecutor(len(by_bucket)) as pool:
            prepared = list(pool.map(prepare, sorted(by_bucket.items())))
        for found in prepared:
            for counts in found.counts:
                yield TaggedOutput(COUNTS, counts)
            for table, lines in found.rejected.items():
                yield from _tag_rejected(table, lines)
            yield TaggedOutput(ROWS, (found.number, found.rows))
            for number, piece in found.pages:
                yield group, (found.number, number, piece)

    def _prepare(self, bucket_rows: tuple[int, dict[str, list[Piece]]], shared_pages: list[str]) -> _Prepared:
        number, by_table = bucket_rows
        plan, exchange = self._plan, self._plan.exchange
        tables = {name: exchange.read_table(plan.schema(name), pieces) for name, pieces in by_table.items()}
        bucket = build_bucket(**tables, rules=plan.rules, **self._items, shared_pages=shared_pages)
        with exchange.writer() as writer:
            data = pickle.dumps(bucket, protocol=pickle.HIGHEST_PROTOCOL)
            pages = list(exchange.write_bytes(writer, data))
            counts = [
                (part, piece)
                for part, counted in enumerate(bucket.counts.split(plan.statistics_parts))
                if len(counted.key)
                for piece in exchange.write_batch(writer, counted.to_batch())
            ]
        exchange.report()
        rejected: dict[str, list[str]] = {}
        for row in bucket.rejected:
            rejected.setdefault(row.table, []).append(row.to_json())
        return _Prepared(number, sum(map(len, tables.values())), pages, counts, rejected)


@beam.typehints.with_input_types(tuple[int, Iterable[Any]])
@beam.typehints.with_output_types(tuple[int, int, Any])
class SumStatistics(beam.DoFn):
    """Adds up what all buckets counted of some items."""

    def __init__(self, plan: PagePlan) -> None:
        self._plan = plan

    def process(self, element: tuple[int, Iterable[Piece]]) -> Iterator[tuple[int, int, Piece]]:
        """Adds up one part of the items; yields it in numbered pieces."""
        part, pieces = element
        exchange = self._plan.exchange
        total = DailyCounts.sum([])
        rest = iter(pieces)
        while some := list(itertools.islice(rest, 16)):  # bounds how much lies in memory
            total = DailyCounts.sum([total, DailyCounts.of(exchange.read_table(DailyCounts.SCHEMA, some))])
        with exchange.writer() as writer:
            for number, piece in exchange.write_bytes(writer, StatisticsPart.of(total).to_bytes()):
                yield part, number, piece


@beam.typehints.with_input_types(tuple[int, Iterable[Any]], Iterable[Any])
@beam.typehints.with_output_types(dict[str, Any])
class WritePages(beam.DoFn):
    """Adds statistics to the pages of some buckets and writes a shard per split, and one of the pre-training view.

    Yields what it wrote of each bucket.
    """

    def __init__(self, plan: PagePlan, pictures: PicturePlan) -> None:
        self._plan = plan
        self._pictures = pictures

    def setup(self) -> None:
        """Loads what is known of users and items."""
        self._user_ids = self._plan.ids("user")
        self._eligible = self._pictures.item_column("eligible").to_numpy(zero_copy_only=False)
        self._statistics: ItemStatistics | None = None

    def process(
        self, element: tuple[int, Iterable[PreparedBucket]], statistics: Iterable[tuple[int, int, Piece]]
    ) -> Iterator[dict[str, Any]]:
        """Writes the shards of some buckets."""
        if self._statistics is None:
            self._statistics = self._read_statistics(statistics)
        by_bucket: dict[int, list[tuple[int, Piece]]] = {}
        for bucket, number, piece in element[1]:
            by_bucket.setdefault(bucket, []).append((number, piece))
        write = functools.partial(self._write_bucket, statistics=self._statistics)
        with ThreadPoolExecutor(len(by_bucket)) as pool:
            yield from list(pool.map(write, sorted(by_bucket.items())))

    def _read_statistics(self, pieces: Iterable[tuple[int, int, Piece]]) -> ItemStatistics:
        by_part: dict[int, list[tuple[int, Piece]]] = {part: [] for part in range(self._plan.statistics_parts)}
        for part, number, piece in pieces:
            by_part[part].append((number, piece))
        nothing = StatisticsPart.of(DailyCounts.sum([]))
        read = self._plan.exchange.read_bytes
        return ItemStatistics(
            [StatisticsPart.of_bytes(read(pieces)) if pieces else nothing for pieces in by_part.values()]
        )

    def _write_bucket(
        self, numbered: tuple[int, list[tuple[int, Piece]]], statistics: ItemStatistics
    ) -> dict[str, Any]:
        number, pieces = numbered
        plan = self._plan
        bucket: Bucket = pickle.loads(plan.exchange.read_bytes(pieces))
        bucket = bucket.with_statistics(statistics)
        view = pretraining_view(bucket, plan.pretraining, plan.rules.reach("click"), self._eligible, self._user_ids)
        if plan.pretraining.kind == "causal":
            view = view.with_statistics(statistics)
        shards = {}
        for split, name in enumerate(SPLITS):
            if len(pages := bucket.pages_of(split)):
                shards[name] = self._write(bucket, pages, f"pages/{name}-{number:05d}-of-{plan.buckets:05d}.tfrecord")
        if len(view.page_id):
            path = f"{PRETRAINING}/{plan.pretraining.kind}-{number:05d}-of-{plan.buckets:05d}.tfrecord"
            shards[PRETRAINING] = self._write(view, view.pages_of(0), path)
        plan.exchange.report()
        reused = {reason: tuple(example) for reason, example in bucket.reused.items()}
        return {"bucket": number, "shards": shards, "counters": {**bucket.counters, **view.counters}, "reused": reused}

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


@beam.typehints.with_input_types(str, Iterable[tuple[str, list[str]]])
@beam.typehints.with_output_types(DeadLetters)
class WriteDeadLetters(beam.DoFn):
    """Writes the rejected rows of a table, sorted, as `dead_letters/TABLE.jsonl`."""

    def __init__(self, directory: Location) -> None:
        self._directory = directory

    def process(self, table: str, rejected: Iterable[tuple[str, list[str]]]) -> Iterator[DeadLetters]:
        """Writes one table's, if there are any."""
        lines = [line for of_table, some in rejected if of_table == table for line in some]
        if lines:
            yield write_dead_letters(self._directory, table, lines)


class WrittenPages(NamedTuple):
    """What comes out of the transforms from log tables to page shards.

    Attributes:
        rows: numbers of rows that were read and not rejected.
        prepared: `(bucket, rows)` for each bucket.
        buckets: what was written of each bucket; see `put_pages_together`.
        dead_letters: what was written of rejected rows.
    """

    rows: PCollection[int]
    prepared: PCollection[tuple[int, int]]
    buckets: PCollection[dict[str, Any]]
    dead_letters: PCollection[DeadLetters]


def build_pages(pipeline: beam.Pipeline, plan: PagePlan, pictures: PicturePlan) -> WrittenPages:
    """Adds the transforms from log tables to page shards and dead letters."""
    rows = (
        pipeline
        | "Files" >> beam.Create(plan.parts(), reshuffle=True)
        | "PartitionRows" >> beam.ParDo(PartitionRows(plan)).with_outputs(REJECTED, OWNERS, ROWS, main="by_bucket")
    )
    shared = (
        rows[OWNERS] | "GroupPageOwners" >> beam.GroupByKey() | "FindSharedPages" >> beam.ParDo(FindSharedPages(plan))
    )
    prepared = (
        rows["by_bucket"]
        | "GroupByBucket" >> beam.GroupByKey()
        | "PreparePages"
        >> beam.ParDo(PreparePages(plan), AsList(shared)).with_outputs(REJECTED, COUNTS, ROWS, main="pages")
    )
    statistics = (
        prepared[COUNTS] | "GroupCounts" >> beam.GroupByKey() | "SumStatistics" >> beam.ParDo(SumStatistics(plan))
    )
    written = (
        prepared["pages"]
        | "GroupPages" >> beam.GroupByKey()
        | "WritePages" >> beam.ParDo(WritePages(plan, pictures), AsIter(statistics))
    )
    rejected = (rows[REJECTED], prepared[REJECTED]) | "AllRejected" >> beam.Flatten()
    # As a side input: the rejected rows of a table may be more than engines move in one group.
    dead_letters = (
        pipeline
        | "Tables" >> beam.Create(sorted({part.table for part in plan.parts()}))
        | "WriteDeadLetters" >> beam.ParDo(WriteDeadLetters(plan.directory), AsIter(rejected))
    )
    return WrittenPages(rows[ROWS], prepared[ROWS], written, dead_letters)
