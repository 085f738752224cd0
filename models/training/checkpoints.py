"""Checkpoints of a run: each of them whole, the newest ones kept, and never those of another run."""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import socket
import tempfile
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.location import Location, entries, is_remote, remove_directory, storage_errors
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.shell.progress import warn

_STATE = "state.json"  # among the arrays
_OWNER = "owner"  # of a remote directory: who writes there


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a run was.

    Attributes:
        step: number of steps done.
        arrays: what the model consists of, by name.
        state: everything else, as JSON values.
    """

    step: int
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run: `with Checkpoints(path, run) as checkpoints: ...`.

    A checkpoint is a file that appears whole or not at all. The directory is made for the first one.

    On a local file system, no other run may write to the same directory while one is open. A store has no lock that
    ends with the machine that holds it, so that there the run that was opened last is the one that writes: an earlier
    one, which may hang or be cut off, ends before its next checkpoint. Neither can damage what the other has written.

    Args:
        path: the directory.
        run: what makes a run what it is, as JSON values by name. Only a run of the same values may go on.
        writes: whether this process writes; others only read.
        restart: whether to throw away what an earlier run has left.
        kept: how many of the newest are kept; `None` for all.

    Attributes:
        path, writes: as given.

    Raises:
        ArtifactError: another run has the directory open, or it cannot be written.
        InputError: the store of a remote directory refuses.
    """

    def __init__(
        self,
        path: Location,
        run: dict[str, Any],
        *,
        writes: bool = True,
        restart: bool = False,
        kept: int | None = 2,
    ) -> None:
        self.path = path
        self._run = json.loads(json.dumps(run))
        self.writes = writes
        self._restart = restart
        self._kept = kept
        self._owner = f"{socket.gethostname()}, process {os.getpid()}, run {uuid.uuid4().hex}"

    def __enter__(self) -> "Checkpoints":
        if self.writes:
            self._take()
            for abandoned in self._files() if self._restart else []:
                self._unlink(abandoned)
        return self

    def __exit__(self, *_: object) -> None:
        if not self.writes:
            return
        if not is_remote(self.path):
            os.close(self._lock)
            if not self._files():
                self.remove()
            return
        with contextlib.suppress(InputError):  # a store that has gone away must not hide why the run ends
            if not self._files() and self._read_owner() == self._owner:
                self.remove()

    def write(self, checkpoint: Checkpoint) -> bool:
        """Writes a checkpoint and removes what is no longer kept.

        Returns:
            Whether that worked. If the disk is full, for example, a warning is printed: an older checkpoint is better
            than a run that ends.

        Raises:
            ArtifactError: another run writes to the same remote directory now.
        """
        path = self.path / f"step-{checkpoint.step:010d}.npz"
        state = json.dumps({"run": self._run, "step": checkpoint.step, **checkpoint.state}, allow_nan=False)
        try:
            self._refuse_other_owner()
            with whole_file(path) as scratch, open(scratch, "wb") as file:
                np.savez(file, **{_STATE: np.array(state)}, **checkpoint.arrays)
                file.flush()
                os.fsync(file.fileno())
            for old in self._files()[: -self._kept] if self._kept else []:
                self._unlink(old)
        except ArtifactError:
            raise
        except (OSError, InputError) as error:
            warn(f"{path}: the checkpoint of step {checkpoint.step} could not be written ({error}); the run goes on")
            return False
        return True

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint that an earlier run has left, `None` if there is none at all.

        Raises:
            ArtifactError: it is of another run (what differs is named), or all are damaged.
        """
        files = [] if self._restart else self._files()
        for path in reversed(files):
            if (checkpoint := self._whole(path)) is not None:
                return checkpoint
        if files:
            raise ArtifactError(f"{self.path}: every checkpoint is damaged; pass `restart=True` to begin again")
        return None

    def all(self) -> Iterator[Checkpoint]:
        """All checkpoints that an earlier run has left, the oldest first, up to one that is damaged."""
        for path in [] if self._restart else self._files():
            if (checkpoint := self._whole(path)) is None:
                return
            yield checkpoint

    def remove(self) -> None:
        """Removes all checkpoints."""
        if is_remote(self.path):
            # Those that stay do no harm, and the run has its output.
            with contextlib.suppress(InputError):
                remove_directory(self.path)
        else:
            shutil.rmtree(self.path, ignore_errors=True)

    def _take(self) -> None:
        """Makes this run the one that writes."""
        if is_remote(self.path):
            with whole_file(self.path / _OWNER) as scratch:
                scratch.write_text(self._owner)
            return
        self._lock = self._open_lock(self.path)
        for abandoned in self.path.glob(".step-*"):
            abandoned.unlink()

    def _refuse_other_owner(self) -> None:
        if is_remote(self.path) and (owner := self._read_owner()) != self._owner:
            raise ArtifactError(f"{self.path} is in use by another run now ({owner}); this one ends")

    def _read_owner(self) -> str:
        with storage_errors(self.path):
            try:
                return (self.path / _OWNER).read_text()
            except FileNotFoundError:
                return "which has ended"

    def _open_lock(self, path: Path) -> int:
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_CREAT | os.O_RDWR)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise ArtifactError(f"{path} is in use by another run; end that one first") from error
        return lock

    def _files(self) -> list[Location]:
        if is_remote(self.path):
            return [path for path in entries(self.path) if path.name.startswith("step-")]
        return sorted(self.path.glob("step-*.npz"))

    def _unlink(self, path: Location) -> None:
        with storage_errors(path), contextlib.suppress(FileNotFoundError):
            path.unlink()

    def _whole(self, path: Location) -> Checkpoint | None:
        """Reads a checkpoint; warns of one that is damaged."""
        with contextlib.ExitStack() as stack:
            if is_remote(path):
                local = Path(stack.enter_context(tempfile.TemporaryDirectory()), path.name)
                with storage_errors(path):
                    path.fs.get_file(path.path, str(local))
            else:
                local = path
            try:
                return self._read(path, local)
            except ArtifactError:
                raise
            except (zipfile.BadZipFile, EOFError, KeyError, OSError, ValueError) as error:
                warn(f"{path} is damaged ({error}); left out")
                return None

    def _read(self, path: Location, local: Path) -> Checkpoint:
        with np.load(local) as file:
            arrays = {name: file[name] for name in file.files}
        state = json.loads(str(arrays.pop(_STATE)))
        run = state.pop("run")
        if differing := [key for key in sorted({*run, *self._run}) if run.get(key) != self._run.get(key)]:
            values = "; ".join(f"{key} {run.get(key)} there, {self._run.get(key)} here" for key in differing)
            raise ArtifactError(
                f"{path} is of another run ({values}); repeat that one's options, or pass `restart=True` to throw it "
                "away"
            )
        return Checkpoint(state.pop("step"), arrays, state)
