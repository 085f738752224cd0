"""TensorFlow Serving's gRPC services: `PredictionService` and `ModelService`."""

import functools
import logging
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import message
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from export.servable import DEFAULT_SIGNATURE, check_names
from export.served_model import ServedModel
from export.serving_error import ServingError

WORKERS = 8
"""Requests in progress; further ones wait. A session uses all cores for one request, so more would only add memory."""
_MAX_MESSAGE = 1024  # characters of an error, as in TensorFlow Serving


class GrpcServer:
    """Answers for a model over gRPC, from the moment it is made until `stop`.

    Args:
        model: the model.
        host: the interface to listen on.
        port: the port to listen on; 0 takes a free one.
        max_request_bytes: larger requests are refused with RESOURCE_EXHAUSTED.

    Raises:
        RuntimeError: the port cannot be used.
    """

    def __init__(self, model: ServedModel, host: str, port: int, max_request_bytes: int) -> None:
        options = [
            ("grpc.max_receive_message_length", max_request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a port in use is an error, not a share of its requests
        ]
        self._server = grpc.server(futures.ThreadPoolExecutor(WORKERS, "grpc"), options=options)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _PredictionService(model, max_request_bytes), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(model), self._server)
        self.port: int = self._server.add_insecure_port(f"{host}:{port}")
        self._server.start()

    def stop(self, grace: float) -> None:
        """Refuses new requests and waits up to `grace` seconds for those in progress."""
        self._server.stop(grace).wait()


def _answer(method: Callable[[Any, Any], message.Message]) -> Callable[[Any, Any, grpc.ServicerContext], Any]:
    """Turns a method that raises `ServingError` into one of a gRPC service."""

    @functools.wraps(method)
    def answered(self: Any, request: Any, context: grpc.ServicerContext) -> message.Message:
        try:
            return method(self, request)
        except ServingError as error:
            code, text = error.code, error.message
        except Exception:
            logging.exception("%s failed", method.__name__)
            code, text = grpc.StatusCode.INTERNAL, "internal error, see the server's log"
        context.abort(code, text[:_MAX_MESSAGE])

    return answered


@_answer
def _not_served(self: Any, request: Any) -> message.Message:
    raise ServingError(grpc.StatusCode.UNIMPLEMENTED, "not served here; use PredictionService.Predict")


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    Classify = Regress = MultiInference = _not_served

    def __init__(self, model: ServedModel, max_tensor_bytes: int) -> None:
        self._model = model
        self._max_tensor_bytes = max_tensor_bytes

    @_answer
    def Predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        spec = request.model_spec
        servable = self._model.find(*_requested(spec))
        check_names(servable.signature(spec.signature_name).inputs, request.inputs)
        inputs = {name: self._to_array(name, value) for name, value in request.inputs.items()}
        outputs = servable.predict(spec.signature_name, inputs, request.output_filter)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = servable.version
        response.model_spec.signature_name = spec.signature_name or DEFAULT_SIGNATURE
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response

    @_answer
    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if not request.metadata_field:
            raise ServingError(
                grpc.StatusCode.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != "signature_def":
                raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, f"Metadata field {field} is not supported")
        servable = self._model.find(*_requested(request.model_spec))
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = servable.version
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signature_defs)
        response.metadata["signature_def"].Pack(signatures)
        return response

    def _to_array(self, name: str, proto: tensor_pb2.TensorProto) -> np.ndarray:
        try:
            dtype = tf.as_dtype(proto.dtype)
            sizes = [dim.size for dim in proto.tensor_shape.dim]
            if min(sizes, default=0) < 0:
                raise ValueError(f"shape {sizes}")
            # A proto of a few bytes may claim any shape: its last value fills the rest.
            if float(np.prod(sizes, dtype=float)) * dtype.size > self._max_tensor_bytes:
                raise ServingError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"Input {name} of shape {sizes} is larger than {self._max_tensor_bytes} bytes",
                )
            return tf.make_ndarray(proto)
        except (TypeError, ValueError) as error:
            raise ServingError(
                grpc.StatusCode.INVALID_ARGUMENT, f"Input {name} is not a valid TensorProto: {error}"
            ) from error


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    HandleReloadConfigRequest = _not_served

    def __init__(self, model: ServedModel) -> None:
        self._model = model

    @_answer
    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        return self._model.status(*_requested(request.model_spec))


def _requested(spec: model_pb2.ModelSpec) -> tuple[str, int | None, str | None]:
    choice = spec.WhichOneof("version_choice")
    version = spec.version.value if choice == "version" else None
    label = spec.version_label if choice == "version_label" else None
    return spec.name, version, label or None
