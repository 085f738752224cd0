"""An S3 that counts what it is asked for and can be told to fail. A command: `python -m tests.cluster.object_store`."""

import argparse
import contextlib
import json
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

from tests.cluster.machines import HOST, listens, start, stop, wait_for

_PORT = 5077


class FailingStore:
    """Stands before moto's S3. `/_control?fail_every=50` and the like change it and answer with what was counted."""

    def __init__(self) -> None:
        self._s3 = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._counted = {"requests": 0, "received": 0, "failed": 0}
        self._fail_every = 0
        self._refuse = False

    def __call__(self, request: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        """Answers a request, as WSGI says."""
        if request["PATH_INFO"] == "/_control":
            return self._control(dict(parse_qsl(request["QUERY_STRING"])), respond)
        with self._lock:
            self._counted["requests"] += 1
            self._counted["received"] += int(request.get("CONTENT_LENGTH") or 0)
            fails = self._fail_every and self._counted["requests"] % self._fail_every == 0
            self._counted["failed"] += bool(fails or self._refuse)
        if self._refuse:
            return _answer(request, respond, "403 Forbidden", "AccessDenied")
        if fails:
            return _answer(request, respond, "503 Slow Down", "SlowDown")
        return self._s3(request, respond)

    def _control(self, settings: dict[str, str], respond: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            answer = json.dumps(self._counted).encode()
            self._counted = dict.fromkeys(self._counted, 0)
            self._fail_every = int(settings.get("fail_every", 0))
            self._refuse = bool(settings.get("refuse"))
        respond("200 OK", [("Content-Type", "application/json")])
        return [answer]


def _answer(request: dict[str, Any], respond: Callable[..., Any], status: str, code: str) -> Iterable[bytes]:
    request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))  # or the connection cannot be used again
    body = f"<Error><Code>{code}</Code><Message>by the test</Message></Error>".encode()
    if request["REQUEST_METHOD"] == "HEAD":
        body = b""
    respond(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


class ObjectStore:
    """A running store, seen from a test.

    Attributes:
        bucket: its URI.
        environment: what processes need in their environment to reach it.
    """

    def __init__(self, endpoint: str) -> None:
        self.bucket = "s3://shop"
        self.environment = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self._endpoint = endpoint
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/shop", method="PUT")).close()

    def behave(self, settings: str = "") -> dict[str, int]:
        """Changes how it answers from now on; returns what it counted since the last time."""
        with urllib.request.urlopen(f"{self._endpoint}/_control?{settings}") as answer:
            return json.load(answer)


@contextlib.contextmanager
def running_store(logs: Path) -> Iterator[ObjectStore]:
    """A store on the machine that tests run on, with an empty bucket."""
    log = logs / "store.log"
    command = [sys.executable, "-m", "tests.cluster.object_store", "--host", HOST, "--port", str(_PORT)]
    process = start(command, log, {"PYTHONPATH": str(Path(__file__).resolve().parents[2])})
    try:
        wait_for(lambda: listens(HOST, _PORT), "object store", log)
        yield ObjectStore(f"http://{HOST}:{_PORT}")
    finally:
        stop(process)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    arguments = parser.parse_args()
    run_simple(arguments.host, arguments.port, FailingStore(), threaded=True)
