"""The page record: the one schema that Beam writes and that training, evaluation and serving read.

A page is one `tf.Example` of flat int64 / float / bytes lists. `ENCODING` of an example on the wire follows protobuf's
deterministic order (features sorted by name), so equal pages are equal bytes. No TensorFlow is needed to write one.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

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


_SORTED_FEATURES = tuple(sorted(FEATURES))
_KEYS = {f.name: _field(1, f.name.encode()) for f in FEATURES}
_INT64_FEATURES = tuple(f.name for f in FEATURES if f.kind == "int64")


def pack_int64(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Packs int64 values as protobuf varints (negative ones take ten bytes), all of them at once.

    Args:
        values: `(n,)`.

    Returns:
        The bytes, and offsets `(n + 1,)` into them: values `i` to `j - 1` are `data[offsets[i]:offsets[j]]`.
    """
    unsigned = np.ascontiguousarray(values, np.int64).view(np.uint64)
    lengths = 1 + np.searchsorted(_VARINT_LIMITS, unsigned, side="right")
    offsets = np.zeros(len(unsigned) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    last = lengths[:, None] - 1
    byte = np.arange(lengths.max(initial=1))
    groups = (unsigned[:, None] >> _VARINT_SHIFTS[: len(byte)]).astype(np.uint8) & 0x7F
    groups |= (byte < last).astype(np.uint8) << 7
    return groups[byte <= last].tobytes(), offsets


def encode_packed_page(payloads: Mapping[str, bytes]) -> bytes:
    """Serializes one page from packed features; for writers that pack whole columns at once.

    Args:
        payloads: feature name to `pack_int64` bytes (int64), little-endian float32 bytes (float), or the value itself
            (bytes). Nothing is checked.
    """
    entries = []
    for name, kind, _, _ in _SORTED_FEATURES:
        payload = payloads[name]
        values = _field(1, payload) if payload or kind == "bytes" else b""
        entries.append(_field(1, _KEYS[name] + _field(2, _field(_KIND_FIELD[kind], values))))
    return _field(1, b"".join(entries))


def encode_page(page: Mapping[str, np.ndarray | Sequence[bytes]]) -> bytes:
    """Serializes one page as a `tf.Example`.

    Args:
        page: feature name to its values: `(1,)` for context features, `(candidates,)` or `(steps,)` for the others;
            bytes features are sequences of `bytes`.

    Raises:
        ValueError: a feature is missing or unknown, or the lengths inside a group differ.
    """
    if page.keys() != _KEYS.keys():
        raise ValueError(
            f"`page` must have exactly the features of the schema. Missing: {sorted(_KEYS.keys() - page.keys())}, "
            f"unknown: {sorted(page.keys() - _KEYS.keys())}"
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
    return encode_packed_page(payloads)
