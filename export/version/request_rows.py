"""Pages as requests: rows as REST has them, tensors as gRPC has them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from beam_pipelines.format.records import HISTORIES
from export.version.inputs import CLUSTER_ID, NUMBER_TYPES, SEMANTIC_ID, RequestInput
from models.data.pages import PADDING
from models.ranker.run import RowIds

UNKNOWN_ID = "unknown\n"
"""Stands for rows beyond a table: no table that can be exported has an ID with a line break."""


def request_row(record: bytes, ids: RowIds, numbers: Iterable[str]) -> dict[str, Any]:
    """A page record as a request: one element of `instances` in TensorFlow Serving's row format.

    Args:
        record: the serialized page.
        ids: the string IDs by row; others become IDs that begin with `UNKNOWN_ID`.
        numbers: what the ranker reads of each candidate, of `NUMBER_TYPES`.
    """
    features = tf.train.Example.FromString(record).features.feature

    def rows(name: str) -> list[int]:
        return list(features[name].int64_list.value)

    def items(name: str) -> list[str]:
        # An unknown step is not the unknown candidate: records cannot say that it is.
        return [ids.items[row] if 0 <= row < len(ids.items) else UNKNOWN_ID + name for row in rows(name)]

    user = rows("user")[0]
    row: dict[str, Any] = {
        "user_id": ids.users[user] if 0 <= user < len(ids.users) else UNKNOWN_ID,
        "query": features["query"].bytes_list.value[0].decode(),
        "timestamp": rows("timestamp")[0],
        "item_id": items("item"),
    }
    for name in numbers:
        is_float = NUMBER_TYPES[name] == tf.float32
        row[name] = list(features[name].float_list.value) if is_float else rows(name)
    for name in HISTORIES:
        row[f"{name}_item_id"] = items(f"{name}_item")
        row[f"{name}_time"] = rows(f"{name}_time")
    return row


def pad_rows(rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Requests as the inputs of `serving_default`: shorter lists are padded to the longest with what is missing."""
    inputs = {}
    for name, first in rows[0].items():
        values = [row[name] for row in rows]
        dtype, missing = _type(name, values)
        if isinstance(first, list):
            longest = max(len(value) for value in values)
            values = [value + [missing] * (longest - len(value)) for value in values]
        if dtype == tf.string:
            texts = np.array(values, object)
            encoded = np.array([text.encode() for text in texts.ravel()], object)
            inputs[name] = encoded.reshape(texts.shape)
        else:
            inputs[name] = np.array(values, dtype.as_numpy_dtype)
    return inputs


def _type(name: str, values: list[Any]) -> tuple[tf.DType, str | int | float]:
    """Type of an input, and what pads it; the features of new items say themselves whether they are numbers."""
    if name in NUMBER_TYPES:
        return NUMBER_TYPES[name], PADDING
    if name in ("timestamp", CLUSTER_ID, SEMANTIC_ID) or name.endswith("_time"):
        return tf.int64, PADDING
    listed = [each for value in values for each in (value if isinstance(value, list) else [value])]
    return (tf.float32, float("nan")) if listed and not isinstance(listed[0], str) else (tf.string, "")


def complete(inputs: Mapping[str, np.ndarray], request_inputs: Mapping[str, RequestInput]) -> dict[str, np.ndarray]:
    """Adds the inputs that are left out as ones that are not given, for servers that know no defaults."""
    pages = len(inputs["user_id"])
    completed = dict(inputs)
    for name, request_input in request_inputs.items():
        if name not in completed:
            value = request_input.default().numpy()
            completed[name] = np.broadcast_to(value, (pages, *value.shape[1:]))
    return completed


def as_instances(inputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Inputs as the `instances` of TensorFlow Serving's row format."""
    columns = {name: _texts(value) if value.dtype == object else value.tolist() for name, value in inputs.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _texts(values: np.ndarray) -> list[Any]:
    return np.array([value.decode() for value in values.ravel()], object).reshape(values.shape).tolist()
