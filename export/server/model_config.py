"""The models that a server is told to serve: TensorFlow Serving's `ModelServerConfig`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from export.server.version_policy import VersionPolicy


class ConfigError(ValueError):
    """A configuration that cannot be served; says why."""


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
        ConfigError: it is one.
    """
    if not re.fullmatch(r"[^/:\s\x00]+", name):
        raise ConfigError(f"a model's name must not be empty or hold `/`, `:` or spaces. Received: {name!r}")


def read_model_configs(file: Path) -> list[ModelConfig]:
    """Reads a `ModelServerConfig` in text format, TensorFlow Serving's `models.config`.

    Raises:
        ConfigError: it cannot be read, or not served.
    """
    proto = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(file.read_text("utf-8"), proto)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ConfigError(f"{file} is no ModelServerConfig: {error}") from error
    return model_configs(proto)


def model_configs(proto: model_server_config_pb2.ModelServerConfig) -> list[ModelConfig]:
    """The models of a `ModelServerConfig`.

    Raises:
        ConfigError: it names none, one twice, or one that is no TensorFlow model at an absolute path.
    """
    if proto.WhichOneof("config") != "model_config_list":
        raise ConfigError("only a model_config_list is supported")
    configs: dict[str, ModelConfig] = {}
    for model in proto.model_config_list.config:
        check_model_name(model.name)
        if model.name in configs:
            raise ConfigError(f"illegal to list model {model.name} multiple times in config list")
        if model.model_platform != "tensorflow":
            raise ConfigError(
                f'model {model.name} must have model_platform "tensorflow". Received: "{model.model_platform}"'
            )
        if not model.base_path.startswith("/") or "\x00" in model.base_path:
            raise ConfigError(f"model {model.name} must have an absolute base_path. Received: {model.base_path!r}")
        configs[model.name] = ModelConfig(
            model.name,
            Path(model.base_path),
            VersionPolicy.from_proto(model.model_version_policy),
            dict(model.version_labels),
        )
    if not configs:
        raise ConfigError("the model_config_list names no model")
    return list(configs.values())
