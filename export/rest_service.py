"""TensorFlow Serving's REST API on the standard library's HTTP server."""

import http.server
import json
import logging
import re
import socketserver
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import grpc
from google.protobuf import json_format

from export.servable import DEFAULT_SIGNATURE, Servable
from export.served_model import ServedModel
from export.serving_error import ServingError
from export.tensor_json import decode_inputs, encode_outputs, parse_document

_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]{1,19})|/labels/(?P<label>[^/:]+))?"
_INFERENCE = re.compile(_MODEL + ":(?P<method>predict|classify|regress)", re.IGNORECASE)
_STATUS = re.compile(_MODEL + "(?P<metadata>/metadata)?", re.IGNORECASE)
_IDLE_SECONDS = 30

_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class RestServer(socketserver.ThreadingTCPServer):
    """Answers for a model over HTTP, from the moment it is made until `stop`.

    Args:
        model: the model.
        host: the interface to listen on.
        port: the port to listen on; 0 takes a free one.
        max_request_bytes: larger requests are refused with 413.

    Raises:
        OSError: the port cannot be used.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, model: ServedModel, host: str, port: int, max_request_bytes: int) -> None:
        super().__init__((host, port), _Handler)
        self.port: int = self.server_address[1]
        self.model = model
        self.max_request_bytes = max_request_bytes
        self.in_progress = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def stop(self, grace: float) -> None:
        """Refuses new connections and waits up to `grace` seconds for the requests in progress."""
        self.shutdown()
        self.server_close()
        end = time.monotonic() + grace
        while self.in_progress and time.monotonic() < end:
            time.sleep(0.01)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs what went wrong with a connection; one that the client dropped is no news."""
        logging.debug("connection from %s failed", client_address, exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"
    server_version = "ranker"
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave in one packet

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        logging.debug("%s " + format, self.address_string(), *args)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        # The base class answers what it refuses itself (an unknown verb, a malformed head) in HTML.
        self.close_connection = True
        self._reply(code, _error(message or HTTPStatus(code).phrase))

    def _answer(self, method: Callable[[], tuple[int, str]]) -> None:
        with self.server.lock:
            self.server.in_progress += 1
        try:
            self._reply(*self._outcome(method))
        finally:
            with self.server.lock:
                self.server.in_progress -= 1

    def _outcome(self, method: Callable[[], tuple[int, str]]) -> tuple[int, str]:
        try:
            return method()
        except ServingError as error:
            return _HTTP_STATUS[error.code], _error(error.message)
        except OSError:
            raise  # the connection is gone
        except Exception:
            logging.exception("%s %s failed", self.command, self.path)
            return 500, _error("internal error, see the server's log")

    def _reply(self, status: int, body: str) -> None:
        data = body.encode()
        # By hand instead of `send_response`, which knows no 499 and adds the Python version.
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    def _get(self) -> tuple[int, str]:
        self._read_body()
        path = self._path()
        if matched := _STATUS.fullmatch(path):
            if matched["metadata"]:
                return 200, _metadata(self.server.model.find(*_requested(matched)), matched["name"])
            status = self.server.model.status(*_requested(matched))
            return 200, json_format.MessageToJson(
                status, preserving_proto_field_name=True, including_default_value_fields=True
            )
        if path.rstrip("/").lower() == "/v1/models":
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, "Missing model name in request.")
        return self._unknown_path(path)

    def _post(self) -> tuple[int, str]:
        body = self._read_body()
        if body is None:
            return 413, _error(f"The request is larger than {self.server.max_request_bytes} bytes")
        path = self._path()
        if matched := _INFERENCE.fullmatch(path):
            if matched["method"].lower() != "predict":
                raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f":{matched['method']} is not served; use :predict")
            return 200, _predict(self.server.model.find(*_requested(matched)), body)
        return self._unknown_path(path)

    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _unknown_path(self, path: str) -> tuple[int, str]:
        if _STATUS.fullmatch(path) or _INFERENCE.fullmatch(path):
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, f"Malformed request: {self.command} {path}")
        return 404, ""

    def _read_body(self) -> bytes | None:
        """The body; `None`, with at most as much read as is allowed, if it is too large."""
        try:
            size = int(self.headers.get("Content-Length", 0))
        except ValueError:
            size = -1
        if size < 0 or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # where the body ends is unknown
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, "A request needs a Content-Length")
        if size > self.server.max_request_bytes:
            # A client that is still sending reads the answer only if its bytes are taken off the line for a while.
            self.close_connection = True
            for _ in range(self.server.max_request_bytes >> 16):
                if not self.rfile.read1(1 << 16):
                    break
            return None
        return self.rfile.read(size)


def _predict(servable: Servable, body: bytes) -> str:
    document = parse_document(body)
    name = document.get("signature_name") or DEFAULT_SIGNATURE
    if name not in servable.signature_names:
        raise ServingError(
            grpc.StatusCode.INVALID_ARGUMENT, f'Serving signature name: "{name}" not found in signature def'
        )
    outputs = servable.predict(name, decode_inputs(document, servable.signature(name).inputs))
    return encode_outputs(outputs, row_format="instances" in document)


def _metadata(servable: Servable, name: str) -> str:
    signatures = {
        key: json_format.MessageToDict(value, preserving_proto_field_name=True)
        for key, value in servable.signature_defs.items()
    }
    return json.dumps(
        {
            "model_spec": {"name": name, "signature_name": "", "version": str(servable.version)},
            "metadata": {"signature_def": {"signature_def": signatures}},
        },
        indent=1,
    )


def _requested(matched: re.Match) -> tuple[str, int | None, str | None]:
    return matched["name"], int(matched["version"]) if matched["version"] else None, matched["label"]


def _error(message: str) -> str:
    return json.dumps({"error": message}, ensure_ascii=False)
