"""One model of a server: which of its versions are loaded, and which answers."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
from tensorflow_serving.apis import get_model_status_pb2

from export.server.model_config import ModelConfig
from export.server.servable import Servable
from export.server.serving_error import ServingError
from export.server.serving_metrics import ServingMetrics
from export.server.trusted_digests import TrustedDigests
from export.version.base_path import published_versions

_LOG = logging.getLogger("export.serve")
_MAX_LOADS = 6  # a first attempt and five more, as TensorFlow Serving
_State = get_model_status_pb2.ModelVersionStatus


class _Version:
    """A version that was seen: its state, and the model while it is in memory."""

    def __init__(self) -> None:
        self.state = _State.START
        self.error: ServingError | None = None
        self.servable: Servable | None = None
        self.users = 0  # requests that it is answering
        self.loads = 0
        self.retry_at = 0.0


class ServedModel:
    """A named model with those of its versions that its policy wants.

    A version is loaded, warm-up included, beside those that answer, and takes over only then. A version that is not
    wanted any more is unloaded once another answers and its last request is done. So a version that does not load, or a
    base path that has become empty, leaves everything as it is.

    Args:
        config: what to serve.
        root: everything that is loaded must lie inside.
        digests: if given, only versions with one of these digests are loaded.
        metrics: where loads are counted.
        retry_seconds: how long after a failure a version is tried again, up to five times.
    """

    def __init__(
        self,
        config: ModelConfig,
        root: Path,
        digests: TrustedDigests | None = None,
        metrics: ServingMetrics | None = None,
        retry_seconds: float = 60.0,
    ) -> None:
        self.config = config
        self._root = root.resolve()
        self._digests = digests
        self._metrics = metrics or ServingMetrics()
        self._retry_seconds = retry_seconds
        self._versions: dict[int, _Version] = {}
        self._labels: dict[str, int] = {}
        self._lock = threading.Lock()  # of the two above; never held while something is loaded or run
        self._changing = threading.Lock()  # one refresh at a time
        self._closed = False

    def refresh(self) -> None:
        """Loads and unloads what the policy asks for, as the base path is now."""
        with self._changing:
            if self._closed:
                return
            published = published_versions(self.config.base_path)
            wanted = self.config.policy.select(published)
            for number in sorted(wanted):
                self._load(number, published[number])
            with self._lock:
                loaded = {number for number, version in self._versions.items() if version.servable is not None}
                unwanted = loaded - wanted if loaded & wanted else set()
                for number in [n for n, v in self._versions.items() if v.state == _State.END and n not in published]:
                    del self._versions[number]  # if it is published again, it is a new one
            for number in sorted(unwanted):
                self._unload(number)

    def reconfigure(self, config: ModelConfig) -> None:
        """Follows another configuration of the same base path.

        Raises:
            ServingError: FAILED_PRECONDITION if a label is to stand for a version that is not available; the labels are
                then as they were.
        """
        self.config = config
        self.refresh()
        self.set_labels(config.labels)

    def set_labels(self, labels: Mapping[str, int]) -> None:
        """Replaces the labels; see `reconfigure`."""
        with self._lock:
            for number in labels.values():
                if self._available(number) is None:
                    raise ServingError(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        f"Request to assign label to version {number} of model {self.config.name}, which is not "
                        "currently available for inference",
                    )
            self._labels = dict(labels)

    @property
    def latest(self) -> int | None:
        """The version that answers requests which name none; `None` if none is loaded."""
        with self._lock:
            return self._latest()

    @contextlib.contextmanager
    def lease(self, version: int | None = None, label: str | None = None) -> Iterator[Servable]:
        """The version that a request asks for, the latest if it names none; it stays loaded until the block ends.

        Raises:
            ServingError: it is not served here.
        """
        with self._lock:
            version = self._asked_for(version, label)
            number = self._latest() if version is None else version
            servable = None if number is None else self._available(number)
            if number is None or servable is None:
                raise not_served(self.config.name, version)
            self._versions[number].users += 1
        try:
            yield servable
        finally:
            with self._lock:
                self._versions[number].users -= 1
            self._close_idle(number)

    def status(
        self, version: int | None = None, label: str | None = None
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The states of the versions that a status request asks for; of all that were seen if it names none.

        Raises:
            ServingError: there is none.
        """
        response = get_model_status_pb2.GetModelStatusResponse()
        with self._lock:
            version = self._asked_for(version, label)
            for number in sorted(self._versions, reverse=True):
                if version in (None, number):
                    seen = self._versions[number]
                    state = response.model_version_status.add(version=number, state=seen.state)
                    state.status.SetInParent()  # present and empty: error code OK
                    if seen.error is not None:
                        state.status.error_code = seen.error.code.value[0]
                        state.status.error_message = seen.error.message
        if not response.model_version_status:
            raise no_status(self.config.name, version)
        return response

    def error(self) -> str:
        """Why nothing is served: the newest version's error, or that there is no version."""
        with self._lock:
            for number in sorted(self._versions, reverse=True):
                if (error := self._versions[number].error) is not None:
                    return f"version {number} in {self.config.base_path} does not load: {error.message}"
        return f"no version under {self.config.base_path}"

    def close(self) -> None:
        """Frees all versions, each as soon as its last request is done."""
        with self._changing:
            self._closed = True
            with self._lock:
                numbers = [number for number, version in self._versions.items() if version.servable is not None]
            for number in numbers:
                self._unload(number)

    def _asked_for(self, version: int | None, label: str | None) -> int | None:
        """The version that a request names, by number or label; `None` if it names none."""
        if label is None:
            return version
        if label not in self._labels:
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
        return self._labels[label]

    def _latest(self) -> int | None:
        return max((number for number in self._versions if self._available(number) is not None), default=None)

    def _available(self, number: int) -> Servable | None:
        version = self._versions.get(number)
        return version.servable if version is not None and version.state == _State.AVAILABLE else None

    def _load(self, number: int, path: Path) -> None:
        with self._lock:
            version = self._versions.setdefault(number, _Version())
            if version.state == _State.UNLOADING:
                return  # wanted again, but its last requests run: the next refresh loads it
            if version.error is None and version.servable is not None:
                return
            if version.error is not None and (version.loads >= _MAX_LOADS or time.monotonic() < version.retry_at):
                return
            version.state, version.error = _State.LOADING, None
            version.loads += 1
        start = time.monotonic()
        try:
            self._check_trusted(path)
            with self._metrics.load(str(path)):
                servable = Servable(path, number)
        except Exception as error:  # what TensorFlow raises depends on which file is damaged
            code = error.code if isinstance(error, ServingError) else grpc.StatusCode.FAILED_PRECONDITION
            message = str(error).strip().partition("\n")[0] or type(error).__name__
            with self._lock:
                version.state, version.error = _State.END, ServingError(code, message)
                version.retry_at = time.monotonic() + self._retry_seconds
                answering = self._latest()
            kept = "no version answers" if answering is None else f"version {answering} keeps answering"
            _LOG.error("%s: version %d does not load, %s: %s", self.config.name, number, kept, message)
            return
        with self._lock:
            version.state, version.servable, version.loads = _State.AVAILABLE, servable, 0
        _LOG.info("%s: version %d loaded in %.1f s", self.config.name, number, time.monotonic() - start)

    def _check_trusted(self, path: Path) -> None:
        """Refuses a version with anything that lies elsewhere, or whose content nobody vouches for."""
        for file in (path, *path.rglob("*")):
            if not file.resolve().is_relative_to(self._root):
                raise ServingError(grpc.StatusCode.PERMISSION_DENIED, f"{file} leads outside {self._root}")
        if self._digests is not None:
            self._digests.check(path)

    def _unload(self, number: int) -> None:
        with self._lock:
            self._versions[number].state = _State.UNLOADING
        self._close_idle(number)

    def _close_idle(self, number: int) -> None:
        """Frees a version that is to be unloaded and answers nobody any more."""
        with self._lock:
            version = self._versions.get(number)
            if version is None or version.state != _State.UNLOADING or version.users:
                return
            servable, version.servable, version.state = version.servable, None, _State.END
        if servable is not None:
            servable.close()
        _LOG.info("%s: version %d unloaded", self.config.name, number)


def not_served(name: str, version: int | None) -> ServingError:
    """The error of a request for a model or version that is not loaded."""
    wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return ServingError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}")


def no_status(name: str, version: int | None) -> ServingError:
    """The error of a status request for a model or version that was never seen."""
    wanted = f"versions of model {name}" if version is None else f"version {version} of model {name}"
    return ServingError(grpc.StatusCode.NOT_FOUND, f"Could not find any {wanted}")
