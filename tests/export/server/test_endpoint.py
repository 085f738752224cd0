import http.client
import json
import re
import socket
import time
import urllib.error
import urllib.request
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from beam_pipelines.format.errors import ArtifactError, InputError
from export.server.admission import RequestQueue
from export.server.endpoint import Endpoint
from export.server.model_config import ModelConfig
from export.server.ports import Ports
from export.server.served_models import ServedModels
from tests.export.toy_server import (
    FIELDS,
    GOOD,
    GOOD_REQUEST,
    GOOD_ROWS,
    MAX_REQUEST_BYTES,
    STEPS,
    request_proto,
    rest,
    serve_toy,
)


@pytest.fixture(scope="module")
def endpoint(base_path):
    with serve_toy(base_path) as (_, listening):
        yield listening


@pytest.fixture(scope="module")
def channel(endpoint):
    with grpc.insecure_channel(endpoint.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def test_predict_over_grpc(prediction):
    response = prediction.Predict(request_proto(GOOD))
    assert tf.make_ndarray(response.outputs["score"]).tolist() == [5.0, 11.0]
    assert tf.make_ndarray(response.outputs["name_bytes"]).tolist() == [b"a", b"b"]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("toy", 3, "serving_default")


def test_predict_of_a_version_and_some_outputs_over_grpc(prediction):
    response = prediction.Predict(request_proto(GOOD, version=3, output_filter=["score"]))
    assert list(response.outputs) == ["score"]
    response = prediction.Predict(request_proto({"x": np.array([1, 2], np.float32)}, signature="total"))
    assert tf.make_ndarray(response.outputs["sum"]) == 3


@pytest.mark.parametrize(
    "path", ["/v1/models/toy:predict", "/V1/MODELS/toy/versions/3:PREDICT", "/v1/models/toy:predict?x"]
)
def test_predict_over_rest(endpoint, path):
    expected = [{"name_bytes": {"b64": "YQ=="}, "score": 5.0}, {"name_bytes": {"b64": "Yg=="}, "score": 11.0}]
    assert rest(endpoint, path, {"instances": GOOD_ROWS}) == (200, {"predictions": expected})
    columns = {key: [row[key] for row in GOOD_ROWS] for key in FIELDS}
    outputs = {"name_bytes": [{"b64": "YQ=="}, {"b64": "Yg=="}], "score": [5.0, 11.0]}
    assert rest(endpoint, path, {"inputs": columns}) == (200, {"outputs": outputs})


def test_predict_with_another_signature_over_rest(endpoint):
    body = {"signature_name": "pick", "instances": [2, 0]}
    assert rest(endpoint, "/v1/models/toy:predict", body) == (200, {"predictions": [30.0, 10.0]})
    body = {"signature_name": "total", "inputs": [1, 2]}
    assert rest(endpoint, "/v1/models/toy:predict", body) == (200, {"outputs": 3.0})


def test_an_input_with_a_default_may_be_left_out(endpoint, prediction):
    for more, expected in (({}, [2.0, 4.0]), ({"factor": np.array([10], np.float32)}, [10.0, 20.0])):
        request = request_proto({"x": np.array([1, 2], np.float32), **more}, signature="scale")
        assert tf.make_ndarray(prediction.Predict(request).outputs["scaled"]).tolist() == expected
    for body in ({"instances": [{"x": 1}, {"x": 2}]}, {"inputs": {"x": [1, 2]}}):
        document = rest(endpoint, "/v1/models/toy:predict", {"signature_name": "scale", **body})[1]
        assert next(iter(document.values())) == [2.0, 4.0]
    rows = [{"x": 1, "factor": 3}, {"x": 2}]
    error = rest(endpoint, "/v1/models/toy:predict", {"signature_name": "scale", "instances": rows})
    assert error[0] == 400
    assert "element: 1 of 'instances' list. JSON object: keys must be equal to: factor,x. Received: x" in error[1]
    with pytest.raises(grpc.RpcError, match=r"Missing but required: \{x\}"):
        prediction.Predict(request_proto({"factor": np.array([1], np.float32)}, signature="scale"))


def test_an_empty_batch_and_empty_lists_are_answered(prediction):
    empty = {"name": np.zeros(0, object), "amount": np.zeros(0, np.float32), "counts": np.zeros((0, 0), np.int64)}
    assert tf.make_ndarray(prediction.Predict(request_proto(empty)).outputs["score"]).shape == (0,)
    no_counts = {**GOOD, "counts": np.zeros((2, 0), np.int64)}
    assert tf.make_ndarray(prediction.Predict(request_proto(no_counts)).outputs["score"]).tolist() == [2.0, 4.0]


NEGATIVE = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum)


NEGATIVE.tensor_shape.dim.add(size=-1)


HUGE = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum, float_val=[1.0])


for _ in range(4):
    HUGE.tensor_shape.dim.add(size=2**31)


LONG = tensor_pb2.TensorProto(dtype=tf.int64.as_datatype_enum, int64_val=[1])


LONG.tensor_shape.dim.add(size=2**40)


FILLED = tensor_pb2.TensorProto(dtype=tf.string.as_datatype_enum, string_val=[b"x" * 1000])


FILLED.tensor_shape.dim.add(size=1000)


TRUNCATED = tf.make_tensor_proto(np.zeros(8, np.float32))


TRUNCATED.tensor_content = TRUNCATED.tensor_content[:-1]


UNTYPED = tensor_pb2.TensorProto(dtype=999)


@pytest.mark.parametrize(
    ("bad", "code", "text"),
    [
        (request_proto(GOOD, name=""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (request_proto(GOOD, name="x"), "NOT_FOUND", "Servable not found for request: Latest(x)"),
        (request_proto(GOOD, version=2), "NOT_FOUND", "Servable not found for request: Specific(toy, 2)"),
        (request_proto(GOOD, label="best"), "INVALID_ARGUMENT", "Unrecognized servable version label: best"),
        (request_proto(GOOD, signature="x"), "FAILED_PRECONDITION", 'Serving signature key "x" not found.'),
        (request_proto(GOOD, signature="__saved_model_init_op"), "FAILED_PRECONDITION", "not found"),
        (request_proto({}), "INVALID_ARGUMENT", "input size does not match signature: 0!=3"),
        (
            request_proto({"name": GOOD["name"], "amount": GOOD["amount"], "clicked": [1]}),
            "INVALID_ARGUMENT",
            "Sent extra: {clicked}. Missing but required: {counts}.",
        ),
        (
            request_proto({**GOOD, "amount": np.array([1.0, 2.0])}),
            "INVALID_ARGUMENT",
            "Expects arg[0] to be float but double is provided",
        ),
        (
            request_proto({**GOOD, "counts": [[b"1"], [b"2"]]}),
            "INVALID_ARGUMENT",
            "Expects arg[1] to be int64 but string is provided",
        ),
        (
            request_proto({**GOOD, "counts": np.array([1, 2])}),
            "INVALID_ARGUMENT",
            "Input counts must have shape [?,?]. Received: [2]",
        ),
        (request_proto({**GOOD, "amount": np.zeros(3, np.float32)}), "INVALID_ARGUMENT", "Incompatible shapes"),
        (request_proto({"row": np.array([7])}, signature="pick"), "INVALID_ARGUMENT", "= 7 is not in [0, 3)"),
        (request_proto(GOOD, output_filter=["x"]), "INVALID_ARGUMENT", "output tensor alias not found in signature: x"),
        (request_proto(GOOD, output_filter=["score"] * 2), "INVALID_ARGUMENT", "duplicate output tensor alias: score"),
        (request_proto({**GOOD, "amount": NEGATIVE}), "INVALID_ARGUMENT", "not a valid TensorProto"),
        (request_proto({**GOOD, "amount": TRUNCATED}), "INVALID_ARGUMENT", "not a valid TensorProto"),
        (request_proto({**GOOD, "amount": UNTYPED}), "INVALID_ARGUMENT", "to be float but type 999 is provided"),
        (request_proto({**GOOD, "amount": HUGE}), "RESOURCE_EXHAUSTED", "a row may have 4096 values"),
        (request_proto({**GOOD, "name": FILLED}), "RESOURCE_EXHAUSTED", "is larger than 200000 bytes"),
        (request_proto({"row": LONG}, signature="pick"), "RESOURCE_EXHAUSTED", "a request may have 4194304"),
        (request_proto({**GOOD, "name": [b"x" * MAX_REQUEST_BYTES] * 2}), "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_bad_requests_over_grpc(prediction, capfd, bad, code, text):
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Predict(bad)
    assert caught.value.code().name == code
    assert text in caught.value.details()
    assert "stack trace" not in caught.value.details()
    assert "Traceback" not in capfd.readouterr().err
    # The next request is answered.
    assert tf.make_ndarray(prediction.Predict(GOOD_REQUEST).outputs["score"]).tolist() == [5.0, 11.0]


COLUMNS = {name: [row[name] for row in GOOD_ROWS] for name in GOOD}


def with_row(**changes):
    return {"instances": [{**GOOD_ROWS[0], **changes}]}


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/v1/models/x:predict", {"instances": GOOD_ROWS}, 404, "Servable not found for request: Latest(x)"),
        ("/v1/models/toy/versions/2:predict", {"instances": GOOD_ROWS}, 404, "Specific(toy, 2)"),
        ("/v1/models/toy/versions/" + "9" * 18 + ":predict", {"instances": GOOD_ROWS}, 404, "Servable not found"),
        (
            "/v1/models/toy/versions/" + "9" * 5000 + ":predict",
            {"instances": GOOD_ROWS},
            400,
            "Failed to convert version",
        ),
        ("/v1/models/toy/labels/best:predict", {"instances": GOOD_ROWS}, 400, "version label: best"),
        ("/v1/models/..%2f..%2fetc:predict", {"instances": GOOD_ROWS}, 404, "Servable not found"),
        ("/v1/models/toy:classify", {"examples": []}, 501, ":classify is not served"),
        ("/v1/models/toy", {"instances": GOOD_ROWS}, 400, "Malformed request: POST /v1/models/toy"),
        ("/v1/models/toy:explain", {"instances": GOOD_ROWS}, 400, "Malformed request: POST /v1/models/toy:explain"),
        ("/v2/models/toy:predict", {"instances": GOOD_ROWS}, 404, ""),
        ("/v1/models/toy:predict", b"", 400, "The document is empty"),
        ("/v1/models/toy:predict", b"{", 400, "JSON Parse error"),
        ("/v1/models/toy:predict", b"[" * 50_000 + b"]" * 50_000, 429, "nested too deep"),
        ("/v1/models/toy:predict", {"inputs": {}, "instances": []}, 400, "exactly one of"),
        ("/v1/models/toy:predict", {"instances": []}, 400, "No values in 'instances' array."),
        (
            "/v1/models/toy:predict",
            {"signature_name": "x", "instances": GOOD_ROWS},
            400,
            'Serving signature name: "x" not found in signature def',
        ),
        (
            "/v1/models/toy:predict",
            {"signature_name": "\ud800", "instances": GOOD_ROWS},
            400,
            'Serving signature name: "?" not found in signature def',
        ),
        ("/v1/models/toy:predict", with_row(clicked=1), 400, "keys must be equal to: amount,counts,name"),
        ("/v1/models/toy:predict", {"inputs": {"name": ["a"]}}, 400, "Missing named input: amount"),
        ("/v1/models/toy:predict", with_row(amount="1"), 400, "Type: String is not of expected type: float"),
        ("/v1/models/toy:predict", with_row(counts=[1.0]), 400, "Type: Number is not of expected type: int64"),
        ("/v1/models/toy:predict", with_row(counts=[float("nan")]), 400, "JSON Value: NaN"),
        ("/v1/models/toy:predict", with_row(name={"b64": "!"}), 400, "Unable to base64 decode"),
        ("/v1/models/toy:predict", {"inputs": {**COLUMNS, "amount": [0.5] * 3}}, 400, "Incompatible shapes"),
        ("/v1/models/toy:predict", with_row(counts=1), 400, "Input counts must have shape [?,?]. Received: [1]"),
        ("/v1/models/toy:predict", with_row(counts=[[1]]), 400, "Encountered list at unexpected level: 2"),
        (
            "/v1/models/toy:predict",
            {"instances": [GOOD_ROWS[0], {**GOOD_ROWS[1], "counts": [3]}]},
            400,
            "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
        ),
        ("/v1/models/toy:predict", {"signature_name": "pick", "instances": [7]}, 400, "= 7 is not in [0, 3)"),
        ("/v1/models/toy:predict", {"signature_name": "total", "instances": [7]}, 400, "no common batch dimension"),
        (
            "/v1/models/%2e%2e%2fetc:predict",
            {"instances": GOOD_ROWS},
            404,
            "Servable not found for request: Latest(../etc)",
        ),
        ("/v1/models/toy:predict", b" " * (MAX_REQUEST_BYTES + 1), 413, f"larger than {MAX_REQUEST_BYTES} bytes"),
    ],
)
def test_bad_requests_over_rest(endpoint, capfd, path, body, status, text):
    code, error = rest(endpoint, path, body)
    assert (code, text in error) == (status, True), error
    assert "Traceback" not in error + capfd.readouterr().err
    assert rest(endpoint, "/v1/models/toy:predict", {"instances": GOOD_ROWS})[0] == 200


def test_nan_is_a_float_in_both_directions(endpoint):
    status, document = rest(endpoint, "/v1/models/toy:predict", b'{"signature_name": "total", "inputs": [NaN, 1]}')
    assert status == 200
    assert np.isnan(document["outputs"])


def test_model_status(endpoint, channel):
    service = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "toy"
    (state,) = service.GetModelStatus(request).model_version_status
    assert (state.version, state.state, state.status.error_code) == (3, 30, 0)  # AVAILABLE, OK
    expected = {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("/v1/models/toy", "/v1/models/toy/versions/3"):
        assert rest(endpoint, path) == (200, {"model_version_status": [expected]})


@pytest.mark.parametrize(
    ("name", "version", "code", "text"),
    [
        ("", None, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        ("x", None, "NOT_FOUND", "Could not find any versions of model x"),
        ("toy", 2, "NOT_FOUND", "Could not find any version 2 of model toy"),
    ],
)
def test_status_of_what_is_not_served(channel, name, version, code, text):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    with pytest.raises(grpc.RpcError) as caught:
        model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request)
    assert (caught.value.code().name, caught.value.details()) == (code, text)


@pytest.mark.parametrize(
    ("path", "method", "status", "text"),
    [
        ("/v1/models", "GET", 400, "Missing model name"),
        ("/v1/models/x", "GET", 404, "Could not find any versions of model x"),
        ("/v1/models/toy/versions/2", "GET", 404, "Could not find any version 2 of model toy"),
        ("/v1/models/toy/labels/best", "GET", 400, "Unrecognized servable version label: best"),
        ("/v1/models/toy:predict", "GET", 400, "Malformed request: GET /v1/models/toy:predict"),
        ("/", "GET", 404, ""),
        ("/v1/models/toy", "DELETE", 400, "Malformed request: DELETE /v1/models/toy"),
        ("/v1/models/toy", "BREW", 501, "Unsupported method"),
        ("/v1/models/toy/versions/99999999999999999999", "GET", 400, "Failed to convert version: 99999999999999999999"),
        ("/v1/models/%ff", "GET", 400, "Failed to decode '%ff'"),
    ],
)
def test_other_bad_requests_over_rest(endpoint, path, method, status, text):
    code, error = rest(endpoint, path, method=method)
    assert (code, text in error) == (status, True), error


def test_metadata(endpoint, prediction):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "toy"
    response = prediction.GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def["serving_default"].inputs) == set(FIELDS)
    assert response.model_spec.version.value == 3
    status, document = rest(endpoint, "/v1/models/toy/metadata")
    assert (status, document["model_spec"]["version"]) == (200, "3")
    inputs = document["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert (inputs["counts"]["dtype"], set(inputs)) == ("DT_INT64", set(FIELDS))


@pytest.mark.parametrize(
    ("fields", "text"), [([], "at least one metadata_field"), (["x"], "Metadata field x is not supported")]
)
def test_bad_metadata_requests(prediction, fields, text):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = "toy"
    with pytest.raises(grpc.RpcError, match=text) as caught:
        prediction.GetModelMetadata(request)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_methods_that_are_not_served(prediction, capfd):
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Classify(classification_pb2.ClassificationRequest())
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "Traceback" not in capfd.readouterr().err


def test_a_connection_is_kept_for_the_next_request(endpoint):
    host, port = re.search(r"//(.*):(\d+)/", endpoint.rest).groups()
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    for body in ({"instances": GOOD_ROWS}, {"instances": []}, {"instances": GOOD_ROWS}):
        connection.request("POST", "/v1/models/toy:predict", json.dumps(body))
        response = connection.getresponse()
        assert (response.status == 200) == bool(body["instances"])
        response.read()
        assert connection.sock is not None  # http.client drops it if the server closes
    connection.close()


def test_requests_at_the_same_time_get_their_own_answers(endpoint, prediction):
    def ask(number):
        inputs = {**GOOD, "amount": np.array([number, 2 * number], np.float32)}
        over_grpc = tf.make_ndarray(prediction.Predict(request_proto(inputs)).outputs["score"]).tolist()
        rows = [{**GOOD_ROWS[0], "amount": number}]
        over_rest = rest(endpoint, "/v1/models/toy:predict", {"instances": rows})[1]["predictions"][0]["score"]
        return over_grpc, over_rest

    with futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(40)))
    assert answers == [([2.0 * n + 3, 4.0 * n + 7], 2.0 * n + 3) for n in range(40)]


def test_requests_in_progress_are_answered_when_the_server_stops(base_path):
    models = ServedModels([ModelConfig("toy", base_path)], base_path)
    endpoint = Endpoint(models, Ports(port=0, rest_port=0), queue=RequestQueue(4, 4))
    listening = endpoint.listening
    body = {"signature_name": "count", "inputs": STEPS}
    with futures.ThreadPoolExecutor(2) as pool, grpc.insecure_channel(listening.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        stub.Predict(GOOD_REQUEST)  # so that the connection is there
        over_grpc = pool.submit(stub.Predict, request_proto({"steps": np.array(STEPS)}, signature="count"))
        over_rest = pool.submit(rest, listening, "/v1/models/toy:predict", body)
        time.sleep(0.2)
        endpoint.stop()
        assert tf.make_ndarray(over_grpc.result().outputs["counted"]) == STEPS
        assert over_rest.result() == (200, {"outputs": STEPS})
    with pytest.raises(urllib.error.URLError):
        rest(listening, "/v1/models/toy")


def test_an_endpoint_of_a_base_path_serves_until_its_block_ends(base_path):
    labels = {"stable": 3}
    with Endpoint.of_base_path(base_path, "toy", labels=labels, poll_seconds=0, port=0, rest_port=0) as endpoint:
        assert endpoint.listening[:2] == ("toy", 3)
        assert rest(endpoint.listening, "/v1/models/toy/labels/stable:predict", {"instances": GOOD_ROWS})[0] == 200
    with pytest.raises(urllib.error.URLError):
        rest(endpoint.listening, "/v1/models/toy")


def test_an_endpoint_that_cannot_start_names_the_argument(base_path, tmp_path):
    with pytest.raises(ArtifactError, match=r"^`base_path`: no version under"):
        Endpoint.of_base_path(tmp_path, port=0, rest_port=0)
    ports = Ports(port=0, rest_port=0)
    with socket.socket() as faster:  # somebody takes the port while the models are loaded
        faster.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        faster.bind(("127.0.0.1", ports.rest_port))
        faster.listen()
        models = ServedModels([ModelConfig("toy", base_path)], base_path, poll_seconds=0)
        with pytest.raises(InputError, match=f"^`rest_port`: cannot listen on 127.0.0.1:{ports.rest_port}: "):
            Endpoint(models, ports)
    assert not models.is_serving  # it was closed
