"""Strict, typed configuration: YAML files and `--set key=value` overrides, checked before any work starts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import pydantic

from beam_pipelines.format.errors import ConfigurationError
from beam_pipelines.format.text_file import read_text
from models.yaml_file import read_yaml, write_yaml

PRESETS = Path(__file__).parent / "configs"


class Config(pydantic.BaseModel):
    """Base of all configurations: unknown keys, wrong types and NaN are errors, values cannot change later."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def to_yaml(self, exclude: set[str] | None = None) -> str:
        """The configuration as a YAML document that `load_config` reads back; what is left out is at its default."""
        return write_yaml(self.model_dump(mode="json", exclude=exclude))

    def flat(self, exclude: set[str] | None = None) -> dict[str, Any]:
        """The values by key as `--set` takes them, the keys of sections joined by dots."""
        return _flat(self.model_dump(mode="json", exclude=exclude))


ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(kind: type[ConfigT], file: str | None, overrides: Sequence[str] = ()) -> ConfigT:
    """Reads a configuration.

    Args:
        kind: the configuration class.
        file: a YAML file, see `read_yaml`, or the name of a preset in `models/configs`; `None` takes the defaults of
            `kind`.
        overrides: `key=value` texts; `a.b=value` reaches into a section, the value is read as YAML. Of two for one key,
            the last counts.

    Raises:
        InputError: the file cannot be read.
        ConfigurationError: the file is missing or no mapping, or a key, which is named, is unknown or has the wrong
            type.
    """
    values: dict[str, Any] = {}
    source = "configuration"
    if file is not None:
        source = str(path := _config_file(file))
        values = read_yaml(read_text(path), source)
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise ConfigurationError(f"{path}: must be a mapping of keys to values")
        if overrides:
            source += ", changed by `overrides`"
    for override in overrides:
        _override(values, override)
    try:
        # JSON mode reads 1 as a float and lists as tuples, and is strict about everything else.
        return kind.model_validate_json(json.dumps(values))
    except pydantic.ValidationError as error:
        raise ConfigurationError(f"{source}: " + "; ".join(_explain(kind, e) for e in error.errors())) from error


def _config_file(file: str) -> Path:
    """The file of this path, or the preset of this name."""
    path, preset = Path(file), PRESETS / f"{file}.yaml"
    try:
        if preset.is_file() and not path.is_file():
            return preset
        path.stat()
    except (FileNotFoundError, ValueError) as error:  # a null byte is in no file's name
        presets = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
        raise ConfigurationError(f"`config`: no file {file} and no preset of that name (presets: {presets})") from error
    except OSError:
        pass  # whoever reads it says why
    return path


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *parents, last = key.split(".")
    if not equals or not all((*parents, last)):
        raise ConfigurationError(f"`overrides`: expected key=value. Received: {override}")
    section = values
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ConfigurationError(f"`overrides` {override}: {parent} is a value, not a section")
    section[last] = read_yaml(text, f"`overrides` {override}")


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _explain(kind: type[Config], error: Mapping[str, Any]) -> str:
    keys: list[str] = []
    section: Any = kind
    choices: dict[str, type[Config]] = {}
    for part in error["loc"]:
        if part in choices:  # not a key: pydantic says which member of the union it tried
            section, choices = choices[part], {}
            continue
        keys.append(str(part))
        field = getattr(section, "model_fields", {}).get(part)
        if field is not None:
            section, choices = field.annotation, _choices(field.annotation, field.discriminator)
        elif values := _values_of_mapping(section):  # the part is a key of it
            section, choices = values, _choices(values, None)
    key = ".".join(keys)
    if error["type"] == "extra_forbidden":
        return f"unknown key {key} (known: {', '.join(getattr(section, 'model_fields', {}))})"
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        name = error["ctx"]["discriminator"].strip("'")
        received = error["ctx"].get("tag", "nothing")
        return f"{key}.{name}: must be one of {', '.join(choices)}. Received: {received}"
    if error["type"] == "value_error":  # of a validator of ours, which names its keys
        return ": ".join(filter(None, [key, str(error["ctx"]["error"])]))
    received = "" if error["type"] == "missing" else f". Received: {error['input']!r}"
    return f"{key}: {error['msg']}{received}"


def _choices(annotation: Any, discriminator: str | None) -> dict[str, type[Config]]:
    """The sections that may stand at a place whose discriminator says which one does."""
    if get_origin(annotation) is Annotated:
        annotation, field = get_args(annotation)
        discriminator = field.discriminator
    if not discriminator:
        return {}
    return {member.model_fields[discriminator].default: member for member in get_args(annotation)}


def _values_of_mapping(annotation: Any) -> Any:
    """What the values of `dict[str, ...]`, or of that or `None`, are; `None` if it is no mapping."""
    for member in (annotation, *get_args(annotation)):
        if get_origin(member) is dict:
            return get_args(member)[1]
    return None
