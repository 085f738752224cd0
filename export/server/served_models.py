"""All models of a server, kept up to date with their base paths and their configuration."""

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
from tensorflow_serving.apis import get_model_status_pb2

from beam_pipelines.format.errors import ConfigurationError
from export.server.model_config import ModelConfig, read_model_configs
from export.server.servable import Servable
from export.server.served_model import ServedModel, no_status, not_served
from export.server.serving_error import ServingError
from export.server.serving_metrics import ServingMetrics
from export.server.trusted_digests import TrustedDigests

_LOG = logging.getLogger("export.serve")


class ModelSpec(NamedTuple):
    """The model that a request names, and perhaps which of its versions, by number or by label."""

    name: str
    version: int | None = None
    label: str | None = None


class ServedModels:
    """The models by name, from the moment it is made until `close`.

    Args:
        configs: the models; each must have a version that loads.
        root: every base path must lie inside, now and after a reload.
        poll_seconds: how often base paths and `config_file` are looked at; 0 for never.
        digests: if given, only versions with one of these digests are loaded.
        config_file: a `ModelServerConfig` that is followed when it changes; `configs` is what it holds now.
        retry_seconds: how long after a failure a version is tried again.

    Raises:
        ServingError: a model cannot be served.
    """

    def __init__(
        self,
        configs: Sequence[ModelConfig],
        root: Path,
        poll_seconds: float = 1.0,
        digests: TrustedDigests | None = None,
        config_file: Path | None = None,
        retry_seconds: float = 60.0,
    ) -> None:
        self.metrics = ServingMetrics()
        self._root = root.resolve()
        self._digests = digests
        self._retry_seconds = retry_seconds
        self._models: dict[str, ServedModel] = {}
        self._reloading = threading.Lock()
        self._stopped = threading.Event()
        self._config_file = config_file
        self._config_text = self._read_config()
        self.reload(configs)
        if poll_seconds:
            threading.Thread(target=self._poll, args=(poll_seconds,), name="poll", daemon=True).start()

    @property
    def names(self) -> list[str]:
        """The models, in the order of their configuration."""
        return list(self._models)

    @property
    def is_serving(self) -> bool:
        """Whether every model has a version that answers."""
        models = self._models
        return bool(models) and all(model.latest is not None for model in models.values())

    def latest(self, name: str) -> int | None:
        """The version of a model that answers requests which name none."""
        return self._models[name].latest

    @contextlib.contextmanager
    def lease(self, name: str, version: int | None = None, label: str | None = None) -> Iterator[Servable]:
        """The version of a model that a request asks for; see `ServedModel.lease`.

        Raises:
            ServingError: it is not served here.
        """
        with self._find(name, label, not_served(name, version)).lease(version, label) as servable:
            yield servable

    def status(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The states of a model's versions; see `ServedModel.status`.

        Raises:
            ServingError: there is none.
        """
        return self._find(name, label, no_status(name, version)).status(version, label)

    def reload(self, configs: Sequence[ModelConfig]) -> None:
        """Serves these models and no others, once all of them have a version that answers.

        A model that keeps its base path keeps its versions. One that is left out is unloaded.

        Raises:
            ServingError: a model cannot be served. The set is then as it was, but for policies and labels of models
                before the one that failed.
        """
        with self._reloading:
            models: dict[str, ServedModel] = {}
            new: list[ServedModel] = []
            try:
                for config in configs:
                    present = self._models.get(config.name)
                    if present is not None and present.config.base_path == config.base_path:
                        present.reconfigure(config)
                        models[config.name] = present
                    else:
                        models[config.name] = self._start(config)
                        new.append(models[config.name])
            except Exception:
                for model in new:
                    model.close()
                raise
            left_out = [model for model in self._models.values() if model not in models.values()]
            self._models = models
            for model in left_out:
                model.close()

    def close(self) -> None:
        """Frees all models."""
        self._stopped.set()
        with self._reloading:
            for model in self._models.values():
                model.close()

    def _find(self, name: str, label: str | None, otherwise: ServingError) -> ServedModel:
        if not name:
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        if name not in self._models:
            if label is not None:
                raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
            raise otherwise
        return self._models[name]

    def _start(self, config: ModelConfig) -> ServedModel:
        if not config.base_path.resolve().is_relative_to(self._root):
            raise ServingError(
                grpc.StatusCode.PERMISSION_DENIED,
                f"base_path of model {config.name} must lie inside {self._root}. Received: {config.base_path}",
            )
        model = ServedModel(config, self._root, self._digests, self.metrics, self._retry_seconds)
        try:
            model.refresh()
            if model.latest is None:
                raise ServingError(grpc.StatusCode.FAILED_PRECONDITION, model.error())
            model.set_labels(config.labels)
        except Exception:
            model.close()
            raise
        return model

    def _read_config(self) -> str:
        return "" if self._config_file is None else self._config_file.read_text("utf-8")

    def _poll(self, seconds: float) -> None:
        while not self._stopped.wait(seconds):
            try:
                self._follow_config()
                for model in list(self._models.values()):
                    model.refresh()
            except Exception:  # a disk that fails for a moment must not end the polling
                _LOG.exception("polling failed")

    def _follow_config(self) -> None:
        if self._config_file is None:
            return
        try:
            text = self._read_config()
        except (OSError, UnicodeDecodeError) as error:
            _LOG.error("%s cannot be read: %s", self._config_file, error)
            return
        if text != self._config_text:
            self._config_text = text
            try:
                self.reload(read_model_configs(self._config_file))
                _LOG.info("%s followed: models %s", self._config_file, ", ".join(self._models))
            except (ConfigurationError, ServingError) as error:
                _LOG.error("%s has changed and is not followed: %s", self._config_file, error)
