"""Outputs that appear whole or not at all."""

import contextlib
import glob
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from beam_pipelines.format.errors import ArtifactError


@contextlib.contextmanager
def whole_directory(path: Path, *, overwrite: bool = False, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """Yields a scratch directory that becomes `path` by rename when the block ends well, and vanishes when it does not.

    Args:
        path: the directory to publish. Its parent is created.
        overwrite: whether an existing directory is replaced (at the very end); otherwise it is refused at once.
        inputs: what the command reads; a `path` that holds some of it is refused, for it would be replaced.

    Raises:
        ArtifactError: `path` exists and `overwrite` is false, now or at the end; it is no directory, holds an input or
            cannot be written.
    """
    path = Path(path)
    for source in inputs:
        if Path(source).resolve().is_relative_to(path.resolve()):
            raise ArtifactError(f"{path} holds {source}, which is read; choose another output")
    # Named after this machine, too: on a shared file system, process numbers of others mean nothing here.
    incomplete, replaced = (f".{path.name}.{state}-{socket.gethostname()}-" for state in ("incomplete", "replaced"))
    for abandoned in _abandoned(path.parent, replaced):
        if path.exists():
            shutil.rmtree(abandoned, ignore_errors=True)
        else:
            os.replace(abandoned, path)  # its command was killed between the two renames
    check_output(path, overwrite=overwrite)
    scratch = path.parent / f"{incomplete}{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in _abandoned(path.parent, incomplete):
            shutil.rmtree(abandoned, ignore_errors=True)
        scratch.mkdir()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {error.filename}: {error.strerror}") from error
    try:
        yield scratch
        if path.exists() and not overwrite:
            raise ArtifactError(f"{path} was made by another command meanwhile; pass `overwrite=True` to replace it")
        if path.exists():
            old = path.parent / f"{replaced}{os.getpid()}"
            os.replace(path, old)
            os.replace(scratch, path)
            shutil.rmtree(old)
        else:
            os.replace(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Refuses at once what `whole_directory` would refuse, for whoever has something else to do first.

    Raises:
        ArtifactError: `path` is no directory, or it exists and `overwrite` is false.
    """
    if path.exists() and not path.is_dir():
        raise ArtifactError(f"{path} is not a directory; choose another output")
    if path.exists() and not overwrite:
        raise ArtifactError(f"{path} exists; pass `overwrite=True` to replace it")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a scratch name beside `path` that becomes it when the block ends well, and vanishes when it does not.

    Scratch names are unique, so that several attempts at the same file, on any machine, do not meet.

    Args:
        path: the file to publish; an existing one is replaced. Its parent is created.

    Raises:
        ArtifactError: its parent is not a directory.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ArtifactError(f"{path} cannot be written: {path.parent} is not a directory") from error
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
