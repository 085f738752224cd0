import contextlib
import json
import re
import socket
import time
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import InputError
from export.server.admission import RequestLimits, RequestQueue
from tests.export.toy_server import GOOD_REQUEST, GOOD_ROWS, STEPS, prediction_stub, request_proto, rest, serve_toy

PATH = "/v1/models/toy:predict"
MEGABYTE = 1 << 20
AT_ONCE = 2.0  # seconds, on a busy machine


@pytest.fixture(scope="module")
def base_path(toy_saved_model, tmp_path_factory):
    base = tmp_path_factory.mktemp("bounds")
    (base / "1").symlink_to(toy_saved_model)
    return base


@pytest.fixture
def bounded(base_path, toy_saved_model):
    """A server that runs one request at a time and lets one wait."""
    limits = RequestLimits(request_bytes=MEGABYTE, rest_seconds=1.0)
    root = Path(*[a for a, b in zip(base_path.parts, toy_saved_model.parts, strict=False) if a == b])
    with serve_toy(base_path, limits, RequestQueue(1, 1), root=root) as served:
        yield served


def counting(steps):
    return request_proto({"steps": np.array(steps)}, signature="count")


def runs(models):
    """How often a model was run."""
    matched = re.search(r"^:tensorflow:serving:runtime_latency_count\{.*\} (\d+)$", models.metrics.text(), re.MULTILINE)
    return int(matched[1]) if matched else 0


def resident_megabytes():
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def row(**changes):
    return {"instances": [{**GOOD_ROWS[0], **changes}]}


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (row(name="x" * 2 * MEGABYTE), 413, "larger than 1048576 bytes"),
        (row(counts=[1] * 10_000), 429, "Input counts has shape [1, 10000]; a row may have 4096 values"),
        (row(counts=[1] * 100_000), 429, "Input counts has shape [1, 100000]"),
        (row(counts=json.loads("[" * 100 + "]" * 100)), 429, "nested too deep: more than 64 levels"),
        ({"inputs": {"x": json.loads('{"a":' * 100 + "1" + "}" * 100)}}, 429, "nested too deep"),
    ],
)
def test_requests_that_are_too_large_are_refused_at_once_over_rest(bounded, body, status, text):
    models, listening = bounded
    start = time.monotonic()
    code, error = rest(listening, PATH, body)
    assert (code, text in error) == (status, True), error
    assert time.monotonic() - start < AT_ONCE
    assert runs(models) == 0
    assert rest(listening, PATH, {"instances": GOOD_ROWS})[0] == 200


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"name": [b"x" * 2 * MEGABYTE]}, "larger than max"),
        ({"counts": np.ones((1, 10_000), np.int64)}, "Input counts has shape [1, 10000]; a row may have 4096 values"),
        ({"counts": np.ones((1, 100_000), np.int64)}, "Input counts has shape [1, 100000]"),
    ],
)
def test_requests_that_are_too_large_are_refused_at_once_over_grpc(bounded, inputs, text):
    models, listening = bounded
    good = {"name": [b"a"], "amount": np.ones(1, np.float32), "counts": np.ones((1, 2), np.int64)}
    request = request_proto({**good, **inputs})
    with prediction_stub(listening) as stub:
        start = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(request, timeout=20)
        assert time.monotonic() - start < AT_ONCE
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert text in caught.value.details()
        assert runs(models) == 0
        assert stub.Predict(GOOD_REQUEST, timeout=20).outputs


def test_a_body_of_gigabytes_takes_no_memory(bounded):
    _, listening = bounded
    host, port = re.search(r"//(.*):(\d+)/", listening.rest).groups()
    chunk = b"x" * MEGABYTE
    rest(listening, PATH, row(name="x" * (MEGABYTE // 2)))
    before = resident_megabytes()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (PATH.encode(), 4096 * MEGABYTE)
        )
        sent = 0
        with contextlib.suppress(ConnectionError):  # the server hangs up long before the end
            while sent < 512:
                connection.sendall(chunk)
                sent += 1
        assert sent < 512
    assert resident_megabytes() - before < 50
    assert rest(listening, PATH, {"instances": GOOD_ROWS})[0] == 200


def test_a_request_whose_deadline_passes_in_the_queue_runs_no_model(bounded):
    models, listening = bounded
    with prediction_stub(listening) as stub:
        stub.Predict(GOOD_REQUEST, timeout=20)
        long = stub.Predict.future(counting(2 * STEPS), timeout=20)
        time.sleep(0.1)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(GOOD_REQUEST, timeout=0.2)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        time.sleep(0.2)
        waiting = stub.Predict.future(GOOD_REQUEST, timeout=20)  # in its place, which is free at once
        assert tf.make_ndarray(long.result().outputs["counted"]) == 2 * STEPS
        assert waiting.result().outputs
    assert runs(models) == 3


def test_a_request_that_its_client_cancels_runs_no_model(bounded):
    models, listening = bounded
    with prediction_stub(listening) as stub:
        stub.Predict(GOOD_REQUEST, timeout=20)
        long = stub.Predict.future(counting(STEPS))
        time.sleep(0.1)
        cancelled = stub.Predict.future(GOOD_REQUEST)
        time.sleep(0.1)
        cancelled.cancel()
        assert tf.make_ndarray(long.result().outputs["counted"]) == STEPS
        stub.Predict(GOOD_REQUEST, timeout=20)
        assert runs(models) == 3


def test_a_run_is_given_up_at_its_deadline(bounded):
    _, listening = bounded
    endless = 10**15
    with prediction_stub(listening) as stub:
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(counting(endless), timeout=0.3)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert stub.Predict(GOOD_REQUEST, timeout=20).outputs  # one runs at a time: the place is free again
    start = time.monotonic()
    code, _ = rest(listening, PATH, {"signature_name": "count", "inputs": endless})
    assert code == 504
    assert 0.9 < time.monotonic() - start < 10
    assert rest(listening, PATH, {"instances": GOOD_ROWS})[0] == 200


def test_beyond_the_queue_requests_are_refused_at_once(bounded):
    _, listening = bounded
    with prediction_stub(listening) as stub, futures.ThreadPoolExecutor(2) as pool:
        stub.Predict(GOOD_REQUEST, timeout=20)
        running = stub.Predict.future(counting(STEPS))
        time.sleep(0.1)
        waiting = stub.Predict.future(GOOD_REQUEST)
        time.sleep(0.1)
        start = time.monotonic()
        over_rest = pool.submit(rest, listening, PATH, {"instances": GOOD_ROWS})
        with pytest.raises(grpc.RpcError, match="The queue of requests is full: 1 run and 1 wait") as caught:
            stub.Predict(GOOD_REQUEST, timeout=20)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        code, error = over_rest.result()
        assert (code, "The queue of requests is full" in error) == (503, True)
        assert time.monotonic() - start < AT_ONCE
        assert not running.done()
        assert running.result().outputs
        assert waiting.result().outputs  # it waited for its turn


def test_connections_beyond_those_that_are_served_are_refused_in_json(bounded):
    _, listening = bounded
    host, port = re.search(r"//(.*):(\d+)/", listening.rest).groups()
    connections = []
    try:
        for _ in range(256):
            connections.append(socket.create_connection((host, int(port)), timeout=20))
        with socket.create_connection((host, int(port)), timeout=20) as refused:
            answer = b"".join(iter(lambda: refused.recv(1 << 16), b""))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'{"error": "The server has 256 connections' in answer
    finally:
        for connection in connections:
            connection.close()
    end = time.monotonic() + 20
    while rest(listening, PATH, {"instances": GOOD_ROWS})[0] != 200:
        assert time.monotonic() < end


def test_a_queue_lets_at_least_one_request_run():
    with pytest.raises(InputError, match=r"`running` must be at least 1. Received: 0"):
        RequestQueue(0)
    with pytest.raises(InputError, match=r"`waiting` must be at least 0. Received: -1"):
        RequestQueue(1, -1)
