"""Rows by user, in memory that does not grow with a log: what does not fit waits in files, some users in each."""

import contextlib
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from beam_pipelines.shell.progress import progress_bar

IN_MEMORY = 4_000_000
"""Rows that are held in memory at a time. A log that has no more comes as one table."""
BUCKETS = 256
"""Files that a larger log is divided into."""


def user_buckets(batches: Iterable[pa.RecordBatch], scratch: Path) -> Iterator[pa.Table]:
    """Yields all rows, so that those of a user come together, in their order.

    Args:
        batches: of one schema, with a column `user_id`.
        scratch: an existing directory for files, which are removed.
    """
    pending: list[pa.RecordBatch] = []
    rows = 0
    with contextlib.ExitStack() as opened:
        writers: list[pa.ipc.RecordBatchFileWriter] = []
        paths = [scratch / f"users-{number:03d}.arrow" for number in range(BUCKETS)]
        for batch in batches:
            pending.append(batch)
            rows += batch.num_rows
            if rows > IN_MEMORY:
                table = pa.Table.from_batches(pending)
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                writers = writers or [
                    opened.enter_context(pa.ipc.new_file(path, table.schema, options=options)) for path in paths
                ]
                _divide(table, writers)
                pending, rows = [], 0
        if not writers:
            if pending:
                yield pa.Table.from_batches(pending)
            return
        if pending:
            _divide(pa.Table.from_batches(pending), writers)
    for path in progress_bar(paths, desc="users", unit=" files"):
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        path.unlink()
        if len(table):
            yield table


def _divide(table: pa.Table, writers: list[pa.ipc.RecordBatchFileWriter]) -> None:
    users = table["user_id"].combine_chunks().dictionary_encode()
    bucket_of = np.array([zlib.crc32(user.encode()) % len(writers) for user in users.dictionary.to_pylist()])
    bucket = bucket_of[users.indices.to_numpy()]
    order = np.argsort(bucket, kind="stable")
    table = table.take(pa.array(order)).combine_chunks()
    bounds = np.searchsorted(bucket[order], np.arange(len(writers) + 1))
    for writer, first, stop in zip(writers, bounds[:-1], bounds[1:], strict=True):
        if stop > first:
            writer.write_table(table.slice(first, stop - first))
