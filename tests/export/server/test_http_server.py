import contextlib
import re
import socket
import threading
import time

import pytest

from export.server.http_response import HttpResponse
from export.server.http_server import HttpServer

MAX_BODY = 100_000


class Echo:
    """Answers with what it has understood, and takes its time where a path says so."""

    def __init__(self):
        self.asked = threading.Event()
        self.finish = threading.Event()

    def answer(self, request):
        if request.path == "/slow":
            self.asked.set()
            self.finish.wait(10)
        if request.path == "/large":
            return HttpResponse(200, bytes(50_000_000))
        return HttpResponse.of_text(200, f"{request.method} {request.path} {request.body.decode()}", "text/plain")

    def refuse(self, error, fields):
        return HttpResponse.of_error(error.status, error.message)


@contextlib.contextmanager
def serving(**seconds):
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    address = listening.getsockname()
    service = Echo()
    server = HttpServer([listening], service, MAX_BODY, **seconds)
    try:
        yield address, service, server
    finally:
        server.stop(1)


@pytest.fixture(scope="module")
def address():
    with serving() as (address, _, _):
        yield address


def received(connection):
    """Everything up to the end of the connection."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def answers(data):
    """Status, body and `Connection` of each of several answers."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        size = int(re.search(rb"Content-Length: (\d+)", head)[1])
        connection = re.search(rb"Connection: (\S+)", head)
        found.append((int(head[9:12]), data[:size].decode(), connection and connection[1].decode()))
        data = data[size:]
    return found


def exchange(address, data):
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return answers(received(connection))


POST = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
CHUNKED = b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n"
LAST = b"GET /c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def test_requests_that_do_not_wait_for_answers_get_them_in_order(address):
    found = exchange(address, POST + CHUNKED + POST + LAST + POST)
    assert found == [
        (200, "POST /a abc", None),
        (200, "POST /b de", None),
        (200, "POST /a abc", None),
        (200, "GET /c ", "close"),
    ]


def test_an_answer_has_its_date_and_length(address):
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(LAST)
        head, _, body = received(connection).partition(b"\r\n\r\n")
    assert body == b"GET /c "
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    assert re.fullmatch(r"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", lines[1])
    assert lines[2:] == ["Content-Type: text/plain", "Content-Length: 7", "Connection: close"]


def test_an_answer_to_head_has_no_body(address):
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n" + LAST)
        first, second, body = received(connection).split(b"\r\n\r\n")
    assert b"Content-Length: 8" in first
    assert second.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"GET /c "


def test_clients_of_http_1_0_are_told_whether_the_connection_is_kept(address):
    assert exchange(address, b"GET /a HTTP/1.0\r\n\r\n" * 2) == [(200, "GET /a ", "close")]
    kept = exchange(address, b"GET /a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n" * 2)
    assert kept == [(200, "GET /a ", "keep-alive")] * 2


def test_the_client_is_told_to_go_on_before_it_sends_the_body(address):
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(POST.removesuffix(b"\r\nabc") + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"abc")
        assert answers(connection.recv(1 << 16)) == [(200, "POST /a abc", None)]


def test_an_error_ends_the_connection(address):
    found = exchange(address, POST + b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc" + LAST)
    assert [status for status, _, _ in found] == [200, 400]
    assert found[1][1:] == ('{"error": "A request of HTTP/1.1 needs the header field Host"}', "close")


@pytest.mark.parametrize("asks_first", [False, True])
def test_a_client_that_sends_everything_before_it_reads_gets_the_refusal(address, asks_first):
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % (3 * MAX_BODY)
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head + (b"Expect: 100-continue\r\n\r\n" if asks_first else b"\r\n"))
        if not asks_first:
            connection.sendall(b"x" * 3 * MAX_BODY)
        assert answers(received(connection)) == [(413, '{"error": "The request is larger than 100000 bytes"}', "close")]


def test_bytes_may_come_one_by_one(address):
    with socket.create_connection(address, timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in CHUNKED + LAST:
            connection.sendall(bytes([byte]))
        assert answers(received(connection)) == [(200, "POST /b de", None), (200, "GET /c ", "close")]


def test_a_request_that_does_not_arrive_is_given_up():
    with serving(request_seconds=0.3) as (address, _, _), socket.create_connection(address, timeout=10) as connection:
        with contextlib.suppress(ConnectionError):
            for byte in POST[:30]:  # each in time, but not all of them
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        text = '{"error": "The request has not arrived within 0.3 seconds"}'
        assert answers(received(connection)) == [(408, text, "close")]


def test_an_answer_that_is_not_taken_is_given_up():
    with serving(request_seconds=0.3) as (address, _, server), socket.create_connection(address, timeout=10) as slow:
        slow.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.6)
        start = time.monotonic()
        server.stop(10)  # nothing is in progress any more
        assert time.monotonic() - start < 5
        with contextlib.suppress(ConnectionError):
            assert len(received(slow)) < 50_000_000


def test_a_connection_without_requests_is_ended():
    with serving(idle_seconds=0.2) as (address, _, _), socket.create_connection(address, timeout=10) as connection:
        connection.sendall(POST)
        assert answers(received(connection)) == [(200, "POST /a abc", None)]


def test_stopping_answers_what_is_in_progress_and_ends_idle_connections():
    with serving() as (address, service, server), socket.create_connection(address, timeout=10) as idle:
        idle.sendall(POST)
        assert answers(idle.recv(1 << 16)) == [(200, "POST /a abc", None)]
        with socket.create_connection(address, timeout=10) as busy:
            busy.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            assert service.asked.wait(10)
            stopping = threading.Thread(target=server.stop, args=(10,))
            stopping.start()
            time.sleep(0.2)
            with pytest.raises(ConnectionError):
                socket.create_connection(address, timeout=10).close()
            service.finish.set()
            assert answers(received(busy)) == [(200, "GET /slow ", "close")]
        stopping.join()
        assert received(idle) == b""


def test_several_addresses_are_listened_on():
    sockets = [socket.socket(), socket.socket()]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [each.getsockname() for each in sockets]
    server = HttpServer(sockets, Echo(), MAX_BODY)
    for address in addresses:
        assert exchange(address, LAST) == [(200, "GET /c ", "close")]
    server.stop(1)
