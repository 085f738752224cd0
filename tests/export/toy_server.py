"""A small model and everything to serve it and ask it, shared by the tests of the server."""

import contextlib
import json
import urllib.error
import urllib.request

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from export.server.admission import RequestLimits, RequestQueue
from export.server.endpoint import Endpoint
from export.server.model_config import ModelConfig
from export.server.ports import Ports
from export.server.served_models import ServedModels

MAX_REQUEST_BYTES = 200_000
FIELDS = ("name", "amount", "counts")


class Toy(tf.Module):
    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "name"),
            tf.TensorSpec([None], tf.float32, "amount"),
            tf.TensorSpec([None, None], tf.int64, "counts"),
        ]
    )
    def default(self, name, amount, counts):
        score = amount * 2 + tf.cast(tf.reduce_sum(counts, axis=1), tf.float32)
        return {"score": score, "name_bytes": name}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "row")])
    def pick(self, row):
        return {"value": tf.gather([10.0, 20.0, 30.0], row)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def total(self, x):
        return {"sum": tf.reduce_sum(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x"), tf.TensorSpec([None], tf.float32, "factor")])
    def scale(self, x, factor):
        return {"scaled": x * factor}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64, "steps")])
    def count(self, steps):
        counted = tf.constant(0, tf.int64)
        while counted < steps:
            counted += 1
        return {"counted": counted}


STEPS = 150_000  # about a second


def save_toy(path):
    """Writes the model; the input `factor` of its signature `scale` has a default."""
    toy = Toy()
    signatures = {name: getattr(toy, name) for name in ("pick", "total", "scale", "count")}
    tf.saved_model.save(toy, str(path), signatures={"serving_default": toy.default, **signatures})
    file = path / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    definition = saved_model.meta_graphs[0].signature_def["scale"]
    definition.defaults["factor"].CopyFrom(tf.make_tensor_proto(np.array([2], np.float32)))
    file.write_bytes(saved_model.SerializeToString())


@contextlib.contextmanager
def serve_toy(base_path, limits=None, queue=None, cross_origin=None, **options):
    """Serves the versions in `base_path` on free ports; yields the models and where the server listens."""
    chosen = {name: options.pop(name) for name in ("policy", "labels") if name in options}
    config = ModelConfig("toy", base_path, **chosen)
    models = ServedModels([config], options.pop("root", base_path), **{"poll_seconds": 0, **options})
    limits = limits or RequestLimits(request_bytes=MAX_REQUEST_BYTES)
    queue = queue or RequestQueue(4, 32)
    with Endpoint(
        models, Ports(port=0, rest_port=0), limits=limits, queue=queue, cross_origin=cross_origin
    ) as endpoint:
        yield models, endpoint.listening


@contextlib.contextmanager
def prediction_stub(listening):
    with grpc.insecure_channel(listening.grpc) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request_proto(inputs, name="toy", signature="", version=None, label=None, output_filter=()):
    request = predict_pb2.PredictRequest(output_filter=output_filter)
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(
            value if isinstance(value, tensor_pb2.TensorProto) else tf.make_tensor_proto(value)
        )
    return request


def rest(endpoint, path, body=None, method=None):
    """Status and document of a request; `path` is relative to the server."""
    root = endpoint.rest.removesuffix("/v1/models/toy")
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(root + path, data=data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text)["error"] if text else ""


GOOD = {"name": [b"a", b"b"], "amount": np.array([1, 2], np.float32), "counts": np.array([[1, 2], [3, 4]])}
GOOD_REQUEST = request_proto(GOOD)
GOOD_ROWS = [{"name": "a", "amount": 1, "counts": [1, 2]}, {"name": "b", "amount": 2.0, "counts": [3, 4]}]
