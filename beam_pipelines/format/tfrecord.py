"""TFRecord files, written and read without TensorFlow."""

import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import google_crc32c

from beam_pipelines.format.errors import ArtifactError

_HEADER_BYTES = 12  # the length and its checksum
_CHECKSUM_BYTES = 4


class Writable(Protocol):
    """What records are written to: a binary file, or something that looks like one."""

    def write(self, data: bytes, /) -> object:
        """Appends bytes."""


def write_records(file: Writable, records: Iterable[bytes]) -> None:
    """Appends records: of each its length, masked CRC-32C of the length, the record, its masked CRC-32C."""
    parts: list[bytes] = []
    for record in records:
        parts += (_header(len(record)), record, _masked_crc(record))
    file.write(b"".join(parts))


def read_records(path: Path) -> Iterator[bytes]:
    """Yields the records of a TFRecord file, each with both of its checksums checked.

    Raises:
        ArtifactError: the file ends early, or a checksum differs.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        while header := file.read(_HEADER_BYTES):
            offset = file.tell() - len(header)
            length = int.from_bytes(header[:8], "little")
            fits = offset + _HEADER_BYTES + length + _CHECKSUM_BYTES <= size  # else a damaged length may be enormous
            record = file.read(length) if fits else b""
            if header != _header(len(record)) or file.read(_CHECKSUM_BYTES) != _masked_crc(record):
                raise ArtifactError(f"{path} is damaged at byte {offset}; build the dataset again")
            yield record


@lru_cache(1 << 16)
def _header(size: int) -> bytes:
    length = struct.pack("<Q", size)
    return length + _masked_crc(length)


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    rotated = (crc >> 15) | (crc << 17 & 0xFFFFFFFF)
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)
