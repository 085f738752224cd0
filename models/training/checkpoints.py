"""Checkpoints of a run on disk: each of them whole, the newest ones kept, and never those of another run."""

import dataclasses
import fcntl
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.shell.progress import warn

_KEPT = 2
_STATE = "state.json"  # among the arrays


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

    A checkpoint is a file that appears whole or not at all; the two newest are kept. The directory is made for the
    first one. While a run is open, no other may write to the same directory.

    Args:
        path: the directory.
        run: what makes a run what it is, as JSON values by name. Only a run of the same values may go on.
        writes: whether this process writes; others only read.
        restart: whether to throw away what an earlier run has left.

    Attributes:
        path, writes: as given.

    Raises:
        ArtifactError: another run has the directory open, or it cannot be written.
    """

    def __init__(self, path: Path, run: dict[str, Any], *, writes: bool = True, restart: bool = False) -> None:
        self.path = path
        self._run = json.loads(json.dumps(run))
        self.writes = writes
        self._restart = restart

    def __enter__(self) -> "Checkpoints":
        if self.writes:
            self._lock = self._open_lock()
            for abandoned in [*self.path.glob(".step-*"), *(self._files() if self._restart else [])]:
                abandoned.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        if self.writes:
            os.close(self._lock)
            if not self._files():
                self.remove()

    def write(self, checkpoint: Checkpoint) -> bool:
        """Writes a checkpoint and removes what is no longer kept.

        Returns:
            Whether that worked. If the disk is full, for example, a warning is printed: an older checkpoint is better
            than a run that ends.
        """
        path = self.path / f"step-{checkpoint.step:010d}.npz"
        state = json.dumps({"run": self._run, "step": checkpoint.step, **checkpoint.state}, allow_nan=False)
        try:
            with whole_file(path) as scratch, open(scratch, "wb") as file:
                np.savez(file, **{_STATE: np.array(state)}, **checkpoint.arrays)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            warn(f"{path}: the checkpoint of step {checkpoint.step} could not be written ({error}); the run goes on")
            return False
        for old in self._files()[:-_KEPT]:
            old.unlink()
        return True

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint that an earlier run has left, `None` if there is none at all.

        Raises:
            ArtifactError: it is of another run (what differs is named), or all are damaged.
        """
        files = [] if self._restart else self._files()
        for path in reversed(files):
            try:
                return self._read(path)
            except ArtifactError:
                raise
            except (zipfile.BadZipFile, EOFError, KeyError, OSError, ValueError) as error:
                warn(f"{path} is damaged ({error}); left out")
        if files:
            raise ArtifactError(f"{self.path}: every checkpoint is damaged; pass `restart=True` to begin again")
        return None

    def remove(self) -> None:
        """Removes all checkpoints."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _open_lock(self) -> int:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR)
        except OSError as error:
            raise ArtifactError(f"{self.path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise ArtifactError(f"{self.path} is in use by another run; end that one first") from error
        return lock

    def _files(self) -> list[Path]:
        return sorted(self.path.glob("step-*.npz"))

    def _read(self, path: Path) -> Checkpoint:
        with np.load(path) as file:
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
