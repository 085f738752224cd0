"""Serves exported rankers over TensorFlow Serving's protocol: `python -m export.serve`.

A server for development, tests and small installations on the official protocol buffers; the same files serve in
TensorFlow Serving. In Python: `Endpoint.of_base_path(base_path)`.
"""

import argparse
import contextlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beam_pipelines.format.errors import InputError, about
from beam_pipelines.format.location import is_remote
from beam_pipelines.shell.command import ArgumentParser, CommandError, command, require_directory, run_command
from export.server.admission import MAX_WAITING, RequestLimits, RequestQueue

if TYPE_CHECKING:
    from export.server.cross_origin import CrossOrigin
    from export.server.model_config import ModelConfig
    from export.server.ports import Ports
    from export.server.version_mirror import VersionMirror

_LIMITS = RequestLimits()
_LOG = logging.getLogger("export.serve")


def _parser() -> ArgumentParser:
    parser = ArgumentParser("Serves exported rankers over gRPC and REST and follows what is published.")
    parser.add_argument("--base-path", default="artifacts/serving", help="from export.saved_model")
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
    parser.add_argument("--host", default="127.0.0.1", help="address or name to listen on; 0.0.0.0 or :: for all")
    parser.add_argument("--port", type=int, default=8500, help="gRPC port (0: a free one)")
    parser.add_argument("--rest-port", type=int, default=8501, help="REST port (0: a free one)")
    parser.add_argument("--max-request-mb", type=int, default=_LIMITS.request_bytes >> 20, help="of a request's bytes")
    parser.add_argument("--max-row-length", type=int, default=_LIMITS.row_length, help="candidates or history steps")
    parser.add_argument("--max-values", type=int, default=_LIMITS.values, help="of a request's inputs together")
    parser.add_argument("--max-running", type=int, default=os.cpu_count(), help="requests that run at once")
    parser.add_argument(
        "--max-waiting", type=int, default=MAX_WAITING, help="requests that wait; more are refused at once"
    )
    parser.add_argument("--rest-seconds", type=float, default=_LIMITS.rest_seconds, help="that a REST request may take")
    parser.add_argument(
        "--cors-origin",
        action="append",
        metavar="ORIGIN",
        help="browsers may show REST answers to pages of this origin (repeatable; *: of any; unset: of none)",
    )
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Serves until SIGTERM or SIGINT and returns the closing line."""
    from export.server.cross_origin import CrossOrigin
    from export.server.ports import Ports

    _check_least(options, 1, "max_request_mb", "max_row_length", "max_values", "max_running", "rest_seconds")
    _check_least(options, 0, "max_waiting", "poll_seconds")
    cross_origin = CrossOrigin(options.cors_origin or [])
    # Before the models: those take their time to load.
    with Ports(options.host, options.port, options.rest_port) as ports, contextlib.ExitStack() as stack:
        return _serve(options, ports, cross_origin, stack)


def _serve(
    options: argparse.Namespace, ports: "Ports", cross_origin: "CrossOrigin", stack: contextlib.ExitStack
) -> str:
    import tensorflow as tf

    from export.server.endpoint import Endpoint
    from export.server.served_models import ServedModels
    from export.server.serving_error import ServingError
    from export.server.trusted_digests import TrustedDigests

    configs, root, mirror = _models_of_options(options)
    if mirror is not None:
        stack.callback(mirror.close)
    if options.digests is not None and not options.digests.is_file():
        raise CommandError(f"--digests: no file {options.digests}; export.trusted_digests prints its lines")
    _log_to_stderr()
    if os.geteuid() == 0:
        _LOG.warning(
            "running as root: a SavedModel is a program and runs with the rights of this process; start the server as "
            "an unprivileged user (in a container: `user:`)"
        )
    tf.get_logger().setLevel("ERROR")
    digests = None if options.digests is None else TrustedDigests(options.digests)
    if mirror is not None and options.poll_seconds:
        mirror.follow(options.poll_seconds)
    try:
        models = ServedModels(configs, root, options.poll_seconds, digests, options.model_config_file)
    except ServingError as error:
        option = "--base-path" if options.model_config_file is None else "--model-config-file"
        raise CommandError(f"{option}: {error.message}") from error
    limits = RequestLimits(
        options.max_request_mb << 20, options.max_row_length, options.max_values, options.rest_seconds
    )
    queue = RequestQueue(options.max_running, options.max_waiting)
    endpoint = Endpoint(models, ports, limits=limits, queue=queue, cross_origin=cross_origin)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    print(endpoint.listening.line(), flush=True)
    while not stop.wait(1.0):  # in intervals: a signal that another thread receives does not end this one's wait
        pass
    versions = ", ".join(f"{name} version {models.latest(name)}" for name in models.names)
    endpoint.stop()
    return f"stopped serving {versions} from {root if mirror is None else options.base_path}"


def _check_least(options: argparse.Namespace, least: int, *names: str) -> None:
    for name in names:
        if not getattr(options, name) >= least:  # NaN, too
            raise InputError(f"`{name}` must be at least {least}. Received: {getattr(options, name)}")


def _models_of_options(options: argparse.Namespace) -> "tuple[list[ModelConfig], Path, VersionMirror | None]":
    """What to serve, the directory that all of it must lie inside, and what keeps that up to date with a store."""
    from export.server.model_config import ModelConfig, VersionPolicy, check_model_name, read_model_configs
    from export.server.version_mirror import VersionMirror

    if options.model_config_file is not None:
        with about("model_config_file"):
            configs = read_model_configs(options.model_config_file)
        return configs, options.root or options.model_config_file.parent, None
    base_path = require_directory(options.base_path, "--base-path", "export.saved_model")
    with about("model_name"):
        check_model_name(options.model_name)
    try:
        policy = VersionPolicy.parse(options.version_policy)
    except InputError as error:
        raise CommandError(f"--version-policy {error}") from error
    labels = _labels(options.version_label or [])
    if not is_remote(base_path):
        config = ModelConfig(options.model_name, base_path, policy, labels)
        return [config], options.root or base_path, None
    if options.root is not None:
        raise InputError(f"`root` is for directories; leave it out with {base_path}")
    with about("base_path"):
        mirror = VersionMirror(base_path, policy)
    return [ModelConfig(options.model_name, mirror.directory, policy, labels)], mirror.directory, mirror


def _labels(texts: Sequence[str]) -> dict[str, int]:
    labels = {}
    for text in texts:
        if not (matched := re.fullmatch(r"([^/:=\s]+)=([0-9]{1,18})", text)):
            raise CommandError(f"--version-label must be LABEL=VERSION. Received: {text!r}")
        labels[matched[1]] = int(matched[2])
    return labels


def _log_to_stderr() -> None:
    if not _LOG.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        _LOG.addHandler(handler)
        _LOG.setLevel(logging.INFO)
        _LOG.propagate = False


if __name__ == "__main__":
    run_command(main)
