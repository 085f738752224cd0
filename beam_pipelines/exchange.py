"""How the transforms of a build hand over what is too large to travel as elements of a pipeline.

What one transform writes another one reads, piece by piece; pieces travel as elements, grouped by key. In process a
piece is a place in a scratch file, so that memory and the shuffle stay small. Where workers share no disk, a piece is
the bytes themselves, and the engine's shuffle moves them.
"""

import abc
import contextlib
import shutil
import struct
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

import pyarrow as pa

Piece: TypeAlias = tuple[str, int, int] | bytes
"""Scratch file, offset and length; or the bytes."""
BLOCK_BYTES = 4 << 20
"""The largest element of a pipeline."""
DIFFERENT_WORKERS = "logs changed meanwhile, or workers do not all run the same code"
"""Why what should be the same is not."""

_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")
_OPEN_FILES = 256
_RAW_SIZE = struct.Struct("<Q")


class Writer(contextlib.AbstractContextManager["Writer"]):
    """Takes what another transform is to read. What was written can be read after `flush`, or when the block ends."""

    @abc.abstractmethod
    def write(self, data: bytes | pa.Buffer) -> Piece:
        """Stores bytes."""

    def flush(self) -> None:
        """Hands on what was written so far."""

    def __exit__(self, *_: object) -> None:
        self.flush()


class Exchange(abc.ABC):
    """Moves tables and bytes between transforms.

    Attributes:
        piece_bytes: no piece is larger, but one that holds a single row.
        rows_per_bucket: so many impressions and events make a bucket that can be moved in one group.
        max_buckets: more are not sensible.
        buckets_at_once: buckets that are moved together, and built side by side by one worker.
        carries_pictures: whether it is fit for a shard of pictures at once.
    """

    piece_bytes: int
    rows_per_bucket: int
    max_buckets: int
    buckets_at_once: int
    carries_pictures: bool

    @abc.abstractmethod
    def writer(self) -> Writer:
        """Where a worker writes. Several threads need several."""

    @abc.abstractmethod
    def read(self, piece: Piece) -> pa.Buffer:
        """What was written."""

    def write_batch(self, writer: Writer, batch: pa.RecordBatch) -> Iterator[Piece]:
        """Stores rows."""
        for data in encode_in_blocks(batch, self.piece_bytes):
            yield writer.write(data)

    def read_table(self, schema: pa.Schema, pieces: Iterable[Piece]) -> pa.Table:
        """Reads rows back, in the order of the pieces."""
        return pa.Table.from_batches([batch for piece in pieces for batch in decode_block(self.read(piece))], schema)

    def write_bytes(self, writer: Writer, data: bytes | pa.Buffer) -> Iterator[tuple[int, Piece]]:
        """Stores bytes of any length, in numbered pieces."""
        yield 0, writer.write(data)

    def read_bytes(self, pieces: Iterable[tuple[int, Piece]]) -> pa.Buffer:
        """What `write_bytes` stored, in whatever order its pieces come."""
        ((_, piece),) = pieces
        return self.read(piece)

    @abc.abstractmethod
    def report(self) -> None:
        """Tells whoever waits that a step is done, if that can be seen there."""

    @abc.abstractmethod
    def close(self) -> None:
        """Removes what is left, when the last transform has read what it needs."""


class ScratchFiles(Exchange):
    """Moves places in files of a directory that all workers see: those of one machine.

    Args:
        directory: it is made.
    """

    piece_bytes = sys.maxsize
    rows_per_bucket = 250_000  # more at once are not built faster; fewer workers would find something to do
    max_buckets = 4096
    buckets_at_once = 2  # while one holds the interpreter's lock, the other sorts or writes
    carries_pictures = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: dict[str, pa.Buffer] = {}

    def writer(self) -> Writer:
        """A file of its own."""
        return _ScratchFile(self._directory / f"data-{uuid.uuid4().hex}")

    def read(self, piece: Piece) -> pa.Buffer:
        """Maps a part of a file into memory, once for all processes of the machine."""
        assert not isinstance(piece, bytes)
        name, offset, length = piece
        content = self._open.get(name)
        if content is None:
            if len(self._open) >= _OPEN_FILES:
                self._open.clear()
            content = self._open[name] = self._map(name)
        return content.slice(offset, length)

    def read_bytes(self, pieces: Iterable[tuple[int, Piece]]) -> pa.Buffer:
        """Maps them as `read` does, and for no longer than they are used: nobody reads them again."""
        ((_, piece),) = pieces
        assert not isinstance(piece, bytes)
        name, offset, length = piece
        return self._map(name).slice(offset, length)

    def _map(self, name: str) -> pa.Buffer:
        with pa.memory_map(str(self._directory / name)) as file:
            return file.read_buffer()

    def report(self) -> None:
        """Leaves a mark."""
        (self._directory / f"done-{uuid.uuid4().hex}").touch()

    def open(self) -> None:
        """Makes the directory."""
        self._directory.mkdir()

    def steps_done(self) -> int:
        """How many steps workers have reported so far."""
        return sum(1 for _ in self._directory.glob("done-*"))

    def close(self) -> None:
        """Removes the directory."""
        shutil.rmtree(self._directory)

    def __reduce__(self) -> tuple[type["ScratchFiles"], tuple[Path]]:
        return ScratchFiles, (self._directory,)


class _ScratchFile(Writer):
    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._file: BinaryIO = path.open("xb", buffering=1 << 20)
        self._end = 0

    def write(self, data: bytes | pa.Buffer) -> Piece:
        offset = self._end
        self._end += self._file.write(data)
        return self._name, offset, self._end - offset

    def flush(self) -> None:
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Blocks(Exchange):
    """Moves the bytes themselves, through the engine's shuffle.

    Engines hold a record, and some a whole group, in one piece: Flink's batch mode fails on records of more than 10 MB
    ("Record too large", apache/beam#20655). So pieces have at most 4 MiB, and there are so many buckets that the group
    of one stays below that: a row takes about 25 bytes in a block, and what is made of it less than 10. Pictures of a
    shard are more by far; they are not moved but read again.
    """

    piece_bytes = BLOCK_BYTES
    rows_per_bucket = 100_000
    max_buckets = 1 << 16
    buckets_at_once = 1
    carries_pictures = False

    def writer(self) -> Writer:
        """Hands bytes on as they are."""
        return _Inline()

    def read(self, piece: Piece) -> pa.Buffer:
        """The bytes."""
        assert isinstance(piece, bytes)
        return pa.py_buffer(piece)

    def write_bytes(self, writer: Writer, data: bytes | pa.Buffer) -> Iterator[tuple[int, Piece]]:
        """Compresses and cuts bytes."""
        whole = _RAW_SIZE.pack(len(data)) + pa.compress(data, codec="zstd", asbytes=True)
        for number, first in enumerate(range(0, len(whole), self.piece_bytes)):
            yield number, writer.write(whole[first : first + self.piece_bytes])

    def read_bytes(self, pieces: Iterable[tuple[int, Piece]]) -> pa.Buffer:
        """Puts bytes together again."""
        whole = b"".join(bytes(self.read(piece)) for _, piece in sorted(pieces))
        (size,) = _RAW_SIZE.unpack_from(whole)
        return pa.decompress(memoryview(whole)[_RAW_SIZE.size :], decompressed_size=size, codec="zstd")

    def report(self) -> None:
        """Cannot be seen."""

    def close(self) -> None:
        """Nothing is left."""


class _Inline(Writer):
    def write(self, data: bytes | pa.Buffer) -> Piece:
        return bytes(data)


def encode_in_blocks(batch: pa.RecordBatch, block_bytes: int = BLOCK_BYTES) -> Iterator[pa.Buffer]:
    """Encodes rows as blocks of Arrow's stream format, each with the schema.

    Args:
        batch: the rows.
        block_bytes: no block is larger, but one that holds a single row.
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_LZ4) as stream:
        stream.write_batch(batch)
    data = sink.getvalue()
    if data.size <= block_bytes or batch.num_rows == 1:
        yield data
        return
    half = batch.num_rows // 2
    yield from encode_in_blocks(batch.slice(0, half), block_bytes)
    yield from encode_in_blocks(batch.slice(half), block_bytes)


def decode_block(data: bytes | pa.Buffer) -> list[pa.RecordBatch]:
    """The rows of a block of `encode_in_blocks`."""
    with pa.ipc.open_stream(data) as stream:
        return list(stream)
