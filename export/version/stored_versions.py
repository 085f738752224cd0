"""Versions below a base path on an object store, which has no rename: what makes one appear is written last."""

import contextlib
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from upath import UPath

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.location import entries, remove_directory, storage_errors
from beam_pipelines.format.outputs import upload, whole_directory
from export.version.base_path import MAX_VERSION, RANKER_METADATA_FILE

SAVED_MODEL_FILE = "saved_model.pb"

_TRANSFERS = 8  # at once


def stored_versions(base_path: UPath) -> dict[int, UPath]:
    """Version to directory for everything that TensorFlow Serving would take for a version, complete or not.

    Raises:
        InputError: the store refuses.
    """
    found = [path for path in entries(base_path) if re.fullmatch("[0-9]+", path.name)]
    return {int(path.name): path for path in found if int(path.name) <= MAX_VERSION}


def is_complete(version: UPath) -> bool:
    """Whether all of a version is there.

    Raises:
        InputError: the store refuses.
    """
    with storage_errors(version):
        return (version / SAVED_MODEL_FILE).exists()


def check_writable(base_path: UPath) -> None:
    """Learns whether something can be written there before there is something to write.

    Raises:
        InputError: the store refuses.
    """
    probe = base_path / f".publishing-{uuid.uuid4().hex}"
    with storage_errors(base_path):
        probe.fs.pipe_file(probe.path, b"")
        probe.fs.rm_file(probe.path)


def store_version(directory: Path, version: UPath) -> None:
    """Writes a version. Its `saved_model.pb`, without which no server can load it, comes last.

    Args:
        directory: the version; its files are used up.
        version: where it goes: base path and number.

    Raises:
        ArtifactError: somebody else has written the same version meanwhile.
        InputError: the store refuses; nothing is left then, as far as it lets us.
    """
    claim = version / RANKER_METADATA_FILE
    with storage_errors(claim):
        try:
            claim.fs.pipe_file(claim.path, (directory / RANKER_METADATA_FILE).read_bytes(), mode="create")
        except FileExistsError as error:
            raise ArtifactError(f"{version} was published by somebody else meanwhile; publish again") from error
    try:
        last = (directory / SAVED_MODEL_FILE).rename(directory.with_name(f"{directory.name}.{SAVED_MODEL_FILE}"))
        upload(directory, version)
        with storage_errors(version):
            version.fs.put_file(str(last), (version / SAVED_MODEL_FILE).path)
    except BaseException:
        with contextlib.suppress(InputError):
            remove_directory(version)
        raise


def fetch_version(version: UPath, directory: Path) -> None:
    """Copies a version to a local directory, which appears whole or not at all.

    Raises:
        ArtifactError: the directory exists or cannot be written.
        InputError: the store refuses.
    """
    with storage_errors(version):
        files = version.fs.find(version.path)
    prefix = f"{version.path.rstrip('/')}/"
    with whole_directory(directory) as scratch, ThreadPoolExecutor(_TRANSFERS) as pool:

        def fetch(path: str) -> None:
            target = scratch / path.removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            with storage_errors(version):
                version.fs.get_file(path, str(target))

        for _ in pool.map(fetch, files):
            pass
