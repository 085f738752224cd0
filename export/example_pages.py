"""The example pages of a ranker's run: as Beam wrote them, as requests, and as the ranker itself scores them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf

from beam_pipelines.command import CommandError
from beam_pipelines.manifest import ids_sha256
from beam_pipelines.records import FEATURES, HISTORIES
from models.artifacts import RankerMetadata, read_metadata
from models.ctr.feature_config import STATISTICS
from models.ctr.ranker import Ranker
from models.data.pages import PADDING, parse_pages
from models.train_ctr import EXAMPLE_PAGES_FILE, ITEMS_FILE, USERS_FILE

MAX_DIFFERENCE = 1e-6
"""Largest difference allowed between the score that a client gets and the score of the ranker in process."""


class RowIds(NamedTuple):
    """The string IDs by row, of the tables that a ranker refers to."""

    items: list[str]
    users: list[str]


def read_row_ids(run: Path) -> RowIds:
    """Reads the IDs that a ranker's run keeps.

    Raises:
        CommandError: they are missing, or not those that the ranker was trained with.
    """
    metadata = read_metadata(RankerMetadata, run, "--model", "models.train_ctr")
    columns = []
    for file, column, digest in (
        (ITEMS_FILE, "item_id", metadata.item_ids_sha256),
        (USERS_FILE, "user_id", metadata.user_ids_sha256),
    ):
        if not (run / file).is_file():
            raise CommandError(f"--model: {run} has no {file}; train the ranker again")
        ids = pq.read_table(run / file, columns=[column])[column].to_pylist()
        if ids_sha256(ids) != digest:
            raise CommandError(f"--model: {run / file} is not the table that the ranker was trained with")
        columns.append(ids)
    return RowIds(*columns)


def read_page_records(run: Path) -> list[bytes]:
    """Reads the serialized example pages of a ranker's run.

    Raises:
        CommandError: there are none.
    """
    path = run / EXAMPLE_PAGES_FILE
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) if path.is_file() else []
    if not records:
        raise CommandError(f"--model: {run} has no pages in {EXAMPLE_PAGES_FILE}; train the ranker again")
    return records


NUMBER_TYPES: dict[str, tf.DType] = {
    f.name: tf.float32 if f.kind == "float" else tf.int64 for f in FEATURES if f.name in STATISTICS
}
"""Type of each number that a request may carry per candidate."""


def request_row(record: bytes, ids: RowIds, numbers: Iterable[str]) -> dict[str, Any]:
    """A page record as a request: one element of `instances` in TensorFlow Serving's row format.

    Args:
        record: the serialized page.
        ids: the string IDs by row.
        numbers: what the ranker reads of each candidate, of `NUMBER_TYPES`.
    """
    features = tf.train.Example.FromString(record).features.feature

    def rows(name: str) -> list[int]:
        return list(features[name].int64_list.value)

    row: dict[str, Any] = {
        "user_id": ids.users[rows("user")[0]],
        "query": features["query"].bytes_list.value[0].decode(),
        "timestamp": rows("timestamp")[0],
        "item_id": [ids.items[item] for item in rows("item")],
    }
    for name in numbers:
        is_float = NUMBER_TYPES[name] == tf.float32
        row[name] = list(features[name].float_list.value) if is_float else rows(name)
    for name in HISTORIES:
        row[f"{name}_item_id"] = [ids.items[item] for item in rows(f"{name}_item")]
        row[f"{name}_time"] = rows(f"{name}_time")
    return row


def pad_rows(rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Requests as the inputs of `serving_default`: shorter lists are padded with "" and -1 to the longest."""
    inputs = {}
    for name, first in rows[0].items():
        values = [row[name] for row in rows]
        if isinstance(first, list):
            padding = PADDING if name.endswith("_time") or name in NUMBER_TYPES else ""
            longest = max(len(value) for value in values)
            values = [value + [padding] * (longest - len(value)) for value in values]
        if name in NUMBER_TYPES:
            inputs[name] = np.array(values, NUMBER_TYPES[name].as_numpy_dtype)
        elif name == "timestamp" or name.endswith("_time"):
            inputs[name] = np.array(values, np.int64)
        else:
            texts = np.array(values, object)
            encoded = np.array([text.encode() for text in texts.ravel()], object)
            inputs[name] = encoded.reshape(texts.shape)
    return inputs


def scores_in_process(ranker: Ranker, records: Sequence[bytes]) -> list[np.ndarray]:
    """The scores of page records without any serving: one array per page, one score per candidate."""
    parsed = parse_pages(tf.constant(records), ranker.config.lengths)
    page = {f.name: parsed[f.name] for f in FEATURES if not f.is_label}
    scores = ranker(page)["ctr"].numpy()
    return [row[item != PADDING] for row, item in zip(scores, page["item"].numpy(), strict=True)]
