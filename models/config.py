"""Strict, typed configuration: YAML files and `--set key=value` overrides, checked before any work starts."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import pydantic
import yaml

from beam_pipelines.format.errors import ConfigurationError

PRESETS = Path(__file__).parent / "configs"


class Config(pydantic.BaseModel):
    """Base of all configurations: unknown keys, wrong types and NaN are errors, values cannot change later."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def to_yaml(self) -> str:
        """The configuration as a YAML document that `load_config` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def flat(self, exclude: set[str] | None = None) -> dict[str, Any]:
        """The values by key as `--set` takes them, the keys of sections joined by dots."""
        return _flat(self.model_dump(mode="json", exclude=exclude))


ConfigT = TypeVar("ConfigT", bound=Config)


class _Loader(yaml.SafeLoader):
    """Reads `1e-3` as a number, as YAML 1.2 does and people write it."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), "-+0123456789")


def load_config(kind: type[ConfigT], file: str | None, overrides: Sequence[str] = ()) -> ConfigT:
    """Reads a configuration.

    Args:
        kind: the configuration class.
        file: a YAML file, or the name of a preset in `models/configs`; `None` takes the defaults of `kind`.
        overrides: `key=value` texts; `a.b=value` reaches into a section, the value is read as YAML.

    Raises:
        ConfigurationError: the file is missing or no mapping, or a key, which is named, is unknown or has the wrong
            type.
    """
    values: dict[str, Any] = {}
    if file is not None:
        path = Path(file) if Path(file).is_file() else PRESETS / f"{file}.yaml"
        if not path.is_file():
            presets = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
            raise ConfigurationError(f"`config`: no file {file} and no preset of that name (presets: {presets})")
        try:
            values = yaml.load(path.read_text(), _Loader) or {}
        except yaml.YAMLError as error:
            raise ConfigurationError(f"{path}: not valid YAML: {error}") from error
        if not isinstance(values, dict):
            raise ConfigurationError(f"{path}: must be a mapping of keys to values")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigurationError(f"`overrides`: expected key=value. Received: {override}")
        section = values
        *parents, last = key.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ConfigurationError(f"`overrides` {override}: {parent} is a value, not a section")
        try:
            section[last] = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise ConfigurationError(f"`overrides` {override}: the value is not valid YAML") from error
    try:
        # JSON mode reads 1 as a float and lists as tuples, and is strict about everything else.
        return kind.model_validate_json(_json(values))
    except pydantic.ValidationError as error:
        raise ConfigurationError("configuration: " + "; ".join(_explain(kind, e) for e in error.errors())) from error


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _json(values: dict) -> str:
    try:
        return json.dumps(values)
    except TypeError as error:
        raise ConfigurationError(f"configuration: {error}") from error


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
