"""What every command of the project does alike: options, errors, whole outputs, the closing line."""

import argparse
import contextlib
import errno
import glob
import os
import resource
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn


class CommandError(Exception):
    """A problem that the user can fix. Shown as one line without a traceback; the command exits with code 2."""


class ArgumentParser(argparse.ArgumentParser):
    """`argparse` with defaults in `--help` and no abbreviated options."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )

    def add_overwrite(self) -> None:
        """Adds `--overwrite`, the only way a command replaces an existing output."""
        self.add_argument("--overwrite", action="store_true", help="replace the output if it exists")


def run_command(main: Callable[[Sequence[str] | None], str], argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command's `main` and exits the process.

    Args:
        main: takes the arguments (`None` means `sys.argv`) and returns the closing line: what was made, and where.
        argv: arguments, for tests.

    Exit codes: 0 after success, 2 for what the user can fix (`CommandError`), 130 when interrupted; anything else is a
    defect of ours and keeps its traceback (code 1).
    """
    start = time.monotonic()
    try:
        summary = main(argv)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: no space left on the disk ({error})", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(130)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    print(f"{summary} [{time.monotonic() - start:.1f} s, peak memory {peak_gb:.2f} GB]", flush=True)
    sys.exit(0)


def require_directory(path: Path, option: str, made_by: str) -> Path:
    """Returns `path` if it is a directory, else raises a `CommandError` naming the option and the command to run."""
    if not path.is_dir():
        raise CommandError(f"{option}: no directory {path}; {made_by} makes it")
    return path


@contextlib.contextmanager
def whole_directory(path: Path, *, overwrite: bool = False, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """Yields a scratch directory that becomes `path` by rename when the block ends well, and vanishes when it does not.

    Args:
        path: the directory to publish. Its parent is created.
        overwrite: whether an existing directory is replaced (at the very end); otherwise it is refused at once.
        inputs: what the command reads; a `path` that holds some of it is refused, for it would be replaced.

    Raises:
        CommandError: `path` exists and `overwrite` is false, now or at the end; it is no directory, holds an input or
            cannot be written.
    """
    path = Path(path)
    for source in inputs:
        if Path(source).resolve().is_relative_to(path.resolve()):
            raise CommandError(f"{path} holds {source}, which is read; choose another output")
    # Named after this machine, too: on a shared file system, process numbers of others mean nothing here.
    incomplete, replaced = (f".{path.name}.{state}-{socket.gethostname()}-" for state in ("incomplete", "replaced"))
    for abandoned in _abandoned(path.parent, replaced):
        if path.exists():
            shutil.rmtree(abandoned, ignore_errors=True)
        else:
            os.replace(abandoned, path)  # its command was killed between the two renames
    if path.exists() and not path.is_dir():
        raise CommandError(f"{path} is not a directory; choose another output")
    if path.exists() and not overwrite:
        raise CommandError(f"{path} exists; pass --overwrite to replace it")
    scratch = path.parent / f"{incomplete}{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in _abandoned(path.parent, incomplete):
            shutil.rmtree(abandoned, ignore_errors=True)
        scratch.mkdir()
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.filename}: {error.strerror}") from error
    try:
        yield scratch
        if path.exists() and not overwrite:
            raise CommandError(f"{path} was made by another command meanwhile; pass --overwrite to replace it")
        if path.exists():
            old = path.parent / f"{replaced}{os.getpid()}"
            os.replace(path, old)
            os.replace(scratch, path)
            shutil.rmtree(old)
        else:
            os.replace(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a scratch name beside `path` that becomes it when the block ends well, and vanishes when it does not.

    Scratch names are unique, so that several attempts at the same file, on any machine, do not meet.

    Args:
        path: the file to publish; an existing one is replaced. Its parent is created.

    Raises:
        CommandError: its parent is not a directory.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise CommandError(f"{path} cannot be written: {path.parent} is not a directory") from error
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _abandoned(parent: Path, prefix: str) -> list[Path]:
    """What commands that were killed have left."""
    found = parent.glob(f"{glob.escape(prefix)}*")
    return [path for path in found if not _is_another_running(path.name.removeprefix(prefix))]


def _is_another_running(pid: str) -> bool:
    if pid == str(os.getpid()):
        return False
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass  # somebody else's
    return True
