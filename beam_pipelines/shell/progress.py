"""What a long piece of work tells of itself while it runs: the one switch of it, off in a library, on in commands."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from tqdm import tqdm

_shown = False
_wording: Callable[[str], str] | None = None


def show_progress(shown: bool = True) -> None:
    """Shows progress bars and what steps have done, in this process, from now on; `False` for nothing."""
    global _shown
    _shown = shown


def is_progress_shown() -> bool:
    """Whether it is shown now."""
    return _shown


@contextlib.contextmanager
def shown_progress(wording: Callable[[str], str] | None = None) -> Iterator[None]:
    """Shows progress in the block.

    Args:
        wording: rewrites lines before they are shown: a command names its options where a library names arguments.
    """
    global _shown, _wording
    before = _shown, _wording
    _shown, _wording = True, wording
    try:
        yield
    finally:
        _shown, _wording = before


def progress_bar(iterable: Any = None, **options: Any) -> tqdm:
    """`tqdm`, if progress is shown."""
    return tqdm(iterable, disable=not _shown, **options)


def say(text: str, file: TextIO | None = None) -> None:
    """Prints a line about what was done, if progress is shown. Arguments are named in backticks, as errors do.

    Args:
        text: the line.
        file: where to; `None` for standard output.
    """
    if _shown:
        tqdm.write(_worded(text), file=file or sys.stdout)  # a progress bar may be on the line
        (file or sys.stdout).flush()


def warn(text: str) -> None:
    """Warns of what did not stop the work: a line of a command, Python's `warnings` in a library."""
    if _shown:
        tqdm.write(f"warning: {_worded(text)}", file=sys.stderr)
        sys.stderr.flush()
    else:
        warnings.warn(text, stacklevel=3)


def _worded(text: str) -> str:
    return text if _wording is None else _wording(text)
