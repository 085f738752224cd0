"""Pictures that are named by URIs: which can be read here, and reading them."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from upath import UPath

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location, as_location, is_remote, storage_errors
from beam_pipelines.format.remote_file import read_whole
from beam_pipelines.images.refusals import MISSING, BadImageError, quoted
from beam_pipelines.images.shards import MAX_BYTES

_URI = re.compile(r"\s*(?:([A-Za-z][A-Za-z0-9+.\-]+):/|(data):)")  # one letter is a drive of Windows
_WEB = ("http", "https", "ftp", "ftps")
_SAME = {"s3n": "s3"}  # an old name of Hadoop's
_TRIED = 3  # pictures of each bucket


def scheme_of(name: str) -> str:
    """The scheme of a URI in lower case; empty if the name is a path."""
    found = _URI.match(name) if ":" in name else None
    return (found[1] or found[2]).lower() if found else ""


def check_uris(names: Iterable[str], images: Location) -> None:
    """Finds out whether URIs can be read here: of each bucket, by the first byte of one picture or a few.

    Args:
        names: of pictures; those that are paths are left alone.
        images: where pictures could be instead.

    Raises:
        InputError: one cannot. Pictures that are only missing are no error.
    """
    counts: Counter[str] = Counter()
    first: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if scheme := scheme_of(name):
            bucket = f"{scheme}://{name.partition(':')[2].lstrip('/').partition('/')[0]}"
            counts[bucket] += 1
            if len(first[bucket]) < _TRIED:
                first[bucket].append(name)
    for bucket, tried in sorted(first.items()):
        if problem := _problem(bucket.partition(":")[0], tried):
            more = f" and {counts[bucket] - 1} more" if counts[bucket] > 1 else ""
            raise InputError(
                f"items.image: {quoted(tried[0])}{more} cannot be read here: {problem}; copy the pictures into "
                f"{images} and name their paths there"
            )


def _problem(scheme: str, names: Sequence[str]) -> str:
    """Why no URI of a bucket can be read here; empty if they can be read."""
    if scheme == "file":
        return ""
    problem = ""
    for name in names:
        try:
            _read_first_byte(name)
        except InputError as error:
            problem = problem or str(error).partition(": ")[2]
        else:
            return ""
    return problem


def _read_first_byte(uri: str) -> None:
    location = _location(uri)
    with storage_errors(location):
        try:
            read_whole(location, 0)
        except FileNotFoundError:
            bucket = location.path.partition("/")[0]
            if bucket and not location.fs.exists(bucket):
                raise


def _location(uri: str) -> UPath:
    scheme = scheme_of(uri)
    if scheme in _WEB:
        raise InputError(f"{scheme}: nothing is fetched from the web")
    if scheme == "data":
        raise InputError(f"{scheme}: the table must name pictures, not hold them")
    path = uri.strip().partition(":")[2].lstrip("/")
    location = as_location(f"{_SAME.get(scheme, scheme)}://{path}")
    assert is_remote(location)
    return location


def read_uri(uri: str, images: Location) -> bytes:
    """Reads a picture.

    Args:
        uri: what names it.
        images: see `check_uris`.

    Raises:
        BadImageError: it is not there, cannot be read, or is larger than `MAX_BYTES`.
        InputError: URIs of its scheme cannot be read on this machine.
    """
    try:
        location = _location(uri)
    except InputError:
        check_uris([uri], images)
        raise
    return read_remote(location)


def read_remote(location: UPath, size: int | None = None) -> bytes:
    """Reads a picture.

    Args:
        location: the file.
        size: its bytes, if they are known.

    Raises:
        BadImageError: it is not there, cannot be read, or is larger than `MAX_BYTES`.
    """
    if size is not None and size > MAX_BYTES:
        raise BadImageError("too many bytes")
    try:
        content = read_whole(location, MAX_BYTES, size)
    except FileNotFoundError as error:
        raise BadImageError(MISSING) from error
    except Exception as error:  # every file system raises its own
        raise BadImageError("unreadable", f"{type(error).__name__}: {error}") from error
    if len(content) > MAX_BYTES:
        raise BadImageError("too many bytes")
    return content
