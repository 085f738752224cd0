"""Remote directories as local ones, so that what reads them needs no network and no other library.

A copy is a directory of links into a cache of files by content hash, in `$COURIER_CACHE` or `~/.cache/courier-ranking`.
It may be removed at any time that nobody reads it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from upath import UPath

from beam_pipelines.format.contents import Contents
from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.location import Location, as_location, is_remote, storage_errors
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.shell.progress import progress_bar

_ORIGIN = ".origin.json"
_TRANSFERS = 8  # at once


def local_copy(location: Location, only: Iterable[str] | None = None) -> Path:
    """A directory on this machine that holds what lies at a location.

    What was written by `outputs` is read as its `contents.json` says, and each file compared with its digest. Of what
    another program copied there, all files are taken as they are.

    Args:
        location: a local directory, which is returned as it is, or a remote one.
        only: paths that are needed now; `fetch` gets others when they are. `None` for all.

    Raises:
        ArtifactError: nothing lies there, or a file differs from what `contents.json` says.
        InputError: the store refuses.
    """
    if not is_remote(location):
        return location
    contents = Contents.read(location)
    if contents is not None:
        directory, files = location / contents.attempt, {file.path: file.sha256 for file in contents.files}
        version = contents.attempt
    else:
        directory = location
        with storage_errors(location):
            found = location.fs.find(location.path, detail=True)
        if not found:
            raise ArtifactError(f"{location}: nothing lies there")
        prefix = location.path.rstrip("/") + "/"
        files = {path.removeprefix(prefix): "" for path in found}
        version = repr(sorted((path, repr(info)) for path, info in found.items()))
    key = hashlib.sha256(f"{location}\n{version}".encode()).hexdigest()
    copy = _cache() / "directories" / key / location.name
    if not (copy / _ORIGIN).exists():
        with whole_file(copy / _ORIGIN) as scratch:
            scratch.write_text(json.dumps({"directory": str(directory), "files": files}))
    fetch(copy, files if only is None else only)
    return copy


def fetch(directory: Path, paths: Iterable[str]) -> None:
    """Gets files that a copy does not have yet; does nothing for a directory that is not a copy.

    Args:
        directory: from `local_copy`, or any other.
        paths: relative to it. Those that do not exist at its origin are left out.

    Raises:
        ArtifactError: a file differs from what `contents.json` says.
        InputError: the store refuses.
    """
    missing = [path for path in paths if not (directory / path).exists()]
    if not missing or not (directory / _ORIGIN).exists():
        return
    origin = _origin(directory)
    remote = as_location(origin["directory"])
    if not is_remote(remote):
        raise InputError(f"{directory / _ORIGIN} names no remote directory. Received: {remote}")
    wanted = [
        _Wanted(remote / path, origin["files"][path], directory / path) for path in missing if path in origin["files"]
    ]
    with ThreadPoolExecutor(_TRANSFERS) as pool:
        fetched = pool.map(_fetch, wanted)
        for _ in progress_bar(fetched, total=len(wanted), desc=f"reading {directory.name}", unit="file"):
            pass


def names_in(directory: Path, folder: str) -> list[str]:
    """Names of the files in a folder of a directory, in order: of a copy also those that were not fetched yet."""
    if (directory / _ORIGIN).exists():
        prefix = f"{folder}/"
        below = [path.removeprefix(prefix) for path in _origin(directory)["files"] if path.startswith(prefix)]
        return sorted(name for name in below if "/" not in name)
    return sorted(path.name for path in (directory / folder).glob("*") if path.is_file())


class _Wanted(NamedTuple):
    source: UPath
    sha256: str  # empty if it is not known
    target: Path


def _fetch(wanted: _Wanted) -> None:
    source, sha256, target = wanted
    cached = _cache() / "files" / sha256 if sha256 else target
    if not cached.exists():
        with whole_file(cached) as scratch:
            with storage_errors(source):
                source.fs.get_file(source.path, str(scratch))
            if sha256 and file_sha256(scratch) != sha256:
                raise ArtifactError(f"{source} is not the file that contents.json lists; make it again")
    if cached is not target:
        with whole_file(target) as scratch:
            try:
                os.link(cached, scratch)
            except OSError:  # a file system without links
                shutil.copyfile(cached, scratch)


def _origin(directory: Path) -> dict[str, Any]:
    return json.loads((directory / _ORIGIN).read_text())


def _cache() -> Path:
    return Path(os.environ.get("COURIER_CACHE") or Path.home() / ".cache" / "courier-ranking")
