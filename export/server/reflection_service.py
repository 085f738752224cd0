"""gRPC's server reflection: grpcurl, grpcui and Postman ask it which services there are, and what these take."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import ReflectionServicer
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from export.server.health_service import health_proto

_MAX_STREAMS = 4
"""Clients that may ask at a time: each holds a thread for as long as it likes."""
_VERSIONS = ("v1", "v1alpha")
"""The names of the service, whose messages are the same; clients ask for the first and fall back to the second."""

# `prediction_service_pb2` and `model_service_pb2` cannot be imported with the runtime of Protocol Buffers 4.
_METHODS: dict[str, dict[str, tuple[Any, Any]]] = {
    "PredictionService": {
        "Classify": (classification_pb2.ClassificationRequest, classification_pb2.ClassificationResponse),
        "Regress": (regression_pb2.RegressionRequest, regression_pb2.RegressionResponse),
        "Predict": (predict_pb2.PredictRequest, predict_pb2.PredictResponse),
        "MultiInference": (inference_pb2.MultiInferenceRequest, inference_pb2.MultiInferenceResponse),
        "GetModelMetadata": (
            get_model_metadata_pb2.GetModelMetadataRequest,
            get_model_metadata_pb2.GetModelMetadataResponse,
        ),
    },
    "ModelService": {
        "GetModelStatus": (get_model_status_pb2.GetModelStatusRequest, get_model_status_pb2.GetModelStatusResponse),
        "HandleReloadConfigRequest": (
            model_management_pb2.ReloadConfigRequest,
            model_management_pb2.ReloadConfigResponse,
        ),
    },
}
_FILES = {
    "PredictionService": "tensorflow_serving/apis/prediction_service.proto",
    "ModelService": "tensorflow_serving/apis/model_service.proto",
}
_PACKAGE = "tensorflow.serving"


def reflection_handlers() -> list[grpc.GenericRpcHandler]:
    """The service under each of its names."""
    names = [f"grpc.reflection.{version}.ServerReflection" for version in _VERSIONS]
    served = [*(f"{_PACKAGE}.{name}" for name in _METHODS), "grpc.health.v1.Health", *names]
    servicer = ReflectionServicer(served, _pool())
    places = threading.Semaphore(_MAX_STREAMS)

    def info(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        if not places.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_MAX_STREAMS} clients ask already; try again later")
        try:
            yield from servicer.ServerReflectionInfo(requests, context)
        finally:
            places.release()

    method = grpc.stream_stream_rpc_method_handler(
        info,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}) for name in names]


def _pool() -> descriptor_pool.DescriptorPool:
    """All that is served, with the messages that it takes and gives."""
    pool = descriptor_pool.DescriptorPool()
    known: set[str] = set()
    for name, methods in _METHODS.items():
        file = descriptor_pb2.FileDescriptorProto(name=_FILES[name], package=_PACKAGE, syntax="proto3")
        service = file.service.add(name=name)
        for method, messages in methods.items():
            request, response = (f".{message.DESCRIPTOR.full_name}" for message in messages)
            service.method.add(name=method, input_type=request, output_type=response)
            for message in messages:
                _add(pool, message.DESCRIPTOR.file, known)
        file.dependency.extend(sorted({each.DESCRIPTOR.file.name for pair in methods.values() for each in pair}))
        pool.Add(file)
    pool.Add(health_proto())
    alpha = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    for version in _VERSIONS:
        text = text_format.MessageToString(alpha).replace("v1alpha", version)
        pool.Add(text_format.Parse(text, descriptor_pb2.FileDescriptorProto()))
    return pool


def _add(pool: descriptor_pool.DescriptorPool, file: Any, known: set[str]) -> None:
    """Adds a file after those that it needs."""
    if file.name in known:
        return
    known.add(file.name)
    for needed in file.dependencies:
        _add(pool, needed, known)
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    pool.Add(proto)
