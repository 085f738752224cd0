"""Serves exported rankers over TensorFlow Serving's protocol: `python -m export.serve`.

A server for development, tests and small installations on the official protocol buffers; the same files serve in
TensorFlow Serving.
"""

import argparse
import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from beam_pipelines.shell.command import ArgumentParser, CommandError, require_directory, run_command
from export.server.grpc_service import GrpcServer
from export.server.model_config import ConfigError, ModelConfig, check_model_name, read_model_configs
from export.server.request_limits import RequestLimits
from export.server.request_queue import RequestQueue
from export.server.rest_service import RestServer
from export.server.served_models import ServedModels
from export.server.serving_error import ServingError
from export.server.version_policy import VersionPolicy
from export.trusted_digests import TrustedDigests

_GRACE_SECONDS = 5.0
_LIMITS = RequestLimits()


class Listening(NamedTuple):
    """What a server prints in one line when it is ready.

    Attributes:
        model: the model's name; the first one's if there are several.
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
    """Models that are being served over gRPC and REST, from the moment it is made until `stop`.

    Args:
        models: the models.
        host: the interface to listen on.
        port, rest_port: the ports; 0 takes a free one.
        limits: larger requests are refused.
        queue: requests that run and wait, those of both protocols together.

    Raises:
        CommandError: a port cannot be used.
    """

    def __init__(
        self, models: ServedModels, host: str, port: int, rest_port: int, limits: RequestLimits, queue: RequestQueue
    ) -> None:
        try:
            self._rest = RestServer(models, host, rest_port, limits, queue)
        except OSError as error:
            raise CommandError(f"--rest-port: cannot listen on {host}:{rest_port}: {error.strerror}") from error
        try:
            self._grpc = GrpcServer(models, host, port, limits, queue)
        except RuntimeError as error:
            self._rest.stop(0)
            raise CommandError(f"--port: cannot listen on {host}:{port}") from error
        self._models = models
        name = models.names[0]
        self.listening = Listening(
            name,
            models.latest(name),
            f"{host}:{self._grpc.port}",
            f"http://{host}:{self._rest.port}/v1/models/{name}",
        )

    def stop(self) -> None:
        """Finishes the requests in progress, up to a few seconds, and frees the models."""
        self._grpc.stop(_GRACE_SECONDS)
        self._rest.stop(_GRACE_SECONDS)
        self._models.close()


def main(argv: Sequence[str] | None = None) -> str:
    """Serves until SIGTERM or SIGINT and returns the closing line."""
    parser = ArgumentParser("Serves exported rankers over gRPC and REST and follows what is published.")
    parser.add_argument("--base-path", type=Path, default=Path("artifacts/serving"), help="from export.saved_model")
    parser.add_argument("--model-name", default="ranker", help="the model's name in requests")
    parser.add_argument("--version-policy", default="latest:1", help="`latest:N`, `all` or `specific:V,V`")
    parser.add_argument(
        "--version-label", action="append", metavar="LABEL=VERSION", help="a name for a version (repeatable)"
    )
    parser.add_argument(
        "--model-config-file", type=Path, help="a ModelServerConfig, in place of the four options above; followed"
    )
    parser.add_argument(
        "--root",
        type=Path,
        help="models are loaded from inside it only (unset: the base path; "
        "with --model-config-file, the file's directory)",
    )
    parser.add_argument(
        "--digests", type=Path, help="load only versions that this file of export.trusted_digests lists"
    )
    parser.add_argument("--poll-seconds", type=float, default=1.0, help="how often to look for new versions (0: never)")
    parser.add_argument("--host", default="127.0.0.1", help="interface to listen on")
    parser.add_argument("--port", type=int, default=8500, help="gRPC port (0: a free one)")
    parser.add_argument("--rest-port", type=int, default=8501, help="REST port (0: a free one)")
    parser.add_argument("--max-request-mb", type=int, default=_LIMITS.request_bytes >> 20, help="of a request's bytes")
    parser.add_argument("--max-row-length", type=int, default=_LIMITS.row_length, help="candidates or history steps")
    parser.add_argument("--max-values", type=int, default=_LIMITS.values, help="of a request's inputs together")
    parser.add_argument("--max-running", type=int, default=os.cpu_count(), help="requests that run at once")
    parser.add_argument("--max-waiting", type=int, default=64, help="requests that wait; more are refused at once")
    parser.add_argument("--rest-seconds", type=float, default=_LIMITS.rest_seconds, help="that a REST request may take")
    args = parser.parse_args(argv)
    for option, port in (("--port", args.port), ("--rest-port", args.rest_port)):
        if not 0 <= port <= 65535:
            raise CommandError(f"{option} must be between 0 and 65535. Received: {port}")
    _check_least(args, 1, "max_request_mb", "max_row_length", "max_values", "max_running", "rest_seconds")
    _check_least(args, 0, "max_waiting", "poll_seconds")
    if args.model_config_file is None:
        require_directory(args.base_path, "--base-path", "export.saved_model")
        configs = [_config_of_options(args.model_name, args.base_path, args.version_policy, args.version_label or [])]
        root = args.root or args.base_path
    else:
        try:
            configs = read_model_configs(args.model_config_file)
        except ConfigError as error:
            raise CommandError(f"--model-config-file: {error}") from error
        root = args.root or args.model_config_file.parent
    if args.digests is not None and not args.digests.is_file():
        raise CommandError(f"--digests: no file {args.digests}; export.trusted_digests prints its lines")
    _log_to_stderr()
    if os.geteuid() == 0:
        logging.getLogger("export.serve").warning(
            "running as root: a SavedModel is a program and runs with the rights of this process; start the server as "
            "an unprivileged user (in a container: `user:`)"
        )

    tf.get_logger().setLevel("ERROR")
    digests = None if args.digests is None else TrustedDigests(args.digests)
    try:
        models = ServedModels(configs, root, args.poll_seconds, digests, args.model_config_file)
    except ServingError as error:
        option = "--base-path" if args.model_config_file is None else "--model-config-file"
        raise CommandError(f"{option}: {error.message}") from error
    limits = RequestLimits(args.max_request_mb << 20, args.max_row_length, args.max_values, args.rest_seconds)
    try:
        queue = RequestQueue(args.max_running, args.max_waiting)
        endpoint = Endpoint(models, args.host, args.port, args.rest_port, limits, queue)
    except CommandError:
        models.close()
        raise
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    print(endpoint.listening.line(), flush=True)
    while not stop.wait(1.0):  # in intervals: a signal that another thread receives does not end this one's wait
        pass
    versions = ", ".join(f"{name} version {models.latest(name)}" for name in models.names)
    endpoint.stop()
    return f"stopped serving {versions} from {root}"


def _check_least(args: argparse.Namespace, least: int, *names: str) -> None:
    for name in names:
        if not getattr(args, name) >= least:  # NaN, too
            option = "--" + name.replace("_", "-")
            raise CommandError(f"{option} must be at least {least}. Received: {getattr(args, name)}")


def _config_of_options(name: str, base_path: Path, policy: str, labels: Sequence[str]) -> ModelConfig:
    try:
        check_model_name(name)
    except ConfigError as error:
        raise CommandError(f"--model-name: {error}") from error
    try:
        versions = VersionPolicy.parse(policy)
    except ValueError as error:
        raise CommandError(f"--version-policy {error}") from error
    numbers = {}
    for text in labels:
        if not (matched := re.fullmatch(r"([^/:=\s]+)=([0-9]{1,18})", text)):
            raise CommandError(f"--version-label must be LABEL=VERSION. Received: {text!r}")
        numbers[matched[1]] = int(matched[2])
    return ModelConfig(name, base_path, versions, numbers)


def _log_to_stderr() -> None:
    log = logging.getLogger("export.serve")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


if __name__ == "__main__":
    run_command(main)
