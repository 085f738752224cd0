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


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    return bytes([(number << 3) | _LENGTH_DELIMITED]) + _varint(len(payload)) + payload


def _packed_varints(values: np.ndarray) -> bytes:
    """Packs int64 values as protobuf varints (negative ones take ten bytes), all of them at once."""
    rest = values.astype(np.int64, copy=False).view(np.uint64)
    if not len(rest):
        return b""
    columns = []
    alive = np.ones(len(rest), bool)
    keep = []
    while alive.any():
        following = rest >> np.uint64(7)
        more = following != 0
        columns.append((rest & np.uint64(0x7F)).astype(np.uint8) | (more.astype(np.uint8) << 7))
        keep.append(alive)
        rest, alive = following, alive & more
    return np.stack(columns, axis=1)[np.stack(keep, axis=1)].tobytes()


def _list_payload(kind: Kind, values: np.ndarray | Sequence[bytes]) -> bytes:
    if kind == "bytes":
        return b"".join(_field(1, value) for value in values)
    packed = _packed_varints(np.asarray(values)) if kind == "int64" else np.ascontiguousarray(values, "<f4").tobytes()
    return _field(1, packed) if packed else b""


_SORTED_FEATURES = tuple(sorted(FEATURES))
_KEYS = {f.name: _field(1, f.name.encode()) for f in FEATURES}


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
    entries = []
    for name, kind, group, _ in _SORTED_FEATURES:
        values = page[name]
        if len(values) != lengths.setdefault(group, len(values)):
            raise ValueError(
                f"`{name}` must have {lengths[group]} values like the rest of group `{group}`. Received: {len(values)}"
            )
        feature = _field(_KIND_FIELD[kind], _list_payload(kind, values))
        entries.append(_field(1, _KEYS[name] + _field(2, feature)))
    return _field(1, b"".join(entries))
