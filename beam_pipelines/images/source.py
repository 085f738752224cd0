"""Finds and reads the pictures of a log directory."""

import hashlib
import os
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from apache_beam.io.filesystems import FileSystems

from beam_pipelines.format.errors import InputError

MAX_BYTES = 64 << 20
_ENCRYPTED = 1  # bit of a zip member's flags


class BadImageError(Exception):
    """A picture that cannot be stored; the message is the reason, one of a few fixed phrases."""


class ImageSource:
    """The pictures of a log directory.

    Args:
        directory: holds files, or `*.zip` shards. A name is a path inside the directory or inside a shard (of equal
            names, that in the first shard counts); a URI (`file:///...`, `gs://...`) is read from where it points to.

    Raises:
        InputError: a zip shard is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._archives = [_open_archive(path) for path in sorted(directory.glob("*.zip"))]
        self._members = {info.filename: (zip, info) for zip in reversed(self._archives) for info in zip.infolist()}

    def read(self, name: str) -> bytes:
        """Reads the bytes of a picture.

        Raises:
            BadImageError: it is not there, lies outside the directory, cannot be read, or is larger than `MAX_BYTES`.
            InputError: it is a URI that nothing here can read.
        """
        if "://" in name:
            return self._fetch(name)
        if name in self._members:
            return self._read_member(*self._members[name])
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise BadImageError("outside images/")
        return self._read_file(self._directory / path)

    @staticmethod
    def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
        if info.file_size > MAX_BYTES:
            raise BadImageError("too many bytes")
        if info.flag_bits & _ENCRYPTED:
            raise BadImageError("encrypted")
        try:
            if info.compress_type == zipfile.ZIP_STORED:
                return _read_stored(archive, info)
            with archive.open(info) as member:
                return member.read(MAX_BYTES)  # bounded here too: the size above is only what the shard says
        except Exception as error:  # every compression raises its own
            raise BadImageError("unreadable") from error

    @staticmethod
    def _read_file(path: Path) -> bytes:
        try:
            if not path.is_file():
                raise BadImageError("missing")
            if path.stat().st_size > MAX_BYTES:
                raise BadImageError("too many bytes")
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise BadImageError("unreadable") from error

    def _fetch(self, uri: str) -> bytes:
        parts = urlsplit(uri)
        if parts.scheme == "file":  # Beam knows local files as plain paths only
            return self._read_file(Path(unquote(parts.path)))
        try:
            FileSystems.get_filesystem(uri)
        except Exception as error:
            raise InputError(
                f"items.image: {parts.scheme}:// in {uri} cannot be read here ({str(error).splitlines()[0]}); install "
                "what it needs, or copy the pictures into images/"
            ) from error
        try:
            with FileSystems.open(uri) as file:
                content = file.read(MAX_BYTES + 1)
        except Exception as error:  # every file system raises its own
            raise BadImageError("unreadable") from error
        if len(content) > MAX_BYTES:
            raise BadImageError("too many bytes")
        return content

    def close(self) -> None:
        """Closes the zip shards."""
        for archive in self._archives:
            archive.close()


def _read_stored(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Reads a member that is not compressed. `zipfile` is slower, and its threads wait for each other."""
    assert archive.fp is not None  # it is open
    file = archive.fp.fileno()
    lengths = os.pread(file, 4, info.header_offset + 26)  # of the name and of what follows it
    start = info.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    content = os.pread(file, info.file_size, start)
    if zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile(info.filename)
    return content


def check_archives(directory: Path) -> None:
    """Looks at the end of each zip shard, where one that was cut is recognised without reading it.

    Raises:
        InputError: a zip shard is damaged.
    """
    for path in sorted(directory.glob("*.zip")):
        if not zipfile.is_zipfile(path):
            raise InputError(f"{path} is not a whole zip file; copy it again, or remove it")


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # a damaged directory raises this and that
        raise InputError(f"{path} is not a whole zip file ({error}); copy it again, or remove it") from error


def content_hash(source: bytes) -> str:
    """Hex SHA-256 of a picture's source bytes: one picture, whatever its names."""
    return hashlib.sha256(source).hexdigest()
