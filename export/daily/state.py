"""The state directory of daily work: what each day has made so far, and who is at work."""

import contextlib
import datetime
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.format.text_file import finite, read_json, write_json
from beam_pipelines.shell.progress import say

_LOCK = ".lock"
_DAYS = "days"
_STEPS = "steps"
_OPTIONS = "options.json"


class DayStart(NamedTuple):
    """What a day begins with: what the day before has left, or what the first day is given.

    Attributes:
        data: dataset.
        embeddings, clusters: of its items; `None` if the ranker has no need of them.
        ranker: run of the ranker to go on from.
        served: run of the ranker that serves; `None` before the first version is published.
    """

    data: str
    embeddings: str | None
    clusters: str | None
    ranker: str
    served: str | None


class StateDirectory:
    """A state directory.

    Files: `ledger.jsonl` and `ledger.html`, and for each of the latest days `days/DAY/` with what its steps have made,
    and `days/DAY/steps/STEP.json` for each step that is done.

    Args:
        path: the directory; it is made if it does not exist.

    Raises:
        ArtifactError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ArtifactError(f"`state`: {path} is not a directory") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other runs out of the block; the lock of one that is killed goes with it.

        Raises:
            InputError: another one is at work.
        """
        with open(self.path / _LOCK, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"`state`: another run is at work in {self.path}") from error
            yield

    def day(self, day: datetime.date) -> "DayDirectory":
        """Where the work of a day lies."""
        return DayDirectory(self.path / _DAYS / day.isoformat())

    def remove_days(self, keep: int) -> None:
        """Removes what all days but the latest ones have made; the ledger keeps them."""
        days = sorted(path for path in (self.path / _DAYS).glob("*-*-*") if path.is_dir())
        for path in days[: max(0, len(days) - keep)]:
            shutil.rmtree(path)


class DayDirectory:
    """What the steps of a day have made: each output whole or absent, each step that is done on record.

    Args:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, options: Mapping[str, Any]) -> None:
        """Makes the directory, or goes on in it.

        Args:
            options: what shapes what the steps make, as JSON.

        Raises:
            ArtifactError: it was begun with other options.
        """
        path = self.path / _OPTIONS
        told = json.loads(json.dumps(finite(dict(options))))
        if path.is_file():
            before = read_json(path)
            if differing := sorted(name for name in {*before, *told} if before.get(name) != told.get(name)):
                raise ArtifactError(
                    f"the work on {self.path.name} was begun with another `{differing[0]}` "
                    f"({before.get(differing[0])}); pass `restart=True` to begin anew"
                )
            return
        (self.path / _STEPS).mkdir(parents=True, exist_ok=True)
        with whole_file(path) as scratch:
            write_json(scratch, told)

    def remove(self) -> None:
        """Throws away what was made; by a rename first, so that nothing is left half."""
        if self.path.exists():
            gone = self.path.with_name(f".{self.path.name}.removed")
            shutil.rmtree(gone, ignore_errors=True)
            os.replace(self.path, gone)
            shutil.rmtree(gone)

    def step(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Does a step unless it is done, and records it.

        Args:
            name: of the step.
            work: does it. It may be called again after it was killed anywhere: what it makes appears whole, and what is
                there is not made again.

        Returns:
            What `work` returned, then or now, as JSON holds it.
        """
        record = self.record(name)
        if record is not None:
            return record["result"]
        say(f"{self.path.name}: {name}")
        start = time.monotonic()
        result = work()
        with whole_file(self.path / _STEPS / f"{name}.json") as scratch:
            write_json(scratch, {"result": result, "seconds": round(time.monotonic() - start, 1)})
        return read_json(self.path / _STEPS / f"{name}.json")["result"]

    def record(self, name: str) -> dict[str, Any] | None:
        """What is on record of a step: `result`, and the `seconds` it took; `None` if it is not done."""
        path = self.path / _STEPS / f"{name}.json"
        return read_json(path) if path.is_file() else None
