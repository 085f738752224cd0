"""TFRecord files."""

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import BinaryIO

import google_crc32c


def write_records(file: BinaryIO, records: Iterable[bytes]) -> None:
    """Appends records: of each its length, masked CRC-32C of the length, the record, its masked CRC-32C."""
    parts = []
    for record in records:
        parts += (_header(len(record)), record, _masked_crc(record))
    file.write(b"".join(parts))


@lru_cache(1 << 16)
def _header(size: int) -> bytes:
    length = struct.pack("<Q", size)
    return length + _masked_crc(length)


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    rotated = (crc >> 15) | (crc << 17 & 0xFFFFFFFF)
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)
