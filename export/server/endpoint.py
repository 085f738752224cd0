"""Models that are being served over gRPC and REST."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from beam_pipelines.format.errors import ArtifactError, InputError
from export.server.admission import RequestLimits, RequestQueue
from export.server.cross_origin import CrossOrigin
from export.server.grpc_service import GrpcServer
from export.server.http_server import HttpServer
from export.server.model_config import ModelConfig, VersionPolicy
from export.server.ports import Ports, host_port
from export.server.predict import Predictor
from export.server.rest_service import RestService
from export.server.served_models import ServedModels
from export.server.serving_error import ServingError

_GRACE_SECONDS = 5.0
_LATEST = VersionPolicy()


class Listening(NamedTuple):
    """Where an endpoint listens; `export.serve` prints it in one line when it is ready.

    Attributes:
        model: the model's name; the first one's if there are several.
        version: the version that answers.
        grpc: `host:port` of the gRPC services; an address of IPv6 is in brackets.
        rest: URL of the model's REST API.
    """

    model: str
    version: int | None
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
    """Models that are being served, from the moment it is made until `stop`; a context manager.

    Args:
        models: the models; the endpoint closes them when it stops, and if it cannot start.
        ports: where to listen; the endpoint takes them over.
        limits: larger requests are refused.
        queue: requests that run and wait, those of both protocols together.
        cross_origin: the web pages that may read what is answered over REST.

    Raises:
        InputError: a port cannot be used after all.

    Example:
        >>> with Endpoint.of_base_path("artifacts/serving", port=0, rest_port=0) as endpoint:
        ...     with RankerClient(endpoint.listening.grpc) as client:
        ...         client.rank(page)
    """

    def __init__(
        self,
        models: ServedModels,
        ports: Ports,
        *,
        limits: RequestLimits | None = None,
        queue: RequestQueue | None = None,
        cross_origin: CrossOrigin | None = None,
    ) -> None:
        self.models = models
        predictor = Predictor(models, limits or RequestLimits(), queue or RequestQueue())
        rest = RestService(predictor, cross_origin or CrossOrigin())
        try:
            with ports:
                self._rest, self._grpc = _start(predictor, rest, ports)
        except InputError:
            models.close()
            raise
        name = models.names[0]
        self.listening = Listening(
            name,
            models.latest(name),
            host_port(ports.host, ports.port),
            f"http://{host_port(ports.host, ports.rest_port)}/v1/models/{name}",
        )

    @classmethod
    def of_base_path(
        cls,
        base_path: str | Path,
        model_name: str = "ranker",
        *,
        version_policy: VersionPolicy = _LATEST,
        labels: Mapping[str, int] | None = None,
        poll_seconds: float = 1.0,
        host: str = "127.0.0.1",
        port: int = 8500,
        rest_port: int = 8501,
    ) -> "Endpoint":
        """Serves the versions of one model and follows what is published.

        Args:
            base_path: the directory of the versions, from `export.publish`, on this machine.
            model_name: the model's name in requests.
            version_policy: which of the versions are served.
            labels: label to version.
            poll_seconds: how often to look for new versions; 0 for never.
            host, port, rest_port: where to listen; see `Ports`.

        Raises:
            InputError: a port cannot be used, or there is no version that loads.
        """
        config = ModelConfig(model_name, Path(base_path), version_policy, labels or {})
        with Ports(host, port, rest_port) as ports:
            try:
                models = ServedModels([config], config.base_path, poll_seconds)
            except ServingError as error:
                raise ArtifactError(f"`base_path`: {error.message}") from error
            return cls(models, ports)

    def stop(self) -> None:
        """Finishes the requests in progress, up to a few seconds, and frees the models."""
        self._grpc.stop(_GRACE_SECONDS)
        self._rest.stop(_GRACE_SECONDS)
        self.models.close()

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _start(predictor: Predictor, service: RestService, ports: Ports) -> tuple[HttpServer, GrpcServer]:
    try:
        grpc_server = GrpcServer(predictor, ports.take_grpc())
    except RuntimeError as error:  # somebody else was faster
        raise InputError(f"`port`: cannot listen on {host_port(ports.host, ports.port)}") from error
    try:
        return HttpServer(ports.take_rest(), service, predictor.limits.request_bytes), grpc_server
    except OSError as error:
        grpc_server.stop(0)
        where = host_port(ports.host, ports.rest_port)
        raise InputError(f"`rest_port`: cannot listen on {where}: {error.strerror}") from error
