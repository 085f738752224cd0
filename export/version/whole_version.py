"""A version directory appears whole, under a number that no other version has, or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from beam_pipelines.format.errors import InputError, about
from beam_pipelines.format.location import Location, as_location, is_remote
from beam_pipelines.format.outputs import whole_directory
from export.version.base_path import MAX_VERSION, published_versions
from export.version.stored_versions import check_writable, store_version, stored_versions


def new_version(base_path: str | Location, version: int | None) -> tuple[Location, int]:
    """Finds the number of a version to publish.

    Args:
        base_path: the directory of the versions, or its URI.
        version: the number; `None` for one more than the largest there.

    Returns:
        The directory and the number.

    Raises:
        InputError: the directory cannot be used, or it has a version of this number.
    """
    with about("base_path"):
        base_path = as_location(base_path)
    if not is_remote(base_path) and base_path.exists() and not base_path.is_dir():
        raise InputError(f"`base_path`: {base_path} is not a directory")
    with about("base_path"):
        if is_remote(base_path):
            check_writable(base_path)
        taken = stored_versions(base_path) if is_remote(base_path) else published_versions(base_path)
    return base_path, _version_number(base_path, taken, version)


@contextlib.contextmanager
def whole_version(base_path: Location, number: int) -> Iterator[Path]:
    """Yields a local directory that becomes the version when the block ends well, and vanishes when it does not.

    Until then it is `.../NUMBER`, alone in a directory that a server can be pointed at.

    Args:
        base_path: the directory of the versions, or its URI.
        number: of the version.
    """
    version = base_path / str(number)
    if not is_remote(version):
        with whole_directory(version) as output, _staged(output, number) as staged:
            yield staged
        return
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, version.name)
        output.mkdir()
        with _staged(output, number) as staged:
            yield staged
        store_version(output, version)


@contextlib.contextmanager
def _staged(output: Path, number: int) -> Iterator[Path]:
    staged = output / str(number)
    yield staged
    for path in [*staged.iterdir()]:
        path.rename(output / path.name)
    staged.rmdir()
    _flush_to_disk(output)


def _flush_to_disk(directory: Path) -> None:
    """Makes sure that a crash of the machine after the rename cannot leave a version with empty files."""
    for path in [*directory.rglob("*"), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _version_number(base_path: Location, taken: Mapping[int, Location], version: int | None) -> int:
    number = max(taken, default=0) + 1 if version is None else version
    if not 1 <= number <= MAX_VERSION:
        raise InputError(f"`version` must be between 1 and {MAX_VERSION}. Received: {number}")
    if number in taken or (not is_remote(base_path) and (base_path / str(number)).exists()):
        raise InputError(f"`version`: {base_path} has a version {number}; a published version never changes")
    return number
