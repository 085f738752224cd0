"""Outputs that appear whole or not at all: by one rename on a local file system, by what is written last elsewhere."""

import contextlib
import datetime
import glob
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from upath import UPath

from beam_pipelines.format.contents import CONTENTS_NAME, Contents, StoredFile
from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.location import Location, entries, is_remote, is_within, remove_directory, storage_errors
from beam_pipelines.shell.progress import progress_bar

SWEPT_AFTER = datetime.timedelta(days=7)
"""No command runs for longer: what an older one has left and did not commit is nobody's."""
_ATTEMPT = re.compile(r"attempt-[0-9a-f]{32}")
_BEGUN = "begun"  # in every remote attempt, the moment
_TRANSFERS = 8  # at once


class Attempt(NamedTuple):
    """An output that is being written. It may be handed to other processes and machines.

    Attributes:
        output: what will appear.
        directory: where its files are written meanwhile, under the names that they will have.
        overwrite: whether an existing output is replaced.
    """

    output: Location
    directory: Location
    overwrite: bool


def begin(output: Location, *, overwrite: bool = False, inputs: Sequence[Location] = ()) -> Attempt:
    """Begins to write an output; `commit` or `abandon` ends it.

    Args:
        output: the directory to make. Its local parent is created.
        overwrite: whether an existing directory is replaced (at the very end); otherwise it is refused at once.
        inputs: what is read meanwhile; an `output` that holds some of it is refused, for it would be replaced.

    Raises:
        ArtifactError: `output` exists and `overwrite` is false; it is no directory, holds an input or cannot be
            written.
        InputError: the store of a remote output refuses.
    """
    for source in inputs:
        if is_within(source, output):
            raise ArtifactError(f"{output} holds {source}, which is read; choose another output")
    if is_remote(output):
        check_output(output, overwrite=overwrite)
        directory = output / f"attempt-{uuid.uuid4().hex}"
        with storage_errors(directory):  # and learn now whether it may be written
            (directory / _BEGUN).fs.pipe_file((directory / _BEGUN).path, _now().isoformat().encode())
        return Attempt(output, directory, overwrite)
    path = Path(output)
    incomplete, replaced = _prefix(path, "incomplete"), _prefix(path, "replaced")
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
    return Attempt(path, scratch, overwrite)


def commit(attempt: Attempt, files: Sequence[StoredFile] = ()) -> None:
    """Makes the output appear. Committing again what is committed changes nothing.

    Args:
        attempt: from `begin`.
        files: all that lie in a remote attempt; what a local one has, its directory says.

    Raises:
        ArtifactError: another attempt was committed meanwhile, and this one does not overwrite.
        InputError: the store of a remote output refuses.
    """
    output, directory, overwrite = attempt
    made_by_another = f"{output} was made by another command meanwhile; pass `overwrite=True` to replace it"
    if is_remote(output):
        contents = Contents(attempt=directory.name, files=sorted(files, key=lambda file: file.path))
        try:
            contents.write(output, overwrite=overwrite)
        except FileExistsError as error:
            there = Contents.read(output)
            if there is None or there.attempt != directory.name:
                raise ArtifactError(made_by_another) from error
        with contextlib.suppress(InputError):  # what is swept next time does no harm
            sweep(output)
        return
    assert not is_remote(directory)
    if output.exists():
        if not directory.exists():
            return
        if not overwrite:
            raise ArtifactError(made_by_another)
        old = output.parent / f"{_prefix(output, 'replaced')}{os.getpid()}"
        os.replace(output, old)
        os.replace(directory, output)
        shutil.rmtree(old)
    else:
        os.replace(directory, output)


def is_committed(attempt: Attempt) -> bool:
    """Whether the output is what the attempt made.

    Raises:
        InputError: the store of a remote output refuses.
    """
    if not is_remote(attempt.directory):
        return attempt.output.exists() and not attempt.directory.exists()
    contents = Contents.read(attempt.output)
    return contents is not None and contents.attempt == attempt.directory.name


def abandon(attempt: Attempt) -> None:
    """Removes what an attempt has written, unless it was committed."""
    if not is_remote(attempt.directory):
        shutil.rmtree(attempt.directory, ignore_errors=True)
        return
    with contextlib.suppress(InputError):  # `sweep` removes what stays
        if not is_committed(attempt):
            remove_directory(attempt.directory)


def sweep(output: Location, older_than: datetime.timedelta = SWEPT_AFTER) -> int:
    """Removes attempts at a remote output that were not committed, and those that were replaced.

    Args:
        output: the output; nothing is done for a local one, which `begin` looks after.
        older_than: how long ago an attempt must have begun. A reader may still be at one that was replaced, a writer at
            one that is not yet committed.

    Returns:
        How many were removed.

    Raises:
        InputError: the store refuses.
    """
    if not is_remote(output):
        return 0
    committed = Contents.read(output)
    swept = 0
    with storage_errors(output):
        for directory in entries(output):
            if not _ATTEMPT.fullmatch(directory.name) or (committed and directory.name == committed.attempt):
                continue
            if _now() - _begun(directory) >= older_than:
                remove_directory(directory)
                swept += 1
    return swept


@contextlib.contextmanager
def whole_directory(output: Location, *, overwrite: bool = False, inputs: Sequence[Location] = ()) -> Iterator[Path]:
    """Yields a local scratch directory that becomes `output` when the block ends well, and vanishes when it does not.

    Args:
        output: the directory to publish; see `begin` for it and the other arguments.

    Raises:
        ArtifactError: see `begin` and `commit`.
        InputError: see `begin` and `commit`.
    """
    attempt = begin(output, overwrite=overwrite, inputs=inputs)
    try:
        if is_remote(attempt.directory):
            with tempfile.TemporaryDirectory() as scratch:
                yield Path(scratch)
                commit(attempt, upload(Path(scratch), attempt.directory))
        else:
            yield attempt.directory
            commit(attempt)
    finally:
        abandon(attempt)


def upload(directory: Path, destination: UPath) -> list[StoredFile]:
    """Writes all files below a directory to a remote one, several at a time.

    Raises:
        InputError: the store refuses.
    """
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())

    def send(name: str) -> StoredFile:
        with storage_errors(destination / name):
            destination.fs.put_file(str(directory / name), (destination / name).path)
        return StoredFile.of(directory, name)

    with ThreadPoolExecutor(_TRANSFERS) as pool:
        sent = pool.map(send, names)
        return list(progress_bar(sent, total=len(names), desc=f"writing {destination.parent.name}", unit="file"))


def check_output(output: Location, *, overwrite: bool = False) -> None:
    """Refuses at once what `begin` would refuse, for whoever has something else to do first.

    Raises:
        ArtifactError: `output` is no directory, or it exists and `overwrite` is false, or what lies in a remote one is
            not an output.
        InputError: the store of a remote output refuses.
    """
    exists = f"{output} exists; pass `overwrite=True` to replace it"
    if is_remote(output):
        if not overwrite and Contents.read(output) is not None:
            raise ArtifactError(exists)
        names = [path.name for path in entries(output)]
        if foreign := sorted(name for name in names if name != CONTENTS_NAME and not _ATTEMPT.fullmatch(name)):
            raise ArtifactError(f"{output} holds {foreign[0]}, which is no part of an output; choose another one")
        return
    path = Path(output)
    if path.exists() and not path.is_dir():
        raise ArtifactError(f"{path} is not a directory; choose another output")
    if path.exists() and not overwrite:
        raise ArtifactError(exists)


@contextlib.contextmanager
def whole_file(path: Location) -> Iterator[Path]:
    """Yields a local scratch name that becomes `path` when the block ends well, and vanishes when it does not.

    Scratch names are unique, so that several attempts at the same file, on any machine, do not meet.

    Args:
        path: the file to publish; an existing one is replaced. Its local parent is created.

    Raises:
        ArtifactError: its parent is not a directory.
        InputError: the store of a remote path refuses.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as directory:
            scratch = Path(directory) / path.name
            yield scratch
            with storage_errors(path):
                path.fs.put_file(str(scratch), path.path)
        return
    path = Path(path)
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


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _begun(directory: UPath) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat((directory / _BEGUN).read_text())
    except (FileNotFoundError, ValueError):
        return datetime.datetime.min.replace(tzinfo=datetime.UTC)  # half removed


def _prefix(path: Path, state: str) -> str:
    """Of hidden names beside a path: with this machine, too, for on a shared file system numbers of processes mean
    nothing elsewhere."""
    return f".{path.name}.{state}-{socket.gethostname()}-"


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
