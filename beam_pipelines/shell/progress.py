"""What a long piece of work tells of itself while it runs: the one switch of it, off in a library, on in commands."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

_shown = False


def show_progress(shown: bool = True) -> None:
    """Shows progress bars and what steps have done, in this process, from now on; `False` for nothing."""
    global _shown
    _shown = shown


def is_progress_shown() -> bool:
    """Whether it is shown now."""
    return _shown


@contextlib.contextmanager
def shown_progress() -> Iterator[None]:
    """Shows progress in the block."""
    before = _shown
    show_progress()
    try:
        yield
    finally:
        show_progress(before)


def progress_bar(iterable: Any = None, **options: Any) -> tqdm:
    """`tqdm`, if progress is shown."""
    return tqdm(iterable, disable=not _shown, **options)


def say(text: str) -> None:
    """Prints a line about what was done, if progress is shown."""
    if _shown:
        tqdm.write(text, file=sys.stdout)  # a progress bar may be on the line
        sys.stdout.flush()


def warn(text: str) -> None:
    """Warns of what did not stop the work: a line of a command, Python's `warnings` in a library."""
    if _shown:
        tqdm.write(f"warning: {text}", file=sys.stderr)
        sys.stderr.flush()
    else:
        warnings.warn(text, stacklevel=3)
