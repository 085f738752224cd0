"""Warm-up requests that travel with a SavedModel: TensorFlow Serving runs them before a version takes traffic."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"


def write_warmup(version: Path, requests: Iterable[tuple[str, Mapping[str, np.ndarray]]]) -> None:
    """Adds warm-up requests to a SavedModel.

    Args:
        version: the SavedModel's directory.
        requests: signature name and inputs, in the order in which they are to be run.
    """
    path = version / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString())


def read_warmup(version: Path) -> list[tuple[str, dict[str, np.ndarray]]]:
    """The warm-up requests of a SavedModel: signature name and inputs. Empty if it has none."""
    path = version / WARMUP_FILE
    if not path.is_file():
        return []
    requests = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        requests.append((request.model_spec.signature_name, inputs))
    return requests
