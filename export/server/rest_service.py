"""TensorFlow Serving's REST API and Prometheus metrics on the standard library's HTTP server."""

import http.server
import json
import logging
import re
import socketserver
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format, message

from export.server.admission import Deadline
from export.server.predict import ArrayInput, ModelCall, Predictor, PredictRequest
from export.server.servable import DEFAULT_SIGNATURE, Servable
from export.server.served_models import ModelSpec, ServedModels
from export.server.serving_error import ServingError
from export.server.serving_metrics import PROMETHEUS_PATH
from export.server.tensor_json import decode_inputs, encode_outputs, parse_document
from export.version.base_path import MAX_VERSION

_LOG = logging.getLogger("export.serve")
_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_INFERENCE = re.compile(_MODEL + ":(?P<method>predict|classify|regress)", re.IGNORECASE)
_STATUS = re.compile(_MODEL + "(?P<metadata>/metadata)?", re.IGNORECASE)
_IDLE_SECONDS = 30
_MAX_CONNECTIONS = 256
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"

_JSON = "application/json"
_Answer = tuple[int, str, str]
"""Status, body and its type."""


class RestServer(socketserver.ThreadingTCPServer):
    """Answers for models over HTTP, from the moment it is made until `stop`.

    Args:
        predictor: of the models; bodies beyond its limits are refused with 413, inputs beyond them with 429.
        host: the interface to listen on.
        port: the port to listen on; 0 takes a free one.

    Raises:
        OSError: the port cannot be used.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, predictor: Predictor, host: str, port: int) -> None:
        super().__init__((host, port), _Handler)
        self.port: int = self.server_address[1]
        self.predictor = predictor
        self.in_progress = 0
        self.lock = threading.Lock()
        self._connections = threading.Semaphore(_MAX_CONNECTIONS)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Gives the connection a thread, or refuses it where there are too many."""
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        body = _error(f"The server has {_MAX_CONNECTIONS} connections; try again later").encode()
        try:
            request.settimeout(1)
            request.sendall(_BUSY + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        finally:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves a connection until it ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def stop(self, grace: float) -> None:
        """Refuses new connections and waits up to `grace` seconds for the requests in progress."""
        self.shutdown()
        self.server_close()
        end = time.monotonic() + grace
        while self.in_progress and time.monotonic() < end:
            time.sleep(0.01)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs what went wrong with a connection; one that the client dropped is no news."""
        _LOG.debug("connection from %s failed", client_address, exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"
    server_version = "ranker"
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave in one packet

    # What the base class calls for each verb.
    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_other(self) -> None:
        self._answer(self._other)

    do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_other

    def log_message(self, format: str, *args: Any) -> None:
        _LOG.debug("%s " + format, self.address_string(), *args)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        # The base class answers what it refuses itself (an unknown verb, a malformed head) in HTML.
        self.close_connection = True
        self._reply(code, _error(message or HTTPStatus(code).phrase), _JSON)

    def _answer(self, method: Callable[[], _Answer]) -> None:
        with self.server.lock:
            self.server.in_progress += 1
        try:
            self._reply(*self._outcome(method))
        finally:
            with self.server.lock:
                self.server.in_progress -= 1

    def _outcome(self, method: Callable[[], _Answer]) -> _Answer:
        try:
            return method()
        except ServingError as error:
            return error.http_status, _error(error.message), _JSON
        except OSError:
            raise  # the connection is gone
        except Exception:
            _LOG.exception("%s %s failed", self.command, self.path)
            return 500, _error("internal error, see the server's log"), _JSON

    def _reply(self, status: int, body: str, content_type: str) -> None:
        data = body.encode("utf-8", "replace")  # an error may quote half of a surrogate pair
        # By hand instead of `send_response`, which knows no 499 and adds the Python version.
        self.send_response_only(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    def _get(self) -> _Answer:
        self._read_body()
        path, models = self._path(), self.server.predictor.models
        if path == PROMETHEUS_PATH:
            return 200, models.metrics.text(), "text/plain"
        if matched := _STATUS.fullmatch(path):
            if matched["metadata"]:
                return 200, _metadata(models, _requested(matched)), _JSON
            status = models.status(*_requested(matched))
            return 200, _to_json(status), _JSON
        if path.rstrip("/").lower() == "/v1/models":
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, "Missing model name in request.")
        return self._other_path(path)

    def _post(self) -> _Answer:
        body = self._read_body()
        if body is None:
            return 413, _error(f"The request is larger than {self.server.predictor.limits.request_bytes} bytes"), _JSON
        path = self._path()
        if matched := _INFERENCE.fullmatch(path):
            if matched["method"].lower() != "predict":
                raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f":{matched['method']} is not served; use :predict")
            deadline = Deadline(self.server.predictor.limits.rest_seconds)
            request = _RestPredict(_requested(matched), deadline, body)
            return 200, self.server.predictor.predict(request), _JSON
        return self._other_path(path)

    def _other(self) -> _Answer:
        self.close_connection = True  # whatever follows the head is left there
        return self._other_path(self._path())

    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _other_path(self, path: str) -> _Answer:
        if path.lower().startswith("/v1/"):
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, f"Malformed request: {self.command} {path}")
        return 404, "", _JSON

    def _read_body(self) -> bytes | None:
        """The body; `None`, with at most as much read as is allowed, if it is too large."""
        try:
            size = int(self.headers.get("Content-Length", 0))
        except ValueError:
            size = -1
        if size < 0 or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # where the body ends is unknown
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, "A request needs a Content-Length")
        if size > self.server.predictor.limits.request_bytes:
            # A client that is still sending reads the answer only if its bytes are taken off the line for a while.
            self.close_connection = True
            for _ in range(self.server.predictor.limits.request_bytes >> 16):
                if not self.rfile.read1(1 << 16):
                    break
            return None
        return self.rfile.read(size)


class _RestPredict(PredictRequest[str]):
    """The body of a request to `:predict`, and that of its answer."""

    entrypoint = "REST"

    def __init__(self, model: ModelSpec, deadline: Deadline, body: bytes) -> None:
        self.model = model
        self.deadline = deadline
        self._body = body
        self._has_rows = False

    def read(self, servable: Servable) -> ModelCall:
        document = parse_document(self._body)
        self._has_rows = "instances" in document
        name = document.get("signature_name") or DEFAULT_SIGNATURE
        if name not in servable.signature_names:
            raise ServingError(
                grpc.StatusCode.INVALID_ARGUMENT, f'Serving signature name: "{name}" not found in signature def'
            )
        signature = servable.signature(name)
        inputs = decode_inputs(document, signature.inputs, signature.defaults.keys())
        return ModelCall(name, {key: ArrayInput(value) for key, value in inputs.items()})

    def write(self, servable: Servable, outputs: Mapping[str, np.ndarray]) -> str:
        return encode_outputs(outputs, row_format=self._has_rows)


def _metadata(models: ServedModels, spec: ModelSpec) -> str:
    with models.lease(*spec) as servable:
        signatures = {key: json.loads(_to_json(value)) for key, value in servable.signature_defs.items()}
        number = servable.version
    return json.dumps(
        {
            "model_spec": {"name": spec.name, "signature_name": "", "version": str(number)},
            "metadata": {"signature_def": {"signature_def": signatures}},
        },
        indent=1,
    )


def _to_json(proto: message.Message) -> str:
    return json_format.MessageToJson(proto, preserving_proto_field_name=True, including_default_value_fields=True)


def _requested(matched: re.Match[str]) -> ModelSpec:
    name = _decoded(matched["name"])
    label = None if matched["label"] is None else _decoded(matched["label"])
    if matched["version"] is None:
        return ModelSpec(name, None, label)
    if len(matched["version"]) > 19 or int(matched["version"]) > MAX_VERSION:
        raise ServingError(
            grpc.StatusCode.INVALID_ARGUMENT, f"Failed to convert version: {matched['version'][:40]} to numeric."
        )
    return ModelSpec(name, int(matched["version"]), label)


def _decoded(text: str) -> str:
    try:
        return urllib.parse.unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, f"Failed to decode {text!r}") from error


def _error(message: str) -> str:
    return json.dumps({"error": message}, ensure_ascii=False)
