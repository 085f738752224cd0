"""Reads pages without TensorFlow: `read_records` for those of a shard, then the way back from what `records` encodes.

Example:
    >>> pages = [decode_page(record) for record in read_records("my_dataset/pages/test-00000-of-00004.tfrecord")]
"""

from collections.abc import Iterator, Sequence

import numpy as np

from beam_pipelines.format.records import FEATURES
from beam_pipelines.format.tfrecord import read_records

__all__ = ["decode_page", "packed_page", "read_records"]

_KINDS = {f.name.encode(): (f.name, f.kind) for f in FEATURES}
_LIST_TAGS = {"bytes": 0x0A, "float": 0x12, "int64": 0x1A}  # tf.train.Feature's oneof, length-delimited
_FIRST_FIELD, _SECOND_FIELD = 0x0A, 0x12
_MAX_VARINT = 10


def packed_page(record: bytes) -> dict[str, bytes]:
    """Takes a serialized page apart; the inverse of `records.encode_packed_page`.

    Returns:
        Feature name to packed varints (int64), little-endian float32 bytes (float), or the value itself (bytes).

    Raises:
        ValueError: the record is not one page of the schema.
    """
    payloads = {}
    for entry in _fields(_only_field(record, _FIRST_FIELD), _FIRST_FIELD):
        name, payload = _entry(entry)
        if name in payloads:
            raise ValueError(f"`record` must have each feature once. Received twice: {name}")
        payloads[name] = payload
    if len(payloads) != len(FEATURES):
        missing = [f.name for f in FEATURES if f.name not in payloads]
        raise ValueError(f"`record` must have exactly the features of the schema. Missing: {missing}")
    return payloads


def decode_page(record: bytes) -> dict[str, np.ndarray | list[bytes]]:
    """Parses a serialized page; the inverse of `records.encode_page`.

    Returns:
        Feature name to its values: int64 or float32 `(1,)` for context features, `(candidates,)` or `(steps,)` for the
        others; a list of one `bytes` for bytes features.

    Raises:
        ValueError: the record is not one page of the schema.
    """
    payloads = packed_page(record)
    page: dict[str, np.ndarray | list[bytes]] = {}
    lengths = {"context": 1}
    for name, kind, group, _ in FEATURES:
        if kind == "bytes":
            page[name] = [payloads[name]]
        elif kind == "float":
            page[name] = np.frombuffer(payloads[name], "<f4")
        else:
            page[name] = unpack_int64([payloads[name]])[0]
        if len(page[name]) != lengths.setdefault(group, len(page[name])):
            raise ValueError(
                f"`{name}` must have {lengths[group]} values like the rest of group `{group}`. "
                f"Received: {len(page[name])}"
            )
    return page


def unpack_int64(payloads: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Unpacks lists of protobuf varints, all of them at once; the inverse of `records.pack_int64`.

    Args:
        payloads: one per list.

    Returns:
        int64 values of all lists, one after the other, and the `(len(payloads),)` lengths of the lists.

    Raises:
        ValueError: a list does not end with a whole varint, or a varint is too long.
    """
    lengths = int64_list_lengths(payloads)
    data = np.frombuffer(b"".join(payloads), np.uint8)
    stop = np.flatnonzero(data < 0x80) + 1
    if not len(stop):
        return np.zeros(0, np.int64), lengths
    start = np.concatenate([[0], stop[:-1]])
    byte = np.arange(len(data)) - np.repeat(start, stop - start)
    if np.any(byte >= _MAX_VARINT) or np.any(data[byte == _MAX_VARINT - 1] > 1):
        raise ValueError("`payloads` must hold varints of at most 64 bits. Received a longer one")
    groups = (data & 0x7F).astype(np.uint64) << (7 * byte).astype(np.uint64)
    return np.bitwise_or.reduceat(groups, start).view(np.int64), lengths


def int64_list_lengths(payloads: Sequence[bytes]) -> np.ndarray:
    """Lengths of lists of protobuf varints, without unpacking them: int64 `(len(payloads),)`."""
    if any(payload and payload[-1] >= 0x80 for payload in payloads):
        raise ValueError("`payloads` must be lists of whole varints. Received one that ends inside a varint")
    ends = np.frombuffer(b"".join(payloads), np.uint8) < 0x80
    ended = np.concatenate([[0], np.cumsum(ends)])
    return np.diff(ended[np.cumsum([0, *map(len, payloads)])])


def _entry(entry: bytes) -> tuple[str, bytes]:
    """Name and packed values of one feature."""
    key, feature = _pair(entry)
    if key not in _KINDS:
        raise ValueError(f"`record` must have exactly the features of the schema. Unknown: {key!r}")
    name, kind = _KINDS[key]
    values = _only_field(feature, _LIST_TAGS[kind])
    if not values and kind != "bytes":
        return name, b""
    payload = _only_field(values, _FIRST_FIELD)
    if kind == "float" and len(payload) % 4:
        raise ValueError(f"`{name}` must be whole float32 values. Received: {len(payload)} bytes")
    return name, payload


def _pair(entry: bytes) -> tuple[bytes, bytes]:
    position, key = _field(entry, 0, _FIRST_FIELD)
    position, value = _field(entry, position, _SECOND_FIELD)
    if position != len(entry):
        raise ValueError("`record` must be one serialized page. Received: a feature with a surplus field")
    return key, value


def _only_field(data: bytes, tag: int) -> bytes:
    stop, payload = _field(data, 0, tag)
    if stop != len(data):
        raise ValueError("`record` must be one serialized page. Received: bytes after its end")
    return payload


def _fields(data: bytes, tag: int) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        position, payload = _field(data, position, tag)
        yield payload


def _field(data: bytes, position: int, tag: int) -> tuple[int, bytes]:
    """The end and the payload of the length-delimited field at `position`."""
    if data[position : position + 1] != bytes([tag]):
        raise ValueError(f"`record` must be one serialized page. Received: another field than {tag >> 3}")
    length = shift = 0
    start = position + 1
    for byte in data[start : start + _MAX_VARINT]:
        length |= (byte & 0x7F) << shift
        shift += 7
        start += 1
        if byte < 0x80:
            break
    else:
        raise ValueError("`record` must be one serialized page. Received: one cut inside a length")
    stop = start + length
    if stop > len(data):
        raise ValueError("`record` must be one serialized page. Received: one cut inside a field")
    return stop, data[start:stop]
