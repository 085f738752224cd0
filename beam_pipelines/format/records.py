"""The page record: the one schema that Beam writes and that training, evaluation and serving read.

A page is one `tf.Example` of flat int64 / float / bytes lists. `ENCODING` of an example on the wire follows protobuf's
deterministic order (features sorted by name), so equal pages are equal bytes. No TensorFlow is needed to write one.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Kind = Literal["bytes", "int64", "float"]
Group = Literal["context", "candidates", "click", "pay", "cart"]


class Feature(NamedTuple):
    """One feature of a page.

    Attributes:
        name: the key in the `tf.Example`.
        kind: the list type.
        group: `context` features hold exactly one value; all features of another group have the same length on a page
            (the number of candidates, or of steps in that history).
        is_label: whether the feature is known only after the page was shown, so that no model may take it as input.
    """

    name: str
    kind: Kind
    group: Group
    is_label: bool = False


HISTORIES: dict[str, int] = {"click": 1000, "pay": 1000, "cart": 200}
"""History name to the largest number of steps kept (paper, appendix A)."""

STATISTICS_DAYS = (7, 30)
"""Windows of the statistics that candidates carry."""

_STATISTICS: tuple[tuple[str, Kind], ...] = (
    ("impressions", "int64"),
    ("clicks", "int64"),
    ("ctr", "float"),
    ("pays", "int64"),
)

FEATURES: tuple[Feature, ...] = (
    Feature("page_id", "bytes", "context"),
    Feature("user", "int64", "context"),  # row of users/
    Feature("timestamp", "int64", "context"),  # epoch milliseconds
    Feature("query", "bytes", "context"),  # UTF-8; empty when the page had none
    Feature("item", "int64", "candidates"),  # row of items/
    Feature("position", "int64", "candidates"),
    Feature("clicked", "int64", "candidates", is_label=True),
    Feature("converted", "int64", "candidates", is_label=True),
    Feature("dwell", "float", "candidates", is_label=True),  # seconds
    # Of the item over the 7 and 30 days before the page's day; see `item_statistics`.
    *(Feature(f"{name}_{days}d", kind, "candidates") for days in STATISTICS_DAYS for name, kind in _STATISTICS),
    # Histories, newest first, strictly before the page. *_item: row of items/. *_time: epoch milliseconds.
    Feature("click_item", "int64", "click"),
    Feature("click_time", "int64", "click"),
    Feature("pay_item", "int64", "pay"),
    Feature("pay_time", "int64", "pay"),
    Feature("cart_item", "int64", "cart"),
    Feature("cart_time", "int64", "cart"),
)

SCHEMA_HASH: str = hashlib.sha256(json.dumps([list(f) for f in FEATURES]).encode()).hexdigest()[:16]
"""Identifies the schema in manifests: a reader refuses a dataset of another one."""

_LENGTH_DELIMITED = 2
_KIND_FIELD = {"bytes": 1, "float": 2, "int64": 3}  # tf.train.Feature's oneof
_VARINT_SHIFTS = 7 * np.arange(10, dtype=np.uint64)
_VARINT_LIMITS = np.uint64(1) << _VARINT_SHIFTS[1:]  # the first values that need 2, 3, ... 10 bytes


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    return b"%c%b%b" % ((number << 3) | _LENGTH_DELIMITED, _varint(len(payload)), payload)


_LARGEST_IN_TABLE = 1 << 12  # a text may have any length


class _Headers(dict[int, bytes]):
    """Everything of one feature's entry but its payload, by the payload's size."""

    def __init__(self, feature: Feature) -> None:
        super().__init__()
        self._key = _field(1, feature.name.encode())
        self._kind = feature.kind
        self._table = pa.array([], pa.binary())

    def __missing__(self, size: int) -> bytes:
        # From the inside out; each length is that of everything that follows, the payload included.
        values = b"\x0a" + _varint(size) if size or self._kind == "bytes" else b""
        values_list = bytes([(_KIND_FIELD[self._kind] << 3) | _LENGTH_DELIMITED]) + _varint(len(values) + size) + values
        value = self._key + b"\x12" + _varint(len(values_list) + size) + values_list
        self[size] = b"\x0a" + _varint(len(value) + size) + value
        return self[size]

    def of(self, payloads: pa.BinaryArray) -> pa.BinaryArray:
        """Those of payloads."""
        sizes = pc.binary_length(payloads)
        largest, table = pc.max(sizes).as_py() or 0, self._table  # another thread may replace it
        if largest > _LARGEST_IN_TABLE:
            return pa.array([self[size] for size in sizes.to_pylist()], pa.binary())
        if largest >= len(table):
            self._table = table = pa.array([self[size] for size in range(2 * largest + 1)], pa.binary())
        return table.take(sizes)


class _PageHeaders(dict[int, bytes]):
    """What stands before a page's entries, by their size."""

    def __missing__(self, size: int) -> bytes:
        self[size] = b"\x0a" + _varint(size)
        return self[size]


_SORTED_FEATURES = tuple(sorted(FEATURES))
_INT64_FEATURES = tuple(f.name for f in FEATURES if f.kind == "int64")
_HEADERS = tuple(_Headers(feature) for feature in _SORTED_FEATURES)
_PAGE_HEADERS = _PageHeaders()
WIRE_ORDER: tuple[str, ...] = tuple(f.name for f in _SORTED_FEATURES)
"""Feature names in the order in which a serialized page holds them."""


def pack_int64(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Packs int64 values as protobuf varints (negative ones take ten bytes), all of them at once.

    Args:
        values: `(n,)`.

    Returns:
        The bytes, and offsets `(n + 1,)` into them: values `i` to `j - 1` are `data[offsets[i]:offsets[j]]`.
    """
    unsigned = np.ascontiguousarray(values, np.int64).view(np.uint64)
    lengths = np.ones(len(unsigned), np.int64)
    for limit in _VARINT_LIMITS:
        longer = unsigned >= limit
        if not longer.any():
            break
        lengths += longer
    offsets = np.zeros(len(unsigned) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    data = np.empty(offsets[-1], np.uint8)
    for byte in range(int(lengths.max(initial=0))):
        has = np.flatnonzero(lengths > byte)
        group = (unsigned[has] >> _VARINT_SHIFTS[byte]).astype(np.uint8) & 0x7F
        data[offsets[has] + byte] = group | ((lengths[has] > byte + 1).astype(np.uint8) << 7)
    return data.tobytes(), offsets


def encode_packed_page(payloads: Sequence[bytes]) -> bytes:
    """Serializes one page from packed features; for writers that pack whole columns at once.

    Args:
        payloads: for each feature of `WIRE_ORDER` its `pack_int64` bytes (int64), little-endian float32 bytes (float),
            or the value itself (bytes). Nothing is checked.
    """
    parts = []
    for headers, payload in zip(_HEADERS, payloads, strict=True):
        parts.append(headers[len(payload)])
        parts.append(payload)
    body = b"".join(parts)
    return _PAGE_HEADERS[len(body)] + body


def encode_packed_pages(payloads: Sequence[pa.BinaryArray]) -> pa.BinaryArray:
    """Serializes many pages from packed features, feature by feature instead of page by page.

    Args:
        payloads: for each feature of `WIRE_ORDER` what `encode_packed_page` takes for it, `(pages,)`.

    Returns:
        The pages, `(pages,)`.
    """
    parts = []
    for headers, payload in zip(_HEADERS, payloads, strict=True):
        parts += [headers.of(payload), payload]
    bodies = pc.binary_join_element_wise(*parts, b"")
    sizes, offsets = pack_int64(pc.binary_length(bodies).to_numpy())
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(sizes)]
    packed_sizes = pa.Array.from_buffers(pa.binary(), len(bodies), buffers)
    return pc.binary_join_element_wise(b"\x0a", packed_sizes, bodies, b"")


def encode_page(page: Mapping[str, np.ndarray | Sequence[bytes]]) -> bytes:
    """Serializes one page as a `tf.Example`.

    Args:
        page: feature name to its values: `(1,)` for context features, `(candidates,)` or `(steps,)` for the others;
            bytes features are sequences of `bytes`.

    Raises:
        ValueError: a feature is missing or unknown, or the lengths inside a group differ.
    """
    if page.keys() != set(WIRE_ORDER):
        raise ValueError(
            f"`page` must have exactly the features of the schema. Missing: {sorted(set(WIRE_ORDER) - page.keys())}, "
            f"unknown: {sorted(page.keys() - set(WIRE_ORDER))}"
        )
    lengths: dict[str, int] = {"context": 1}
    for name, _, group, _ in _SORTED_FEATURES:
        if len(page[name]) != lengths.setdefault(group, len(page[name])):
            raise ValueError(
                f"`{name}` must have {lengths[group]} values like the rest of group `{group}`. "
                f"Received: {len(page[name])}"
            )
    data, offsets = pack_int64(np.concatenate([np.asarray(page[name], np.int64) for name in _INT64_FEATURES]))
    payloads = {}
    start = 0
    for name in _INT64_FEATURES:
        stop = start + len(page[name])
        payloads[name] = data[offsets[start] : offsets[stop]]
        start = stop
    for name, kind, _, _ in _SORTED_FEATURES:
        if kind == "bytes":
            payloads[name] = page[name][0]
        elif kind == "float":
            payloads[name] = np.asarray(page[name], "<f4").tobytes()
    return encode_packed_page([payloads[name] for name in WIRE_ORDER])
