"""TFRecord files."""

import struct
from typing import BinaryIO

import google_crc32c


def write_record(file: BinaryIO, record: bytes) -> None:
    """Appends a record: length, masked CRC-32C of the length, the record, its masked CRC-32C."""
    length = struct.pack("<Q", len(record))
    file.write(b"".join((length, _masked_crc(length), record, _masked_crc(record))))


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    rotated = (crc >> 15) | (crc << 17 & 0xFFFFFFFF)
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)
