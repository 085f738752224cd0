import contextlib
import re
import shutil
import socket
import urllib.request

import grpc
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from beam_pipelines.format.errors import InputError
from export.server.endpoint import Endpoint
from export.server.ports import Ports, host_port
from tests.export.toy_server import GOOD_REQUEST


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def taken():
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_ports_are_taken_and_given_up():
    with Ports(port=0, rest_port=0) as ports:
        assert 0 < ports.port != ports.rest_port > 0
        for port in (ports.port, ports.rest_port):
            with pytest.raises(ConnectionRefusedError):  # nobody listens yet
                socket.create_connection(("127.0.0.1", port))
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
    for port in (ports.port, ports.rest_port):
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))


def test_a_server_may_be_started_again_at_once():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            listening.accept()[0].close()  # who ends a connection first remembers it for a while
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    Ports(port=0, rest_port=port).close()


@pytest.mark.parametrize("name", ["port", "rest_port"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", pytest.param("::", marks=ipv6)])
def test_a_port_in_use_is_named(taken, name, host):
    with pytest.raises(InputError) as caught:
        Ports(host, **{"port": 0, "rest_port": 0, name: taken})
    assert str(caught.value) == f"`{name}`: cannot listen on {host_port(host, taken)}: Address already in use"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"port": 70000}, "`port` must be between 0 and 65535. Received: 70000"),
        ({"rest_port": -1}, "`rest_port` must be between 0 and 65535. Received: -1"),
        ({"port": 8500, "rest_port": 8500}, "`port` and `rest_port` must differ. Received: 8500 for both"),
        ({"host": "192.0.2.1"}, "`host`: cannot listen on 192.0.2.1: Cannot assign requested address"),
        ({"host": "no such host"}, "`host`: 'no such host' cannot be resolved: "),
        ({"host": ""}, "`host`: '' cannot be resolved: "),
        ({"host": "x" * 100}, "cannot be resolved: it is no address and no name of a host"),
    ],
)
def test_what_cannot_be_listened_on_is_named(arguments, text):
    with pytest.raises(InputError, match=re.escape(text)):
        Ports(**{"port": 0, "rest_port": 0, **arguments})


def answers(address, rest):
    """Whether both protocols answer."""
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert stub.Predict(GOOD_REQUEST, timeout=10).outputs
    return urllib.request.urlopen(rest, timeout=10).status == 200


@pytest.mark.parametrize("host", [pytest.param("::1", marks=ipv6), pytest.param("[::]", marks=ipv6), "localhost"])
def test_hosts_of_all_kinds_are_listened_on(toy_saved_model, tmp_path, host):
    shutil.copytree(toy_saved_model, tmp_path / "1")
    with Endpoint.of_base_path(tmp_path, "toy", host=host, port=0, rest_port=0, poll_seconds=0) as endpoint:
        listening = endpoint.listening
        printed = {"::1": "[::1]"}.get(host, host)
        assert listening.grpc.startswith(f"{printed}:")
        assert listening.rest.startswith(f"http://{printed}:")
        assert answers(listening.grpc, listening.rest)
        if host == "[::]":  # of IPv4, too
            addresses = (text.replace("[::]", "127.0.0.1") for text in (listening.grpc, listening.rest))
            assert answers(*addresses)
