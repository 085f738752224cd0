"""What every command of the project does alike: options, errors, the closing line. Imported by commands alone."""

import argparse
import errno
import functools
import gc
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location, as_location, is_remote
from beam_pipelines.shell.progress import shown_progress

_OF_THE_FILE = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS)
"""What is wrong with a file that a user has named, rather than with the program."""


class CommandError(Exception):
    """A problem that the user can fix. Shown as one line without a traceback; the command exits with code 2."""


class ArgumentParser(argparse.ArgumentParser):
    """`argparse` with defaults in `--help` and no abbreviated options.

    Args:
        description: what the command does.
        rest: where options that are not listed go; `None` refuses them.
    """

    def __init__(self, description: str, rest: str | None = None) -> None:
        super().__init__(
            prog=_program(Path(sys.argv[0])),
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )
        self._rest = rest

    def add_overwrite(self) -> None:
        """Adds `--overwrite`, the only way a command replaces an existing output."""
        self.add_argument("--overwrite", action="store_true", help="replace the output if it exists")

    def options(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Parses the arguments of the process, or `argv`."""
        if self._rest is None:
            return self.parse_args(argv)
        options, rest = self.parse_known_args(argv)
        setattr(options, self._rest, rest)
        return options

    def in_options(self, message: str) -> str:
        """A message about arguments in the words of this command: `batch_size` becomes --batch-size."""
        names = {action.dest: action.option_strings[-1] for action in self._actions if action.option_strings}
        return re.sub(r"`(\w+)(?:=True)?`", lambda found: names.get(found[1], found[0]), message)


def command(
    parser: Callable[[], ArgumentParser],
) -> Callable[[Callable[[argparse.Namespace], str]], Callable[[Sequence[str] | None], str]]:
    """Makes a function of parsed options the `main` of a command, which shows progress.

    Args:
        parser: makes the parser of its options.

    Returns:
        A decorator. What it returns takes the arguments (`None` means `sys.argv`) and returns the closing line: what
        was made, and where. An `InputError` becomes a `CommandError` that names options.
    """

    def decorate(run: Callable[[argparse.Namespace], str]) -> Callable[[Sequence[str] | None], str]:
        @functools.wraps(run)
        def main(argv: Sequence[str] | None = None) -> str:
            made = parser()
            options = made.options(argv)
            try:
                with shown_progress(made.in_options):
                    return run(options)
            except InputError as error:
                raise CommandError(made.in_options(str(error))) from error

        return main

    return decorate


def run_command(main: Callable[[Sequence[str] | None], str], argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command's `main` and exits the process.

    Args:
        main: takes the arguments (`None` means `sys.argv`) and returns the closing line.
        argv: arguments, for tests.

    Exit codes: 0 after success, 2 for what the user can fix (`CommandError`, a full disk, a file without permission,
    too little memory), 130 when interrupted; anything else is a defect of ours and keeps its traceback (code 1).
    """
    # TensorFlow 2.17's GPU wheel logs a dozen start-up lines (CUDA registration, TensorRT) that mean nothing on a CPU.
    # Set it to 0 to see them.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Importing TensorFlow and tracing graphs make millions of objects that live on. Looking through them for garbage
    # again and again takes a tenth of the time of a short command.
    gc.set_threshold(100_000, 20, 20)
    start = time.monotonic()
    try:
        summary = main(argv)
    except CommandError as error:
        _refuse(str(error))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            _refuse(f"no space left on the disk ({error})")
        if error.errno not in _OF_THE_FILE:
            raise
        _refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))  # Arrow names it in the text
    except MemoryError as error:
        _refuse(f"out of memory ({error})" if str(error) else "out of memory")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(130)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    print(f"{summary} [{time.monotonic() - start:.1f} s, peak memory {peak_gb:.2f} GB]", flush=True)
    sys.exit(0)


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


def _program(script: Path) -> str:
    """What usage lines call a command: after its file, or after its package if that is what `python -m` runs."""
    return f"{script.parent.name}.py" if script.name == "__main__.py" else script.name


def require_directory(path: Location | str, option: str, made_by: str) -> Location:
    """Returns the location if it is a directory, else raises a `CommandError` naming the option and the command to run.

    What lies at a URI is found out when it is opened.
    """
    found = as_location(path)
    if not is_remote(found) and not found.is_dir():
        raise CommandError(f"{option}: no directory {found}; {made_by} makes it")
    return found
