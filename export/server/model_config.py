"""The models that a server is told to serve, and which of their versions: TensorFlow Serving's `ModelServerConfig`."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from google.protobuf import text_format
from tensorflow_serving.config import file_system_storage_path_source_pb2, model_server_config_pb2

from beam_pipelines.format.errors import ConfigurationError


class VersionPolicy(NamedTuple):
    """TensorFlow Serving's choices: the latest few versions, all of them, or those named.

    Attributes:
        latest: how many of the largest versions; 0 for all.
        specific: the versions to serve; where there are any, `latest` does not count.
    """

    latest: int = 1
    specific: frozenset[int] = frozenset()

    def select(self, published: Iterable[int]) -> set[int]:
        """The versions to serve of those that are there."""
        if self.specific:
            return set(self.specific.intersection(published))
        ascending = sorted(published)
        return set(ascending[-self.latest :] if self.latest else ascending)

    @classmethod
    def parse(cls, text: str) -> "VersionPolicy":
        """Reads `latest`, `latest:2`, `all` or `specific:3,5`.

        Raises:
            ConfigurationError: it is none of them.
        """
        if text == "all":
            return cls(latest=0)
        if matched := re.fullmatch(r"latest(?::([1-9][0-9]{0,8}))?", text):
            return cls(latest=int(matched[1] or 1))
        if matched := re.fullmatch(r"specific:([0-9]{1,18}(?:,[0-9]{1,18})*)", text):
            return cls(specific=frozenset(map(int, matched[1].split(","))))
        raise ConfigurationError(f"must be `latest:N`, `all` or `specific:V,V`. Received: {text!r}")

    @classmethod
    def from_proto(
        cls, proto: file_system_storage_path_source_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy
    ) -> "VersionPolicy":
        """The policy of a `ModelServerConfig`; an empty one means the latest version."""
        choice = proto.WhichOneof("policy_choice")
        if choice == "all":
            return cls(latest=0)
        if choice == "specific" and proto.specific.versions:
            return cls(specific=frozenset(proto.specific.versions))
        return cls(latest=max(1, proto.latest.num_versions))


class ModelConfig(NamedTuple):
    """One model.

    Attributes:
        name: the name in requests.
        base_path: the directory of its versions.
        policy: which of them are served.
        labels: label to version.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = {}


def check_model_name(name: str) -> None:
    """Refuses a name that no request path can hold.

    Raises:
        ConfigurationError: it is one.
    """
    if not re.fullmatch(r"[^/:\s\x00]+", name):
        raise ConfigurationError(f"a model's name must not be empty or hold `/`, `:` or spaces. Received: {name!r}")


def read_model_configs(file: Path) -> list[ModelConfig]:
    """Reads a `ModelServerConfig` in text format, TensorFlow Serving's `models.config`.

    Raises:
        ConfigurationError: it cannot be read, or not served.
    """
    proto = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(file.read_text("utf-8"), proto)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ConfigurationError(f"{file} is no ModelServerConfig: {error}") from error
    return model_configs(proto)


def model_configs(proto: model_server_config_pb2.ModelServerConfig) -> list[ModelConfig]:
    """The models of a `ModelServerConfig`.

    Raises:
        ConfigurationError: it names none, one twice, or one that is no TensorFlow model at an absolute path.
    """
    if proto.WhichOneof("config") != "model_config_list":
        raise ConfigurationError("only a model_config_list is supported")
    configs: dict[str, ModelConfig] = {}
    for model in proto.model_config_list.config:
        check_model_name(model.name)
        if model.name in configs:
            raise ConfigurationError(f"illegal to list model {model.name} multiple times in config list")
        if model.model_platform != "tensorflow":
            raise ConfigurationError(
                f'model {model.name} must have model_platform "tensorflow". Received: "{model.model_platform}"'
            )
        if not model.base_path.startswith("/") or "\x00" in model.base_path:
            raise ConfigurationError(
                f"model {model.name} must have an absolute base_path. Received: {model.base_path!r}"
            )
        configs[model.name] = ModelConfig(
            model.name,
            Path(model.base_path),
            VersionPolicy.from_proto(model.model_version_policy),
            dict(model.version_labels),
        )
    if not configs:
        raise ConfigurationError("the model_config_list names no model")
    return list(configs.values())
