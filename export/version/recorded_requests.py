"""Requests that travel with a SavedModel, as `PredictionLog`s in TFRecord files.

TensorFlow Serving runs the warm-up requests before a version takes traffic. Golden requests have their scores with
them, to repeat wherever the version runs.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
GOLDEN_FILE = "assets.extra/golden_requests"


class WarmupRequest(NamedTuple):
    """A request.

    Attributes:
        signature: its name.
        inputs: by name.
    """

    signature: str
    inputs: Mapping[str, np.ndarray]


class GoldenRequest(NamedTuple):
    """A request and its answer.

    Attributes:
        signature: its name.
        inputs, outputs: by name.
    """

    signature: str
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


def write_warmup(version: Path, requests: Iterable[WarmupRequest]) -> None:
    """Adds warm-up requests to a SavedModel.

    Args:
        version: the SavedModel's directory.
        requests: in the order in which they are to be run.
    """
    _write(version / WARMUP_FILE, (GoldenRequest(*request, outputs={}) for request in requests))


def read_warmup(version: Path) -> list[WarmupRequest]:
    """The warm-up requests of a SavedModel. Empty if it has none."""
    return [WarmupRequest(request.signature, request.inputs) for request in _read(version / WARMUP_FILE)]


def write_golden(version: Path, requests: Iterable[GoldenRequest]) -> None:
    """Adds golden requests to a SavedModel.

    Args:
        version: the SavedModel's directory.
        requests: what to record.
    """
    _write(version / GOLDEN_FILE, requests)


def read_golden(version: Path) -> list[GoldenRequest]:
    """The golden requests of a SavedModel. Empty if it has none."""
    return _read(version / GOLDEN_FILE)


def _write(file: Path, requests: Iterable[GoldenRequest]) -> None:
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.model_spec.signature_name = request.signature
            for tensors, values in (
                (log.predict_log.request.inputs, request.inputs),
                (log.predict_log.response.outputs, request.outputs),
            ):
                for name, value in values.items():
                    tensors[name].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString(deterministic=True))


def _read(file: Path) -> list[GoldenRequest]:
    if not file.is_file():
        return []
    requests = []
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record).predict_log
        inputs, outputs = (
            {name: tf.make_ndarray(value) for name, value in tensors.items()}
            for tensors in (log.request.inputs, log.response.outputs)
        )
        requests.append(GoldenRequest(log.request.model_spec.signature_name, inputs, outputs))
    return requests
