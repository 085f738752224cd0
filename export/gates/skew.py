"""Train / serve skew: what clients get for logged pages, against the ranker reading them as in training."""

import base64
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError, about
from beam_pipelines.format.location import Location
from beam_pipelines.format.records import HISTORIES
from export.gates.loopback_server import LoopbackServer
from export.gates.version_check import largest_difference
from export.version.inputs import RequestInput
from export.version.reference_pages import ReferencePages
from export.version.request_rows import as_instances, complete, pad_rows
from models.data.dataset import Dataset
from models.ranker.run import RankerMetadata, RankerRun

_TOGETHER = 16
_ALTERED = 8


class LoggedPages(NamedTuple):
    """Pages to compare on.

    Attributes:
        records: serialized.
        source: where they come from, for people.
    """

    records: list[bytes]
    source: str


def has_tables_of(data: Location | str, run: Location | str) -> bool:
    """Whether a dataset has the items and users that a ranker was trained with."""
    with about("model"):
        metadata = RankerRun(run).metadata
    return _has_tables_of(Dataset(data), metadata)


def logged_pages(dataset: Dataset | None, run: RankerRun, count: int) -> LoggedPages:
    """Reads pages of a dataset: the first ones of each shard of its test split, or of its train split without one.

    Args:
        dataset: the dataset; `None` for the example pages that the ranker's run keeps.
        run: the ranker's run.
        count: how many, at most.

    Raises:
        ArtifactError: the dataset has other items or users than the ranker.
    """
    if dataset is None:
        return LoggedPages(run.example_records()[:count], f"example pages in {run.path}")
    if not _has_tables_of(dataset, run.metadata):
        raise ArtifactError(f"{dataset.path} has other items or users than those that {run.path} was trained with")
    split = "test" if "test" in dataset.manifest.splits else "train"
    shards = dataset.shard_paths(split)
    records: list[bytes] = []
    for number, shard in enumerate(shards):
        share = (count - len(records)) // (len(shards) - number)  # so that all shards have a part
        records += islice(tf.data.TFRecordDataset(shard).as_numpy_iterator(), share)
    return LoggedPages(records, f"{split} pages of {dataset.path}")


def altered_pages(records: Sequence[bytes], unknown_item: int) -> list[bytes]:
    """A few of the pages without histories, and again with unknown users and items."""
    altered = []
    for record in records[:_ALTERED]:
        example = tf.train.Example.FromString(record)
        for name in HISTORIES:
            for part in ("item", "time"):
                example.features.feature[f"{name}_{part}"].int64_list.Clear()
        altered.append(example.SerializeToString())
    for record in records[:_ALTERED]:
        example = tf.train.Example.FromString(record)
        example.features.feature["user"].int64_list.value[:] = [-1]
        for name in ("item", *(f"{history}_item" for history in HISTORIES)):
            values = example.features.feature[name].int64_list.value
            values[:] = [unknown_item] * len(values)
        altered.append(example.SerializeToString())
    return altered


def check_skew(server: LoopbackServer, pages: ReferencePages, inputs: Mapping[str, RequestInput]) -> dict[str, float]:
    """Asks a server for pages through both signatures, over gRPC and REST.

    Args:
        server: the server.
        pages: what to ask for.
        inputs: of the signature `serving_default`.

    Returns:
        By way of asking, the largest difference.

    Raises:
        VersionError: a score differs, or the server answers with an error.
    """
    largest = dict.fromkeys(("gRPC serving_default", "REST serving_default", "gRPC tf_example", "REST tf_example"), 0.0)
    for start in range(0, len(pages.rows), _TOGETHER):
        batch = pages.select(slice(start, start + _TOGETHER))
        tensors = complete(pad_rows(batch.rows), inputs)
        encoded = [{"b64": base64.b64encode(record).decode()} for record in batch.records]
        answers = {
            "gRPC serving_default": server.ask_grpc("serving_default", tensors),
            "REST serving_default": server.ask_rest("serving_default", as_instances(tensors)),
            "gRPC tf_example": server.ask_grpc("tf_example", {"examples": np.array(batch.records, object)}),
            "REST tf_example": server.ask_rest("tf_example", encoded),
        }
        for way, answer in answers.items():
            room = next(iter(answer.values())).shape[1]  # `tf_example` has it for so many candidates
            for n, outputs in enumerate(batch.outputs):
                expected = {name: values[:room] for name, values in outputs.items()}
                got = {name: values[n, : len(expected[name])] for name, values in answer.items()}
                largest[way] = max(largest[way], largest_difference(f"{way}, page {start + n}", got, expected))
    return largest


def _has_tables_of(dataset: Dataset, metadata: RankerMetadata) -> bool:
    digests = dataset.manifest.items.ids_sha256, dataset.manifest.users.ids_sha256
    return digests == (metadata.item_ids_sha256, metadata.user_ids_sha256)
