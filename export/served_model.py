"""The model that a server answers for, and which of its versions are loaded."""

from pathlib import Path

import grpc
from tensorflow_serving.apis import get_model_status_pb2

from export.model_versions import published_versions
from export.servable import Servable
from export.serving_error import ServingError


class ServedModel:
    """A named model with its loaded versions.

    Args:
        name: the name in requests.
        versions: version number to loaded model; at least one.
    """

    def __init__(self, name: str, versions: dict[int, Servable]) -> None:
        self.name = name
        self._versions = versions

    @classmethod
    def load_latest(cls, name: str, base_path: Path) -> "ServedModel":
        """Loads the largest version under `base_path`, TensorFlow Serving's default policy.

        Raises:
            FileNotFoundError: there is no version.
            Exception: the version does not load (see `Servable`).
        """
        paths = published_versions(base_path)
        if not paths:
            raise FileNotFoundError(f"no version under {base_path}")
        latest = max(paths)
        return cls(name, {latest: Servable(paths[latest], latest)})

    @property
    def latest(self) -> Servable:
        """The version that answers requests which name none."""
        return self._versions[max(self._versions)]

    def find(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """The version that a request asks for; the latest if it names none.

        Raises:
            ServingError: it is not served here.
        """
        if not name:
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        if label is not None:
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
        if name != self.name or (version is not None and version not in self._versions):
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}")
        return self.latest if version is None else self._versions[version]

    def status(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The states of the versions that a status request asks for; of all if it names none.

        Raises:
            ServingError: there is none.
        """
        if not name:
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        if label is not None:
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
        response = get_model_status_pb2.GetModelStatusResponse()
        if name == self.name:
            for number in sorted(self._versions, reverse=True):
                if version in (None, number):
                    state = response.model_version_status.add(version=number)
                    state.state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
                    state.status.SetInParent()  # present and empty: error code OK
        if not response.model_version_status:
            wanted = f"versions of model {name}" if version is None else f"version {version} of model {name}"
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Could not find any {wanted}")
        return response

    def close(self) -> None:
        """Frees all versions."""
        for servable in self._versions.values():
            servable.close()
