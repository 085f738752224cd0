"""A local directory that follows a base path on an object store: TensorFlow loads models from files."""

import contextlib
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from upath import UPath

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.location import Location, is_remote
from export.server.model_config import VersionPolicy
from export.version.base_path import published_versions
from export.version.stored_versions import fetch_version, is_complete, stored_versions

_LOG = logging.getLogger("export.serve")


class VersionMirror:
    """The versions that a policy wants, each complete from the moment it appears; removed when it is closed.

    Args:
        base_path: the base path on the store.
        policy: which of its versions.

    Attributes:
        directory: the local base path.

    Raises:
        ArtifactError: there is no complete version.
        InputError: the store refuses.
    """

    def __init__(self, base_path: UPath, policy: VersionPolicy = VersionPolicy()) -> None:  # noqa: B008 (immutable)
        self._base_path = base_path
        self._policy = policy
        self._stopped = threading.Event()
        self._scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.directory = Path(self._scratch.name)
        try:
            self.refresh()
            if not published_versions(self.directory):
                raise ArtifactError(f"no version under {base_path}; export.saved_model makes one")
        except BaseException:
            self.close()
            raise

    def refresh(self) -> None:
        """Fetches versions that have appeared and are wanted, then removes those that are not any more.

        Raises:
            InputError: the store refuses; what is there stays.
        """
        here = published_versions(self.directory)
        there = {
            number: version
            for number, version in stored_versions(self._base_path).items()
            if number in here or is_complete(version)
        }
        wanted = self._policy.select(there)
        for number in sorted(wanted - here.keys()):
            fetch_version(there[number], self.directory / str(number))
        if wanted:  # a base path that is empty for a moment changes nothing
            for number in here.keys() - wanted:
                shutil.rmtree(here[number])

    def follow(self, seconds: float) -> None:
        """Refreshes every so many seconds from now on, in a thread of its own."""
        threading.Thread(target=self._follow, args=(seconds,), name="mirror", daemon=True).start()

    def close(self) -> None:
        """Stops following and removes the directory."""
        self._stopped.set()
        self._scratch.cleanup()

    def _follow(self, seconds: float) -> None:
        while not self._stopped.wait(seconds):
            try:
                self.refresh()
            except (InputError, OSError) as error:  # a store that fails for a moment must not end it
                if not self._stopped.is_set():
                    _LOG.error("%s is not followed now: %s", self._base_path, error)


@contextlib.contextmanager
def local_base_path(base_path: Location) -> Iterator[Path]:
    """A base path on this machine: itself, or a copy of the newest version of one on a store.

    Raises:
        ArtifactError: there is no version on the store.
        InputError: the store refuses.
    """
    if not is_remote(base_path):
        yield base_path
        return
    mirror = VersionMirror(base_path)
    try:
        yield mirror.directory
    finally:
        mirror.close()
