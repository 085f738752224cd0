"""TensorFlow Serving's gRPC services: `PredictionService` and `ModelService`."""

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
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
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from beam_pipelines.format.errors import ConfigurationError
from export.server.admission import Deadline
from export.server.health_service import health_handler
from export.server.model_config import model_configs
from export.server.predict import ModelCall, Predictor, PredictRequest
from export.server.reflection_service import reflection_handlers
from export.server.servable import DEFAULT_SIGNATURE, Servable
from export.server.served_models import ModelSpec, ServedModels
from export.server.serving_error import ServingError

_LOG = logging.getLogger("export.serve")
_SPARE_WORKERS = 8  # for requests that are refused, and for those that run no model
_NO_DEADLINE = 1e9  # seconds
_MAX_MESSAGE = 1024  # characters of an error, as in TensorFlow Serving


class GrpcServer:
    """Answers for models over gRPC, from the moment it is made until `stop`.

    Args:
        predictor: of the models; requests beyond its limits are refused with RESOURCE_EXHAUSTED.
        address: to listen on, `host:port`.

    Raises:
        RuntimeError: the port cannot be used.
    """

    def __init__(self, predictor: Predictor, address: str) -> None:
        models, queue = predictor.models, predictor.queue
        options = [
            ("grpc.max_receive_message_length", predictor.limits.request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a port in use is an error, not a share of its requests
        ]
        workers = queue.running + queue.waiting + _SPARE_WORKERS  # so that the queue decides who waits
        self._server = grpc.server(futures.ThreadPoolExecutor(workers, "grpc"), options=options)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_PredictionService(predictor), self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(models), self._server)
        self._server.add_generic_rpc_handlers((health_handler(lambda: models.is_serving), *reflection_handlers()))
        self._server.add_insecure_port(address)
        self._server.start()

    def stop(self, grace: float) -> None:
        """Refuses new requests and waits up to `grace` seconds for those in progress."""
        self._server.stop(grace).wait()


def _answer(
    method: Callable[[Any, Any, grpc.ServicerContext], message.Message],
) -> Callable[[Any, Any, grpc.ServicerContext], Any]:
    """Turns a method that raises `ServingError` into one of a gRPC service."""

    @functools.wraps(method)
    def answered(self: Any, request: Any, context: grpc.ServicerContext) -> message.Message:
        try:
            return method(self, request, context)
        except ServingError as error:
            code, text = error.code, error.message
        except Exception:
            _LOG.exception("%s failed", method.__name__)
            code, text = grpc.StatusCode.INTERNAL, "internal error, see the server's log"
        context.abort(code, text[:_MAX_MESSAGE])

    return answered


@_answer
def _not_served(self: Any, request: Any, context: grpc.ServicerContext) -> message.Message:
    raise ServingError(grpc.StatusCode.UNIMPLEMENTED, "not served here; use PredictionService.Predict")


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    Classify = Regress = MultiInference = _not_served

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    @_answer
    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        deadline = Deadline(_seconds(context), context.is_active)
        return self._predictor.predict(_GrpcPredict(request, deadline, self._predictor.limits.request_bytes))

    @_answer
    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if not request.metadata_field:
            raise ServingError(
                grpc.StatusCode.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != "signature_def":
                raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, f"Metadata field {field} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        with self._predictor.models.lease(*_requested(request.model_spec)) as servable:
            response.model_spec.version.value = servable.version
            signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signature_defs)
        response.metadata["signature_def"].Pack(signatures)
        return response


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, models: ServedModels) -> None:
        self._models = models

    @_answer
    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        return self._models.status(*_requested(request.model_spec))

    @_answer
    def HandleReloadConfigRequest(
        self, request: model_management_pb2.ReloadConfigRequest, context: grpc.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        try:
            self._models.reload(model_configs(request.config))
        except ConfigurationError as error:
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()  # present and empty: error code OK
        return response


class _GrpcPredict(PredictRequest[predict_pb2.PredictResponse]):
    """A `PredictRequest` and its response."""

    entrypoint = "GRPC"

    def __init__(self, request: predict_pb2.PredictRequest, deadline: Deadline, max_bytes: int) -> None:
        self.model = _requested(request.model_spec)
        self.deadline = deadline
        self._request = request
        self._max_bytes = max_bytes

    def read(self, servable: Servable) -> ModelCall:
        request = self._request
        inputs = {name: _ProtoInput(name, proto, self._max_bytes) for name, proto in request.inputs.items()}
        return ModelCall(request.model_spec.signature_name, inputs, request.output_filter)

    def write(self, servable: Servable, outputs: Mapping[str, np.ndarray]) -> predict_pb2.PredictResponse:
        response = predict_pb2.PredictResponse()
        response.model_spec.name = self.model.name
        response.model_spec.version.value = servable.version
        response.model_spec.signature_name = self._request.model_spec.signature_name or DEFAULT_SIGNATURE
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response


class _ProtoInput:
    """An input as a `TensorProto`, whose values become an array of at most `max_bytes`."""

    def __init__(self, name: str, proto: tensor_pb2.TensorProto, max_bytes: int) -> None:
        self._name = name
        self._proto = proto
        self._max_bytes = max_bytes

    @property
    def dtype(self) -> int:
        return self._proto.dtype

    @functools.cached_property
    def shape(self) -> Sequence[int]:
        sizes = [dim.size for dim in self._proto.tensor_shape.dim]
        if min(sizes, default=0) < 0 or self._proto.tensor_shape.unknown_rank:
            raise self._invalid(f"shape {sizes}")
        return sizes

    def to_array(self) -> np.ndarray:
        self._check_filling()
        try:
            return tf.make_ndarray(self._proto)
        except (TypeError, ValueError) as error:
            raise self._invalid(str(error)) from error

    def _check_filling(self) -> None:
        """Refuses a tensor of a few bytes that stands for many: the last value fills the rest of its shape."""
        texts = self._proto.string_val
        if texts and (math.prod(self.shape) - len(texts)) * len(texts[-1]) > self._max_bytes:
            raise ServingError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"Input {self._name} of shape {self.shape} is larger than {self._max_bytes} bytes",
            )

    def _invalid(self, reason: str) -> ServingError:
        return ServingError(
            grpc.StatusCode.INVALID_ARGUMENT, f"Input {self._name} is not a valid TensorProto: {reason}"
        )


def _seconds(context: grpc.ServicerContext) -> float | None:
    """Seconds until the client's deadline; `None` if it has set none, which gRPC tells as a very long time."""
    seconds = context.time_remaining()
    return seconds if seconds is not None and math.isfinite(seconds) and seconds < _NO_DEADLINE else None


def _requested(spec: model_pb2.ModelSpec) -> ModelSpec:
    choice = spec.WhichOneof("version_choice")
    version = spec.version.value if choice == "version" else None
    label = spec.version_label if choice == "version_label" else None
    return ModelSpec(spec.name, version, label or None)
