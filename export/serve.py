"""Serves an exported ranker over TensorFlow Serving's protocol: `python -m export.serve`.

A server for development and tests on the official protocol buffers; production runs TensorFlow Serving on the same
files.
"""

import json
import re
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from beam_pipelines.command import ArgumentParser, CommandError, require_directory, run_command
from export.grpc_service import GrpcServer
from export.rest_service import RestServer
from export.served_model import ServedModel

_GRACE_SECONDS = 5.0


class Listening(NamedTuple):
    """What a server prints in one line when it is ready.

    Attributes:
        model: the model's name.
        version: the version that answers.
        grpc: `host:port` of the gRPC services.
        rest: URL of the model's REST API.
    """

    model: str
    version: int
    grpc: str
    rest: str

    def line(self) -> str:
        """The line."""
        return f"ready: {json.dumps(self._asdict())}"

    @classmethod
    def from_line(cls, line: str) -> "Listening | None":
        """Reads such a line; `None` if it is another one."""
        word, _, rest = line.partition("ready: ")
        return cls(**json.loads(rest)) if not word and rest else None


class Endpoint:
    """A model that is being served over gRPC and REST, from the moment it is made until `stop`.

    Args:
        model: the model.
        host: the interface to listen on.
        port, rest_port: the ports; 0 takes a free one.
        max_request_bytes: larger requests are refused.

    Raises:
        CommandError: a port cannot be used.
    """

    def __init__(self, model: ServedModel, host: str, port: int, rest_port: int, max_request_bytes: int) -> None:
        try:
            self._rest = RestServer(model, host, rest_port, max_request_bytes)
        except OSError as error:
            raise CommandError(f"--rest-port: cannot listen on {host}:{rest_port}: {error.strerror}") from error
        try:
            self._grpc = GrpcServer(model, host, port, max_request_bytes)
        except RuntimeError as error:
            self._rest.stop(0)
            raise CommandError(f"--port: cannot listen on {host}:{port}") from error
        self._model = model
        self.listening = Listening(
            model.name,
            model.latest.version,
            f"{host}:{self._grpc.port}",
            f"http://{host}:{self._rest.port}/v1/models/{model.name}",
        )

    def stop(self) -> None:
        """Finishes the requests in progress, up to a few seconds, and frees the model."""
        self._grpc.stop(_GRACE_SECONDS)
        self._rest.stop(_GRACE_SECONDS)
        self._model.close()


def main(argv: Sequence[str] | None = None) -> str:
    """Serves until SIGTERM or SIGINT and returns the closing line."""
    parser = ArgumentParser("Serves the newest version of an exported ranker over gRPC and REST.")
    parser.add_argument("--base-path", type=Path, default=Path("artifacts/serving"), help="from export.saved_model")
    parser.add_argument("--model-name", default="ranker", help="the model's name in requests")
    parser.add_argument("--host", default="127.0.0.1", help="interface to listen on")
    parser.add_argument("--port", type=int, default=8500, help="gRPC port (0: a free one)")
    parser.add_argument("--rest-port", type=int, default=8501, help="REST port (0: a free one)")
    parser.add_argument("--max-request-mb", type=int, default=32, help="larger requests are refused")
    args = parser.parse_args(argv)
    if not re.fullmatch(r"[^/:\s]+", args.model_name):
        raise CommandError(f"--model-name must not hold `/`, `:` or spaces. Received: {args.model_name!r}")
    for option, port in (("--port", args.port), ("--rest-port", args.rest_port)):
        if not 0 <= port <= 65535:
            raise CommandError(f"{option} must be between 0 and 65535. Received: {port}")
    if args.max_request_mb < 1:
        raise CommandError(f"--max-request-mb must be at least 1. Received: {args.max_request_mb}")
    require_directory(args.base_path, "--base-path", "export.saved_model")

    tf.get_logger().setLevel("ERROR")
    try:
        model = ServedModel.load_latest(args.model_name, args.base_path)
    except FileNotFoundError as error:
        raise CommandError(f"--base-path: {error}; export.saved_model makes one") from error
    except Exception as error:  # what TensorFlow raises depends on which file is damaged
        raise CommandError(
            f"--base-path: the newest version in {args.base_path} does not load: {_first_line(error)}"
        ) from error
    try:
        endpoint = Endpoint(model, args.host, args.port, args.rest_port, args.max_request_mb << 20)
    except CommandError:
        model.close()
        raise
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    print(endpoint.listening.line(), flush=True)
    stop.wait()
    endpoint.stop()
    return f"stopped serving {args.model_name} version {model.latest.version} from {args.base_path}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


if __name__ == "__main__":
    run_command(main)
