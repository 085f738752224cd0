"""YAML as configurations have it: the core rules of YAML 1.2, each key once, errors in one line."""

import re
from typing import Any, ClassVar, NoReturn

import yaml

from beam_pipelines.format.errors import ConfigurationError

_MOST_VALUES = 100_000  # of a document whose aliases are written out
_TAG = "tag:yaml.org,2002:"
_RULES = {
    "null": re.compile(r"(~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(
        r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
    ),
}
"""What a plain scalar is that fits, the first of them; a text if none does."""


def read_yaml(text: str, source: str) -> Any:
    """Reads a YAML document.

    Plain values are what the core schema of YAML 1.2 says: `1e-3` is a number, and `on`, `1:30`, `2024-03-01` and
    `1_000` are texts, which older rules take for other things. Merge keys (`<<`) have no meaning of their own.

    Args:
        text: the document.
        source: where it comes from: errors begin with it.

    Returns:
        Dicts with texts for keys, lists, texts, numbers, bools and `None`, which is also what an empty document says.

    Raises:
        ConfigurationError: it is no YAML, a key is no text or there twice, a value is of another type, or aliases have
            no end. In one line, which names the line of the document.
    """
    try:
        node = _Loader(text).get_single_node()
        return None if node is None else _Values().of(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ConfigurationError(f"{source}: not valid YAML: {line}{error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigurationError(f"{source}: not valid YAML: nested too deeply") from error


def write_yaml(value: Any) -> str:
    """A YAML document that `read_yaml` reads back; readers with older rules do, too."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict] = {None: [(f"{_TAG}{kind}", rule) for kind, rule in _RULES.items()]}


class _Dumper(yaml.SafeDumper):
    """Puts a text into quotes that any of the rules takes for something else."""


for _kind, _rule in _RULES.items():
    _Dumper.add_implicit_resolver(f"{_TAG}{_kind}", _rule, None)


class _Values:
    """The values of the nodes of one document."""

    def __init__(self) -> None:
        self._made = 0
        self._inside: set[int] = set()  # nodes whose values are being made

    def of(self, node: yaml.Node) -> Any:
        kind = node.tag.removeprefix(_TAG)
        self._made += 1
        if id(node) in self._inside or self._made > _MOST_VALUES:
            _refuse(node, f"aliases make it more than {_MOST_VALUES} values")
        self._inside.add(id(node))
        if isinstance(node, yaml.MappingNode) and kind == "map":
            value: Any = self._mapping(node)
        elif isinstance(node, yaml.SequenceNode) and kind == "seq":
            value = [self.of(each) for each in node.value]
        elif isinstance(node, yaml.ScalarNode) and kind in (*_RULES, "str"):
            value = _scalar(node, kind)
        else:
            _refuse(node, f"values of the type {node.tag.replace(_TAG, '!!')} are not known")
        self._inside.remove(id(node))
        return value

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{_TAG}str":
                found = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a list or a mapping"
                _refuse(key_node, f"a key must be a text, in quotes if need be. Received: {found}")
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in values:
                _refuse(key_node, f"the key {key} is there twice, in lines {lines[key]} and {line}")
            values[key], lines[key] = self.of(value_node), line
        return values


def _scalar(node: yaml.ScalarNode, kind: str) -> Any:
    text = node.value
    if kind == "str":
        return text
    if not _RULES[kind].match(text):
        _refuse(node, f"must be of the type {kind}. Received: {text[:60]}")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "float":
        return float(re.sub(r"\.(?=[a-z])", "", text.lower()))
    if text.startswith(("0o", "0x")):
        return int(text[2:], 8 if text[1] == "o" else 16)
    try:
        return int(text)
    except ValueError:  # more digits than Python reads
        _refuse(node, f"a number of {len(text)} digits is too long")


def _refuse(node: yaml.Node, problem: str) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
