"""The example pages of a ranker's run: as Beam wrote them, as requests, and as the ranker itself scores them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf

from beam_pipelines.format.errors import about
from beam_pipelines.format.manifest import ids_sha256
from beam_pipelines.format.records import FEATURES, HISTORIES
from beam_pipelines.shell.command import CommandError
from export.version.inputs import CLUSTER_ID, NUMBER_TYPES, RequestInput
from models.artifact import read_metadata
from models.data.pages import GROUPS, PADDING, parse_pages
from models.ranker.ranker import Ranker
from models.ranker.run import EXAMPLE_PAGES_FILE, ITEMS_FILE, USERS_FILE, RankerMetadata

MAX_DIFFERENCE = 1e-6
"""Largest difference allowed between the score that a client gets and the score of the ranker in process."""

_TOGETHER = 32


class RowIds(NamedTuple):
    """The string IDs by row, of the tables that a ranker refers to."""

    items: list[str]
    users: list[str]


def read_row_ids(run: Path) -> RowIds:
    """Reads the IDs that a ranker's run keeps.

    Raises:
        CommandError: they are missing, or not those that the ranker was trained with.
    """
    with about("model"):
        metadata = read_metadata(RankerMetadata, run, "models.train_ctr")
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
    if name in ("timestamp", CLUSTER_ID) or name.endswith("_time"):
        return tf.int64, PADDING
    listed = [each for value in values for each in (value if isinstance(value, list) else [value])]
    return (tf.float32, float("nan")) if listed and not isinstance(listed[0], str) else (tf.string, "")


def complete(inputs: Mapping[str, np.ndarray], request_inputs: Mapping[str, RequestInput]) -> dict[str, np.ndarray]:
    """Adds the inputs that are left out as ones that are not given, for servers that know no defaults."""
    pages = len(inputs["user_id"])
    whole = dict(inputs)
    for name, each in request_inputs.items():
        if name not in whole:
            value = each.default().numpy()
            whole[name] = np.broadcast_to(value, (pages, *value.shape[1:]))
    return whole


def as_instances(inputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Inputs as the `instances` of TensorFlow Serving's row format."""
    columns = {name: _texts(value) if value.dtype == object else value.tolist() for name, value in inputs.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _texts(values: np.ndarray) -> list[Any]:
    return np.array([value.decode() for value in values.ravel()], object).reshape(values.shape).tolist()


class ScoredPages(NamedTuple):
    """Pages and what the ranker says of them without any serving.

    Attributes:
        rows, records: the pages as requests, see `request_row`, and as page records.
        outputs: by page, the outputs by name, one value per candidate each.
    """

    rows: list[dict[str, Any]]
    records: list[bytes]
    outputs: list[dict[str, np.ndarray]]

    @classmethod
    def of(cls, ranker: Ranker, ids: RowIds, records: Sequence[bytes]) -> "ScoredPages":
        """Scores page records."""
        rows = [request_row(record, ids, ranker.config.features.candidate) for record in records]
        return cls(rows, list(records), outputs_in_process(ranker, records))

    def some(self, pages: slice) -> "ScoredPages":
        """Some of the pages."""
        return ScoredPages(*(column[pages] for column in self))


def outputs_in_process(ranker: Ranker, records: Sequence[bytes]) -> list[dict[str, np.ndarray]]:
    """What the ranker says of page records without any serving, read as in training: by page its outputs, one value per
    candidate each."""
    longest = max(len(_feature(record, "item").int64_list.value) for record in records)
    lengths = ranker.config.lengths.model_copy(update={"candidates": longest})
    batches = tf.data.Dataset.from_tensor_slices(list(records)).batch(_TOGETHER)
    pages = []
    for page in batches.map(lambda serialized: parse_pages(serialized, lengths, to_longest=GROUPS)):
        outputs = ranker({f.name: page[f.name] for f in FEATURES if not f.is_label})
        for n, item in enumerate(page["item"].numpy()):
            present = item != PADDING
            pages.append({name: values.numpy()[n][present] for name, values in outputs.items()})
    return pages


def scores_in_process(ranker: Ranker, records: Sequence[bytes]) -> list[np.ndarray]:
    """The click probabilities of `outputs_in_process`, by page."""
    return [outputs["ctr"] for outputs in outputs_in_process(ranker, records)]


def _feature(record: bytes, name: str) -> tf.train.Feature:
    return tf.train.Example.FromString(record).features.feature[name]
