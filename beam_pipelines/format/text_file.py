"""Text and JSON files of users and of artifacts: read whole or refused in one line, and written as strict JSON."""

import codecs
import json
import math
import stat
from pathlib import Path
from typing import Any, NoReturn

from beam_pipelines.format.errors import ArtifactError, InputError

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_text(path: Path) -> str:
    """Reads a text file: UTF-8, or UTF-16 that begins with its mark, as PowerShell writes it.

    Raises:
        InputError: the file cannot be read, is no file (a pipe, for example), or is in another encoding; the message
            begins with its path.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a directory" if path.is_dir() else "a pipe or a device"
            raise InputError(f"{path}: must be a file. Received: {kind}")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: must be UTF-8, or UTF-16 with its mark. Received: the byte 0x{content[error.start]:02x} in line "
            f"{line} (byte {error.start + 1} of the file)"
        ) from error


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        ArtifactError: it cannot be read, or is no JSON: NaN is none, and an object has each key once.
    """
    try:
        return parse_json(read_text(path))
    except InputError as error:
        raise ArtifactError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: is no JSON: {error}") from error


def parse_json(text: str) -> Any:
    """Parses strict JSON.

    Raises:
        ValueError: it is none; NaN and infinity are not, and an object has each key once.
    """
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)


def finite(value: Any) -> Any:
    """A report with `None` instead of numbers that JSON does not have: NaN, where a figure is undefined, and infinity.

    Args:
        value: dicts, lists, tuples and what JSON holds.
    """
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Writes JSON for programs and people, `null` where a figure is undefined; see `finite`."""
    path.write_text(json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"an object has the key {key!r} twice")
        found[key] = value
    return found
