"""gRPC's standard health check, `grpc.health.v1.Health`, as TensorFlow Serving answers it."""

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVING, NOT_SERVING = 1, 2
_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")


def health_proto() -> descriptor_pb2.FileDescriptorProto:
    """What `health.proto` declares, as far as it is served."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="grpc/health/v1/health.proto", package="grpc.health.v1")
    file.syntax = "proto3"
    optional = field.LABEL_OPTIONAL
    request = file.message_type.add(name="HealthCheckRequest")
    request.field.add(name="service", number=1, type=field.TYPE_STRING, label=optional)
    response = file.message_type.add(name="HealthCheckResponse")
    statuses = response.enum_type.add(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        statuses.value.add(name=name, number=number)
    kind = ".grpc.health.v1.HealthCheckResponse.ServingStatus"
    response.field.add(name="status", number=1, type=field.TYPE_ENUM, type_name=kind, label=optional)
    service = file.service.add(name="Health")
    prefix = ".grpc.health.v1.HealthCheck"
    service.method.add(name="Check", input_type=f"{prefix}Request", output_type=f"{prefix}Response")
    return file


def _messages() -> tuple[Any, Any]:
    """`HealthCheckRequest` and `HealthCheckResponse`.

    In a pool of their own, so that they do not meet those of the package `grpcio-health-checking`, which is not needed.
    """
    pool = descriptor_pool.DescriptorPool()
    pool.Add(health_proto())
    request, response = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"grpc.health.v1.{name}"))
        for name in ("HealthCheckRequest", "HealthCheckResponse")
    )
    return request, response


HealthCheckRequest, HealthCheckResponse = _messages()


def health_handler(is_serving: Callable[[], bool]) -> grpc.GenericRpcHandler:
    """The service's `Check`. `Watch` is unimplemented, which clients must expect: each would hold a thread.

    Args:
        is_serving: whether every model answers.
    """

    def check(request: Any, context: grpc.ServicerContext) -> Any:
        if request.service not in _SERVICES:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return HealthCheckResponse(status=SERVING if is_serving() else NOT_SERVING)

    method = grpc.unary_unary_rpc_method_handler(
        check, HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method})
