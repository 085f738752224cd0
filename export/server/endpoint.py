"""Models that are being served over gRPC and REST."""

import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from beam_pipelines.format.errors import ArtifactError, InputError
from export.server.admission import RequestLimits, RequestQueue
from export.server.grpc_service import GrpcServer
from export.server.model_config import ModelConfig, VersionPolicy
from export.server.predict import Predictor
from export.server.rest_service import RestServer
from export.server.served_models import ServedModels
from export.server.serving_error import ServingError

_GRACE_SECONDS = 5.0
_LATEST = VersionPolicy()


class Listening(NamedTuple):
    """Where an endpoint listens; `export.serve` prints it in one line when it is ready.

    Attributes:
        model: the model's name; the first one's if there are several.
        version: the version that answers.
        grpc: `host:port` of the gRPC services.
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
        host: the interface to listen on.
        port: of gRPC; 0 takes a free one.
        rest_port: of REST; 0 takes a free one.
        limits: larger requests are refused.
        queue: requests that run and wait, those of both protocols together.

    Raises:
        InputError: a port cannot be used.

    Example:
        >>> with Endpoint.of_base_path("artifacts/serving", port=0, rest_port=0) as endpoint:
        ...     with RankerClient(endpoint.listening.grpc) as client:
        ...         client.rank(page)
    """

    def __init__(
        self,
        models: ServedModels,
        *,
        host: str = "127.0.0.1",
        port: int = 8500,
        rest_port: int = 8501,
        limits: RequestLimits | None = None,
        queue: RequestQueue | None = None,
    ) -> None:
        self.models = models
        try:
            check_ports(port=port, rest_port=rest_port)
            predictor = Predictor(models, limits or RequestLimits(), queue or RequestQueue())
            self._rest, self._grpc = _start(predictor, host, port, rest_port)
        except InputError:
            models.close()
            raise
        name = models.names[0]
        self.listening = Listening(
            name,
            models.latest(name),
            f"{host}:{self._grpc.port}",
            f"http://{host}:{self._rest.port}/v1/models/{name}",
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
            base_path: the directory of the versions, from `export.publish`.
            model_name: the model's name in requests.
            version_policy: which of the versions are served.
            labels: label to version.
            poll_seconds: how often to look for new versions; 0 for never.
            host, port, rest_port: where to listen.

        Raises:
            InputError: there is no version that loads, or a port cannot be used.
        """
        config = ModelConfig(model_name, Path(base_path), version_policy, labels or {})
        try:
            models = ServedModels([config], config.base_path, poll_seconds)
        except ServingError as error:
            raise ArtifactError(f"`base_path`: {error.message}") from error
        return cls(models, host=host, port=port, rest_port=rest_port)

    def stop(self) -> None:
        """Finishes the requests in progress, up to a few seconds, and frees the models."""
        self._grpc.stop(_GRACE_SECONDS)
        self._rest.stop(_GRACE_SECONDS)
        self.models.close()

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.stop()


def check_ports(**ports: int) -> None:
    """Refuses what is no port.

    Args:
        ports: by the name of the argument.

    Raises:
        InputError: it is out of range.
    """
    for name, port in ports.items():
        if not 0 <= port <= 65535:
            raise InputError(f"`{name}` must be between 0 and 65535. Received: {port}")


def _start(predictor: Predictor, host: str, port: int, rest_port: int) -> tuple[RestServer, GrpcServer]:
    try:
        rest = RestServer(predictor, host, rest_port)
    except OSError as error:
        raise InputError(f"`rest_port`: cannot listen on {host}:{rest_port}: {error.strerror}") from error
    try:
        return rest, GrpcServer(predictor, host, port)
    except RuntimeError as error:
        rest.stop(0)
        raise InputError(f"`port`: cannot listen on {host}:{port}") from error
