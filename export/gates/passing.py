"""How a publication tells of the gates that a version passes."""

import contextlib
import time
from collections.abc import Iterator

from beam_pipelines.format.location import Location
from beam_pipelines.shell.progress import say
from export.gates.version_check import VersionError


@contextlib.contextmanager
def passing(name: str, model: Location, seconds: float | None = None) -> Iterator[list[str]]:
    """Tells of a gate that is passed.

    Args:
        name: of the gate.
        model: where the model is, for the error.
        seconds: how long it took, if that was before.

    Yields:
        Takes what to tell.

    Raises:
        VersionError: the gate is not passed.
    """
    start = time.perf_counter()
    passed: list[str] = []
    try:
        yield passed
    except VersionError as error:
        raise VersionError(f"`model`: {model} is not published, it fails the gate `{name}`: {error}") from error
    seconds = time.perf_counter() - start if seconds is None else seconds
    say(f"passed `{name}`: {passed[0]} [{seconds:.1f} s]")
