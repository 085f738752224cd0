"""Where files lie: a path of this machine, or the URI of an object store or another file system.

fsspec's file systems do the work (s3fs, gcsfs, ...), and each is configured as its own documentation says: credentials
and endpoints come from the environment or its files, never from options of ours.
"""

import contextlib
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from typing_extensions import TypeIs
from upath import UPath
from upath.registry import register_implementation

from beam_pipelines.format.errors import InputError

Location: TypeAlias = Path | UPath
"""A `Path` on this machine, or a `UPath`, which has its methods, for a URI."""

_URI = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_EXTRAS = {"s3": "aws", "s3a": "aws", "gs": "gcp", "gcs": "gcp", "hdfs": "hadoop", "webhdfs": "hadoop"}
# What another process has written must be seen.
_OPTIONS: dict[str, dict[str, Any]] = {scheme: {"use_listings_cache": False} for scheme in ("s3", "s3a", "gs", "gcs")}


class _HadoopPath(UPath):
    """A location whose URI names a host, which fsspec keeps beside the path."""

    __slots__ = ()

    def __str__(self) -> str:
        options = self.storage_options
        user = f"{options['user']}@" if options.get("user") else ""
        port = f":{options['port']}" if options.get("port") else ""
        return f"{self.protocol}://{user}{options.get('host', '')}{port}{self.path}"


def as_location(path: str | Location) -> Location:
    """What a text names: a path, or a URI such as `s3://bucket/folder`.

    Args:
        path: the text; a `Path` or `UPath` stays what it is.

    Raises:
        InputError: the scheme is unknown, the package for it is missing or not configured, or a URI has become a
            `Path`, which loses a slash.

    Example:
        >>> as_location("s3://shop/logs/2026-03-01") / "items.parquet"
        S3Path('shop/logs/2026-03-01/items.parquet', protocol='s3')
    """
    if isinstance(path, UPath):
        return path
    text = str(path)
    uri = _URI.match(text)
    if uri is None:
        if isinstance(path, Path) and re.match(r"(s3a?|gc?s|(web)?hdfs|memory):/", text):
            raise InputError(f"{text} was a URI before it became a Path; pass it as text")
        return Path(path)
    scheme = uri[1].lower()
    if scheme == "file":
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(text).path))
    if scheme in ("hdfs", "webhdfs"):
        register_implementation(scheme, _HadoopPath, clobber=True)
    try:
        found = UPath(text.rstrip("/"), **_OPTIONS.get(scheme, {}))
        _ = found.fs
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        cure = f"pip install 'courier-ranking[{extra}]'" if extra else _first_line(error)
        raise InputError(f"{text}: a package for {scheme}:// is missing: {cure}") from error
    except Exception as error:
        raise InputError(f"{text}: {_first_line(error)}") from error
    return found


def is_remote(location: Location) -> TypeIs[UPath]:
    """Whether it is a URI, which has no rename and no memory maps."""
    return not isinstance(location, Path)


def is_within(location: Location, directory: Location) -> bool:
    """Whether it is the directory or lies below it. Links of local paths are followed."""
    if is_remote(location) or is_remote(directory):
        return f"{location}/".startswith(f"{str(directory).rstrip('/')}/")
    return location.resolve().is_relative_to(directory.resolve())


def entries(directory: UPath) -> list[UPath]:
    """What lies in a remote directory, in order; nothing if it does not exist, for object stores have no directories.

    Raises:
        InputError: the store refuses.
    """
    with storage_errors(directory):
        try:
            names = directory.fs.ls(directory.path, detail=False)
        except FileNotFoundError:
            return []
    found = {name.rstrip("/").rpartition("/")[2] for name in names}
    return [directory / name for name in sorted(found - {"", directory.name})]


def remove_file(path: Location) -> None:
    """Removes a file, if it is there.

    Raises:
        InputError: the store of a remote one refuses.
    """
    if not is_remote(path):
        path.unlink(missing_ok=True)
        return
    with storage_errors(path), contextlib.suppress(FileNotFoundError):
        path.fs.rm_file(path.path)  # unlike `unlink`, it takes [] in a name for what they are


def remove_directory(directory: UPath) -> None:
    """Removes a remote directory, if it is there, and all below.

    Raises:
        InputError: the store refuses.
    """
    # Not by `rm`: it takes [] and * in a name for a pattern, and removes what fits it.
    with storage_errors(directory):
        found = directory.fs.find(directory.path, withdirs=True, detail=True)
        for path, info in sorted(found.items(), reverse=True):
            if info["type"] == "file":
                directory.fs.rm_file(path)
            else:
                with contextlib.suppress(OSError):  # object stores have none to remove
                    directory.fs.rmdir(path)
        with contextlib.suppress(OSError):
            directory.fs.rmdir(directory.path)


@contextlib.contextmanager
def storage_errors(location: Location) -> Iterator[None]:
    """Turns what a remote file system raises into a line that names the location.

    The block must do nothing else: every exception is taken for one of the file system.

    Raises:
        InputError: something went wrong there. Nothing is changed for local paths.
        FileExistsError: a write was to happen only if there was no such file.
    """
    try:
        yield
    except (InputError, FileExistsError):
        raise
    except Exception as error:
        if not is_remote(location):
            raise
        if isinstance(error, FileNotFoundError):
            reason = f"not found ({_first_line(error)})"
        elif isinstance(error, PermissionError):
            reason = f"access denied ({_first_line(error)})"
        else:
            reason = f"{type(error).__name__}: {_first_line(error)}"
        raise InputError(f"{location}: {reason}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
