"""More than 10,000 malformed requests: each is refused for what it is, and the server goes on answering."""

import collections
import http.client
import json
import re

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

from tests.export.toy_server import GOOD, GOOD_REQUEST, GOOD_ROWS, prediction_stub, request_proto, serve_toy

BODIES = 60  # in each example
REFUSED = collections.Counter()
"""By test, the requests that were refused; a change may leave a good one."""
SECONDS = 30


def fuzz(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],  # the failing body is named; to shrink lists of bodies takes minutes
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def served(toy_saved_model, tmp_path_factory):
    base = tmp_path_factory.mktemp("fuzz")
    (base / "1").symlink_to(toy_saved_model)
    with serve_toy(base, root=toy_saved_model.parent.parent) as (_, listening), prediction_stub(listening) as stub:
        yield listening, stub


@pytest.fixture(scope="module")
def connection(served):
    host, port = re.search(r"//(.*):(\d+)/", served[0].rest).groups()
    connection = http.client.HTTPConnection(host, int(port), timeout=SECONDS)
    yield connection
    connection.close()


def post(connection, body):
    connection.request("POST", "/v1/models/toy:predict", body)
    response = connection.getresponse()
    return response.status, response.read()


COLUMNS = {key: [row[key] for row in GOOD_ROWS] for key in GOOD}
TEMPLATES = [
    json.dumps(document).encode()
    for document in (
        {"instances": GOOD_ROWS},
        {"inputs": COLUMNS},
        {"signature_name": "pick", "instances": [2, 0]},
        {"signature_name": "total", "inputs": {"x": [0.5, 1e-3]}},
        {"signature_name": "scale", "instances": [{"x": 1, "factor": 2.5}, {"x": -1, "factor": 0}]},
        {"instances": [{**GOOD_ROWS[0], "name": {"b64": "AAE="}}]},
    )
]
TOKENS = [
    *(
        b"null",
        b"true",
        b"[]",
        b"{}",
        b"[[1]]",
        b'""',
        b'"x"',
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"-1e-999",
        b"-0",
        b"1.0",
    ),
    *(b"9223372036854775808", b"-9223372036854775809", b"9" * 400, b'"\\ud800"', b'"\\u0000"', b'{"b64": "!"}'),
    *(
        b'{"b64": 1}',
        b'{"b64": "AA==", "x": 1}',
        b"[" * 70,
        b"]",
        b"}",
        b",",
        b":",
        b'"',
        b"\\",
        b"\xff",
        b"\xed\xa0\x80",
    ),
    *(b"\x00", b"\xef\xbb\xbf", b"//", b"inputs", b"instances", b"signature_name", b'"name": 1,', b'"clicked": [1],'),
]
PIECE = re.compile(rb'"[^"]*"|[-+.\w]+|.', re.DOTALL)


@st.composite
def malformed_json(draw):
    """A request with some of its pieces replaced, dropped, doubled or moved; or just bytes."""
    kind = draw(st.integers(0, 15))
    if kind == 0:
        return draw(st.binary(max_size=40))
    pieces = PIECE.findall(TEMPLATES[kind % len(TEMPLATES)])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(pieces) - 1))
        change = draw(st.integers(0, len(TOKENS) + 3))
        if change < len(TOKENS):
            pieces[at] = TOKENS[change]
        elif change == len(TOKENS):
            del pieces[at:]
            pieces.append(b" ")
        elif change == len(TOKENS) + 1:
            pieces[at] = b""
        else:
            pieces.insert(at, pieces[draw(st.integers(0, len(pieces) - 1))])
    return b"".join(pieces)


@given(bodies=st.lists(malformed_json(), min_size=BODIES, max_size=BODIES))
@fuzz(150)
def test_malformed_bodies_over_rest(connection, bodies):
    for body in bodies:
        status, answer = post(connection, body)
        assert status in (200, 400, 429), (body, answer)
        REFUSED["json"] += status != 200
        document = json.loads(answer)
        assert set(document) <= {"predictions", "outputs"} if status == 200 else set(document) == {"error"}, body
    assert post(connection, TEMPLATES[0])[0] == 200


def grpc_code(call, request):
    try:
        call(request, timeout=SECONDS)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


REFUSALS = ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED")
SERIALIZED = [
    GOOD_REQUEST.SerializeToString(),
    request_proto({"row": np.array([1])}, signature="pick").SerializeToString(),
]


@st.composite
def malformed_bytes(draw):
    """A serialized request with some bytes changed, cut out or added."""
    data = bytearray(SERIALIZED[draw(st.integers(0, 1))])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        if draw(st.integers(0, 2)):
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        else:
            data[at : at + draw(st.integers(0, 20))] = draw(st.binary(max_size=4))
    return bytes(data)


@given(bodies=st.lists(malformed_bytes(), min_size=BODIES, max_size=BODIES))
@fuzz(60)
def test_malformed_bytes_over_grpc(served, bodies):
    listening, stub = served
    with grpc.insecure_channel(listening.grpc) as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")  # bytes as they are
        for body in bodies:
            try:
                predict_pb2.PredictRequest.FromString(body)
                allowed = REFUSALS
            except DecodeError:
                allowed = ("INTERNAL",)  # of gRPC itself: the message is none
            code, details = grpc_code(predict, body)
            assert code in allowed, (body, code, details)
            REFUSED["bytes"] += code != "OK"
    assert grpc_code(stub.Predict, GOOD_REQUEST)[0] == "OK"


@st.composite
def malformed_tensors(draw):
    """A request whose tensors may claim any type and shape and hold anything."""
    request = predict_pb2.PredictRequest()
    request.CopyFrom(GOOD_REQUEST)
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(["name", "amount", "counts", "counts", "x", ""]))
        tensor = tensor_pb2.TensorProto(dtype=draw(st.sampled_from([*range(27), 101, 120, 999, -1])))
        for size in draw(st.lists(st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**62]), max_size=3)):
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_shape.unknown_rank = draw(st.integers(0, 9)) == 0
        kind = draw(st.integers(0, 8))
        if kind == 0:
            tensor.tensor_content = draw(st.binary(max_size=24))
        elif kind <= 5:
            field = ("string_val", "float_val", "int64_val", "int_val", "half_val")[kind - 1]
            value = {"string_val": b"\xff", "float_val": float("nan")}.get(field, -1)
            getattr(tensor, field).extend([value] * draw(st.integers(0, 5)))
        elif kind == 6:
            tensor.resource_handle_val.add(name="x")
        elif kind == 7:
            tensor.variant_val.add(type_name="x")
        request.inputs[name].CopyFrom(tensor)
    if draw(st.integers(0, 9)) == 0:
        del request.inputs[draw(st.sampled_from(sorted(request.inputs)))]
    if draw(st.integers(0, 9)) == 0:
        request.model_spec.signature_name = draw(st.sampled_from(["pick", "total", "scale", "\x00", "x" * 5000]))
    if draw(st.integers(0, 9)) == 0:
        request.output_filter.append(draw(st.sampled_from(["score", "x", ""])))
    return request


@given(requests=st.lists(malformed_tensors(), min_size=BODIES, max_size=BODIES))
@fuzz(60)
def test_malformed_tensors_over_grpc(served, requests):
    _, stub = served
    for request in requests:
        code, details = grpc_code(stub.Predict, request)
        assert code in REFUSALS, (request, code, details)
        REFUSED["tensors"] += code != "OK"
    assert tf.make_ndarray(stub.Predict(GOOD_REQUEST).outputs["score"]).tolist() == [5.0, 11.0]


def test_ten_thousand_requests_were_refused():
    if len(REFUSED) < 3:
        pytest.skip("counts what the other tests of this file have sent")
    assert REFUSED.total() >= 10_000, REFUSED
