"""Golden requests: recorded requests and their scores that travel with a SavedModel, to repeat wherever it runs."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

GOLDEN_FILE = "assets.extra/golden_requests"


class GoldenRequest(NamedTuple):
    """A request and its answer.

    Attributes:
        signature: its name.
        inputs, outputs: by name.
    """

    signature: str
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


def write_golden(version: Path, requests: Iterable[GoldenRequest]) -> None:
    """Adds golden requests to a SavedModel, as `PredictionLog`s with their responses in a TFRecord file.

    Args:
        version: the SavedModel's directory.
        requests: what to record.
    """
    path = version / GOLDEN_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for golden in requests:
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.model_spec.signature_name = golden.signature
            for tensors, values in (
                (log.predict_log.request.inputs, golden.inputs),
                (log.predict_log.response.outputs, golden.outputs),
            ):
                for name, value in values.items():
                    tensors[name].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString(deterministic=True))


def read_golden(version: Path) -> list[GoldenRequest]:
    """The golden requests of a SavedModel. Empty if it has none."""
    path = version / GOLDEN_FILE
    if not path.is_file():
        return []
    requests = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record).predict_log
        inputs, outputs = (
            {name: tf.make_ndarray(value) for name, value in tensors.items()}
            for tensors in (log.request.inputs, log.response.outputs)
        )
        requests.append(GoldenRequest(log.request.model_spec.signature_name, inputs, outputs))
    return requests
