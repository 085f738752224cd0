"""Shards of pictures: zip and tar files, read at random."""

import contextlib
import io
import os
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import IO, Any

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location, is_remote
from beam_pipelines.format.remote_file import BUFFER_BYTES, RemoteFile, open_file
from beam_pipelines.images.formats import format_of
from beam_pipelines.images.refusals import BadImageError

MAX_BYTES = 64 << 20
_ENCRYPTED, _UTF8 = 1, 1 << 11  # bits of a zip member's flags
_BLOCK = 512  # of a tar file
_END_BYTES = 1 << 16  # of a zip file, where its directory is
_HEADER_BYTES = 1 << 10  # at most, before a zip member, nearly always


class Shard(ABC):
    """A file that holds pictures.

    Args:
        path: the file.

    Attributes:
        path: the file.
        members: by their paths inside; what a member is, only the shard knows.

    Raises:
        InputError: the file is damaged.
    """

    members: Mapping[str, Any]

    def __init__(self, path: Location) -> None:
        self.path = path

    @abstractmethod
    def read(self, member: Any) -> bytes:
        """Reads a member.

        Raises:
            BadImageError: it cannot be read, or is larger than `MAX_BYTES`.
        """

    @abstractmethod
    def fingerprint(self, member: Any) -> object:
        """What tells members of different content apart, as far as that is known without reading them."""

    @abstractmethod
    def close(self) -> None:
        """Closes the file."""

    @classmethod
    @abstractmethod
    def check(cls, path: Location) -> None:
        """Looks at the ends of a file, where one that was cut is recognised without reading it.

        Raises:
            InputError: it is damaged.
        """


class ZipShard(Shard):
    """A zip file; see `Shard`."""

    def __init__(self, path: Location) -> None:
        super().__init__(path)
        self._remote = RemoteFile(path) if is_remote(path) else None
        try:
            if self._remote is not None:
                with self._remote.expecting(max(0, self._remote.size - _END_BYTES), _END_BYTES):
                    self._zip = zipfile.ZipFile(self._remote)
            else:
                assert not is_remote(path)
                self._zip = zipfile.ZipFile(path)
        except InputError:
            raise
        except Exception as error:  # a damaged directory raises this and that
            raise _damaged(path, "zip", error) from error
        self.members = {}
        for info in self._zip.infolist():
            if not info.is_dir():
                self.members[info.filename] = info
                if not info.flag_bits & _UTF8 and not info.filename.isascii():
                    self.members.setdefault(_unmarked_utf8(info.filename), info)

    def read(self, member: zipfile.ZipInfo) -> bytes:
        """See `Shard.read`."""
        if member.file_size > MAX_BYTES:
            raise BadImageError("too many bytes")
        if member.flag_bits & _ENCRYPTED:
            raise BadImageError("encrypted")
        try:
            with self._at_once(member):
                if member.compress_type == zipfile.ZIP_STORED:
                    return self._read_stored(member)
                with self._zip.open(member) as file:
                    return file.read(MAX_BYTES)  # bounded here too: the size above is only what the shard says
        except Exception as error:  # every compression raises its own
            raise BadImageError("unreadable", error) from error

    def _at_once(self, member: zipfile.ZipInfo) -> contextlib.AbstractContextManager[None]:
        """A member of a remote file is got by one request."""
        if self._remote is None:
            return contextlib.nullcontext()
        return self._remote.expecting(member.header_offset, min(member.compress_size, MAX_BYTES) + _HEADER_BYTES)

    def _read_stored(self, member: zipfile.ZipInfo) -> bytes:
        """Reads a member that is not compressed. `zipfile` is slower, and its threads wait for each other."""
        assert self._zip.fp is not None  # it is open
        file = self._zip.fp
        lengths = _read_at(file, 4, member.header_offset + 26)  # of the name and of what follows it
        header = 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
        content = _read_at(file, member.file_size, member.header_offset + header)
        if zlib.crc32(content) != member.CRC:
            raise zipfile.BadZipFile("bad CRC-32")
        return content

    def fingerprint(self, member: zipfile.ZipInfo) -> object:
        """See `Shard.fingerprint`."""
        return member.CRC, member.file_size

    def close(self) -> None:
        """See `Shard.close`."""
        self._zip.close()

    @classmethod
    def check(cls, path: Location) -> None:
        """See `Shard.check`."""
        with open_file(path, _END_BYTES) as file:
            if not zipfile.is_zipfile(file):
                raise _damaged(path, "zip")


def _unmarked_utf8(name: str) -> str:
    """The name as macOS and others mean it: in UTF-8, without the flag that says so, read as code page 437."""
    try:
        return name.encode("cp437").decode()
    except UnicodeError:
        return name


class TarShard(Shard):
    """A tar file that is not compressed; see `Shard`."""

    def __init__(self, path: Location) -> None:
        super().__init__(path)
        self.members: dict[str, tuple[int, int]] = {}  # where it begins, and its size
        links = []
        try:
            with _open_tar(path) as tar:
                for info in tar:
                    name = info.name.removeprefix("./")  # what `tar -cf shard.tar .` puts before each
                    if info.isreg() and not info.issparse():
                        self.members[name] = info.offset_data, info.size
                    elif info.islnk() or info.issym():
                        folder = "" if info.islnk() else os.path.dirname(name)
                        links.append((name, os.path.normpath(os.path.join(folder, info.linkname))))
                end = tar.offset
            self._file = RemoteFile(path) if is_remote(path) else open(path, "rb")  # noqa: SIM115
        except InputError:
            raise
        except Exception as error:
            raise _damaged(path, "tar", error) from error
        block = _read_at(self._file, _BLOCK, end)
        if any(block) or (not block and end != self._file.seek(0, os.SEEK_END)):
            raise _damaged(path, "tar", f"no header at byte {end}")
        for name, target in links:
            if target in self.members:
                self.members[name] = self.members[target]

    def read(self, member: tuple[int, int]) -> bytes:
        """See `Shard.read`."""
        start, size = member
        if size > MAX_BYTES:
            raise BadImageError("too many bytes")
        try:
            content = _read_at(self._file, size, start)
        except (OSError, InputError) as error:
            raise BadImageError("unreadable", error) from error
        if len(content) != size:
            raise BadImageError("unreadable", "the shard ends before it")
        return content

    def fingerprint(self, member: tuple[int, int]) -> object:
        """See `Shard.fingerprint`."""
        return member[1]

    def close(self) -> None:
        """See `Shard.close`."""
        self._file.close()

    @classmethod
    def check(cls, path: Location) -> None:
        """See `Shard.check`."""
        try:
            _open_tar(path, _BLOCK).close()
        except tarfile.TarError as error:
            raise _damaged(path, "tar", error) from error
        with open_file(path, _BLOCK) as file:
            file.seek(-_BLOCK, os.SEEK_END)
            if any(file.read()):
                raise _damaged(path, "tar", "its end is not there")


def _open_tar(path: Location, buffer_bytes: int = BUFFER_BYTES) -> tarfile.TarFile:
    """A tar file has no directory: what it holds is known when it has been read, if it is remote as a whole."""
    if is_remote(path):
        return tarfile.open(fileobj=open_file(path, buffer_bytes), mode="r:")
    return tarfile.open(path, "r:")


def _read_at(file: IO[bytes] | io.RawIOBase, size: int, start: int) -> bytes:
    if isinstance(file, RemoteFile):
        return file.read_range(start, size)
    return os.pread(file.fileno(), size, start)


_KINDS: Mapping[str, type[Shard]] = {".zip": ZipShard, ".tar": TarShard}


def is_shard(name: str) -> bool:
    """Whether a file of this name is a shard."""
    return os.path.splitext(name)[1].lower() in _KINDS and not name.startswith(".")


def open_shard(path: Location) -> Shard:
    """Opens a shard.

    Raises:
        InputError: it is damaged.
    """
    return _KINDS[path.suffix.lower()](path)


def check_shard(path: Location) -> None:
    """See `Shard.check`."""
    try:
        open_file(path).close()
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror})") from error
    _KINDS[path.suffix.lower()].check(path)


def _damaged(path: Location, kind: str, why: object = "") -> InputError:
    with open_file(path, 1024) as file:
        found = format_of(file.read(1024))
    if found and found != f"a {kind} file":
        return InputError(f"{path} is not a {kind} file, but {found}; pack its pictures as {kind}, or remove it")
    return InputError(f"{path} is not a whole {kind} file{f' ({why})' if why else ''}; copy it again, or remove it")
