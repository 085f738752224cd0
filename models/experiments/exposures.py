"""The exposure log of experiments: which user saw which page in which arm, a JSON object per line."""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.shell.progress import warn
from models.experiments.experiment import Experiment

_MAX_UNFINISHED = 0.01
_EARLIEST = 788_918_400_000  # 1995; earlier ones are seconds
_TEXTS = ("experiment", "arm", "user_id", "page_id")


class ExposureLog:
    """Appends exposures to a file; a context manager.

    Each is one line, written by one call to the operating system on a file that is open for appending, so that several
    threads and processes may write to one local file. A line that a killed process has left unfinished stays alone:
    the next log begins a new one.

    Args:
        path: the file; it is made if it does not exist.
    """

    def __init__(self, path: Path | str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._lock = threading.Lock()
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(
        self, experiment: str, arm: str, user_id: str, page_id: str, timestamp: int, version: int | None
    ) -> None:
        """Appends one exposure.

        Args:
            experiment: its name.
            arm: the name of the user's arm.
            user_id: the user.
            page_id: the page; may be empty.
            timestamp: of the page, in epoch milliseconds.
            version: of the ranker that has ranked the page; `None` if none has.
        """
        entry = {"experiment": experiment, "arm": arm, "user_id": user_id, "page_id": page_id}
        line = json.dumps(entry | {"timestamp": timestamp, "version": version}) + "\n"
        rest = memoryview(line.encode())
        with self._lock:
            while rest:  # a disk that is full, or a signal, may end a write early
                rest = rest[os.write(self._file, rest) :]

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)


class Exposures(NamedTuple):
    """The users of an experiment.

    Attributes:
        user_ids: each user once, `(n,)` strings.
        arm: number of the user's arm, int `(n,)`.
        first: when the user first was exposed, epoch milliseconds, int64 `(n,)`.
        page_ids: pages that were exposed and have an ID, each once, `(p,)` strings.
        page_times: of these, when they were exposed, epoch milliseconds, int64 `(p,)`.
        lines: of the experiment.
        unfinished: lines that are no JSON, as a killed process leaves them.
    """

    user_ids: pa.Array
    arm: np.ndarray
    first: np.ndarray
    page_ids: pa.Array
    page_times: np.ndarray
    lines: int
    unfinished: int


def read_exposures(paths: Sequence[Path], experiment: Experiment) -> Exposures:
    """Reads exposure logs.

    Args:
        paths: the files, in any order.
        experiment: the one whose exposures are wanted; those of others are passed over.

    Raises:
        ArtifactError: a file cannot be read, more than 1 % of the lines are no JSON, or one is no exposure.
        InputError: there is no exposure of the experiment, an arm has no user or is not one of the experiment's, or a
            user is in two arms.
    """
    names = {arm.name: number for number, arm in enumerate(experiment.arms)}
    arms: dict[str, int] = {}
    first: dict[str, int] = {}
    pages: dict[str, int] = {}
    strays: dict[str, str] = {}
    lines = unfinished = total = 0
    others: set[str] = set()
    for place, entry in _entries(paths):
        total += 1
        if entry is None:
            unfinished += 1
            continue
        _check(entry, place)
        if entry["experiment"] != experiment.name:
            others.add(entry["experiment"])
            continue
        lines += 1
        user, page, moment = entry["user_id"], entry["page_id"], entry["timestamp"]
        if entry["arm"] not in names:
            raise InputError(
                f"`exposures`: {place}: arm {entry['arm']!r} is none of {experiment.name}, which has {', '.join(names)}"
            )
        arm = names[entry["arm"]]
        if arms.setdefault(user, arm) != arm:
            strays.setdefault(user, place)
        first[user] = min(first.get(user, moment), moment)
        if page:
            pages[page] = min(pages.get(page, moment), moment)
    if unfinished > _MAX_UNFINISHED * total:
        raise ArtifactError(f"`exposures`: {unfinished} of {total} lines are no JSON objects; at most 1 % may be")
    if not lines:
        seen = f"they are of {', '.join(sorted(others)[:3])}" if others else "the files are empty"
        raise InputError(f"`exposures`: none is of the experiment {experiment.name}; {seen}")
    if strays:
        user, place = next(iter(strays.items()))
        raise InputError(
            f"`exposures`: {len(strays)} of {len(arms)} users are in two arms of {experiment.name} (one is "
            f"{user[:40]!r}, {place}); users move when weights change, so give an experiment with others a new name"
        )
    counts = np.bincount(list(arms.values()), minlength=len(names))
    if not counts.all():
        empty = experiment.arms[int(counts.argmin())].name
        raise InputError(f"`exposures`: no user is in arm {empty} of {experiment.name}; {len(arms)} are in the others")
    if unfinished:
        warn(f"{unfinished} of {total} lines of the exposures are no JSON objects and were passed over")
    users = sorted(arms)
    return Exposures(
        pa.array(users, pa.string()),
        np.array([arms[user] for user in users]),
        np.array([first[user] for user in users], np.int64),
        pa.array([*pages], pa.string()),
        np.array([*pages.values()], np.int64),
        lines,
        unfinished,
    )


def _entries(paths: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Each line that is not blank: where it is, and the object; `None` if it is none."""
    for path in paths:
        try:
            with open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield f"{path}, line {number}", _parsed(line)
        except OSError as error:
            raise ArtifactError(f"`exposures`: {path} cannot be read: {error.strerror}") from error


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _check(entry: dict[str, Any], place: str) -> None:
    for name in _TEXTS:
        value = entry.get(name)
        if not isinstance(value, str) or (not value and name != "page_id"):
            raise ArtifactError(f"`exposures`: {place}: {name} must be text. Received: {value!r}")
    timestamp = entry.get("timestamp")
    if type(timestamp) is not int or timestamp < _EARLIEST:
        raise ArtifactError(f"`exposures`: {place}: timestamp must be epoch milliseconds. Received: {timestamp!r}")
