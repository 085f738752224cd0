import queue

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2

from tests.export.toy_server import GOOD_REQUEST, serve_toy

SERVICES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "tensorflow.serving.ModelService",
    "tensorflow.serving.PredictionService",
]
Request = reflection_pb2.ServerReflectionRequest


@pytest.fixture(scope="module")
def channel(toy_saved_model, tmp_path_factory):
    base = tmp_path_factory.mktemp("reflection")
    (base / "1").symlink_to(toy_saved_model)
    served = serve_toy(base, root=toy_saved_model.parent.parent)
    with served as (_, listening), grpc.insecure_channel(listening.grpc) as channel:
        yield channel


def reflect(channel, requests, version="v1alpha"):
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        Request.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    return call(requests, timeout=10)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_the_services_are_listed(channel, version):
    (response,) = reflect(channel, iter([Request(list_services="")]), version)
    assert [service.name for service in response.list_services_response.service] == SERVICES


def messages(channel, symbol):
    """A pool of what a client is told of a symbol, and nothing else."""
    (response,) = reflect(channel, iter([Request(file_containing_symbol=symbol)]))
    files = {}
    for data in response.file_descriptor_response.file_descriptor_proto:
        file = descriptor_pb2.FileDescriptorProto.FromString(data)
        files[file.name] = file
    pool = descriptor_pool.DescriptorPool()

    def add(name):
        if name in files:
            file = files.pop(name)
            for needed in file.dependency:
                add(needed)
            pool.Add(file)

    for name in list(files):
        add(name)
    return pool


@pytest.mark.parametrize("service", SERVICES)
def test_a_client_can_call_a_service_by_what_it_is_told(channel, service):
    pool = messages(channel, service)
    described = pool.FindServiceByName(service)
    assert described.methods
    if service == "tensorflow.serving.PredictionService":
        method = described.methods_by_name["Predict"]
        request, response = (message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type))
        call = channel.unary_unary(
            f"/{service}/Predict", lambda text: request.FromString(text).SerializeToString(), response.FromString
        )
        assert call(GOOD_REQUEST.SerializeToString(), timeout=10).model_spec.name == "toy"
    if service == "grpc.health.v1.Health":
        method = described.methods_by_name["Check"]
        request, response = (message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type))
        call = channel.unary_unary(f"/{service}/Check", request.SerializeToString, response.FromString)
        assert call(request(), timeout=10).status == 1


def test_what_is_unknown_is_said_to_be(channel):
    (response,) = reflect(channel, iter([Request(file_containing_symbol="no.Such")]))
    assert response.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_clients_that_never_end_do_not_take_all_threads(channel):
    listing = Request(list_services="")
    clients = [queue.Queue() for _ in range(4)]
    streams = [reflect(channel, iter(client.get, None)) for client in clients]
    for client, stream in zip(clients, streams, strict=True):
        client.put(listing)
        next(stream)
    with pytest.raises(grpc.RpcError, match="4 clients ask already"):
        next(reflect(channel, iter([listing])))
    for client, stream in zip(clients, streams, strict=True):
        client.put(None)
        assert list(stream) == []
    assert next(reflect(channel, iter([listing])))
