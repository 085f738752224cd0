"""Pictures that are named by URIs: which can be read here, and reading them by Beam's file systems."""

import importlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from beam_pipelines.format.errors import InputError
from beam_pipelines.images.refusals import MISSING, BadImageError, quoted
from beam_pipelines.images.shards import MAX_BYTES

_URI = re.compile(r"\s*(?:([A-Za-z][A-Za-z0-9+.\-]+):/|(data):)")  # one letter is a drive of Windows
_WEB = ("http", "https", "ftp", "ftps")
_PACKAGES = {  # what Beam's file systems need, some of which notice only when they read
    "s3": ("boto3", "aws"),
    "gs": ("google.cloud.storage", "gcp"),
    "hdfs": ("hdfs", "hadoop"),
    "azfs": ("azure.storage.blob", "azure"),
}
_SAME = {"s3a": "s3", "s3n": "s3"}  # Hadoop's names


def scheme_of(name: str) -> str:
    """The scheme of a URI in lower case; empty if the name is a path."""
    found = _URI.match(name) if ":" in name else None
    return (found[1] or found[2]).lower() if found else ""


def check_uris(names: Iterable[str], images: Path) -> None:
    """Finds out whether URIs can be read here, without reading one.

    Args:
        names: of pictures; those that are paths are left alone.
        images: where pictures could be instead.

    Raises:
        InputError: one cannot.
    """
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for name in names:
        if scheme := scheme_of(name):
            counts[scheme] += 1
            first.setdefault(scheme, name)
    for scheme, name in sorted(first.items()):
        if problem := _problem(scheme):
            more = f" and {counts[scheme] - 1} more" if counts[scheme] > 1 else ""
            raise InputError(
                f"items.image: {quoted(name)}{more} cannot be read here: {problem}copy the pictures into {images} and "
                "name their paths there"
            )


def _problem(scheme: str) -> str:
    """Why no URI of a scheme can be read here, and what else than copying helps; empty if they can be read."""
    if scheme == "file":
        return ""
    if scheme in _WEB:
        return "nothing is fetched from the web; "
    if scheme == "data":
        return "the table must name pictures, not hold them; "
    scheme = _SAME.get(scheme, scheme)
    if scheme in _PACKAGES:
        module, extra = _PACKAGES[scheme]
        try:
            importlib.import_module(module)
        except ImportError:
            return f"the package {module} is missing; install 'apache-beam[{extra}]', or "
    try:
        FileSystems.get_filesystem(f"{scheme}://")
    except Exception as error:  # every file system raises its own
        if scheme in _PACKAGES:
            return f"{str(error).splitlines()[0]}; pass Beam's options for it, or "
        return f"Beam has no file system {scheme}://; "
    return ""


def read_uri(uri: str, images: Path) -> bytes:
    """Reads a picture.

    Args:
        uri: what names it.
        images: see `check_uris`.

    Raises:
        BadImageError: it is not there, cannot be read, or is larger than `MAX_BYTES`.
        InputError: URIs of its scheme cannot be read on this machine.
    """
    scheme = scheme_of(uri)
    _, _, path = uri.strip().partition(":")
    try:
        with FileSystems.open(f"{_SAME.get(scheme, scheme)}:{path}") as file:
            content = file.read(MAX_BYTES + 1)
    except Exception as error:  # every file system raises its own
        check_uris([uri], images)
        if isinstance(error, FileNotFoundError) or getattr(error, "code", None) == 404:
            raise BadImageError(MISSING) from error
        raise BadImageError("unreadable", f"{type(error).__name__}: {error}") from error
    if len(content) > MAX_BYTES:
        raise BadImageError("too many bytes")
    return content
