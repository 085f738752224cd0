"""Remote files that are read piece by piece, and what lies in remote directories, with as few requests as possible."""

import contextlib
import io
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from fsspec.spec import AbstractFileSystem
from upath import UPath

from beam_pipelines.format.location import Location, storage_errors

BUFFER_BYTES = 4 << 20
"""What one request of a file that is read from its beginning to its end asks for: seldom enough to wait little."""
_VERSION_KEYS = ("ETag", "etag", "generation", "LastModified", "updated", "mtime", "modificationTime", "created")


class RemoteFile(io.RawIOBase):
    """A remote file. Each `read` is a request: whoever reads little at a time puts a buffer before it.

    Args:
        location: the file.

    Attributes:
        location: the file.
        size: its bytes.

    Raises:
        InputError: it is not there or cannot be read, also from the methods.
    """

    def __init__(self, location: UPath) -> None:
        super().__init__()
        self.location = location
        with storage_errors(location):
            self.size = int(location.fs.info(location.path)["size"] or 0)
        self._position = 0
        self._expected = threading.local()

    def read_range(self, start: int, size: int) -> bytes:
        """Bytes from a place on: fewer where the file ends. Threads may do that at once."""
        size = min(size, self.size - start)
        if size <= 0:
            return b""
        begin, content = getattr(self._expected, "range", (0, b""))
        if begin <= start and start + size <= begin + len(content):
            return content[start - begin : start - begin + size]
        with storage_errors(self.location):
            return bytes(self.location.fs.cat_file(self.location.path, start=start, end=start + size))

    @contextlib.contextmanager
    def expecting(self, start: int, size: int) -> Iterator[None]:
        """Gets by one request what this thread reads piece by piece in the block."""
        self._expected.range = start, self.read_range(start, size)
        try:
            yield
        finally:
            del self._expected.range

    def read(self, size: int | None = -1) -> bytes:
        """See `io.RawIOBase.read`."""
        content = self.read_range(self._position, self.size if size is None or size < 0 else size)
        self._position += len(content)
        return content

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase.readinto`."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def readable(self) -> bool:
        """See `io.IOBase.readable`."""
        return True

    def seekable(self) -> bool:
        """See `io.IOBase.seekable`."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.IOBase.seek`."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        return self._position

    def tell(self) -> int:
        """See `io.IOBase.tell`."""
        return self._position


def open_file(location: Location, buffer_bytes: int = BUFFER_BYTES) -> IO[bytes]:
    """Opens a file for reading.

    Args:
        location: the file.
        buffer_bytes: of a remote one, what is got at a time.

    Raises:
        InputError: a remote file is not there or cannot be read, also when it is read.
    """
    if isinstance(location, Path):
        return open(location, "rb")
    return io.BufferedReader(RemoteFile(location), buffer_bytes)


class Entry(NamedTuple):
    """What lies in a remote directory.

    Attributes:
        path: relative to the directory that was listed, with `/`.
        is_directory: whether it is one.
        bytes: size of a file.
        version: changes when a file is written again.
    """

    path: str
    is_directory: bool
    bytes: int
    version: str


def list_directory(directory: UPath, *, below: bool = False) -> list[Entry]:
    """What lies in a remote directory, by one listing, in order of the paths, folder by folder.

    Args:
        directory: to list.
        below: whether the files of all its folders are listed instead; nothing where there is no such directory.

    Raises:
        InputError: the store refuses, or there is no such directory.
    """
    start = directory.path.rstrip("/") + "/"
    found = {}
    with storage_errors(directory):
        for info in _files_below(directory) if below else directory.fs.ls(directory.path, detail=True):
            name = str(info["name"])
            path = name.removeprefix(start) if below else name.rstrip("/").rpartition("/")[2]
            is_directory = info["type"] == "directory"
            # Programs that show a bucket as folders put empty objects there, whose names end with a slash.
            if name.rstrip("/") != start.rstrip("/") and not (below and (is_directory or name.endswith("/"))):
                version = " ".join(str(info[key]) for key in _VERSION_KEYS if key in info)
                found[path] = Entry(path, is_directory, int(info.get("size") or 0), version)
    return sorted(found.values(), key=lambda entry: entry.path.split("/"))


def _files_below(directory: UPath) -> Iterable[Mapping[str, Any]]:
    find = directory.fs.find
    if getattr(find, "__func__", None) is not AbstractFileSystem.find:
        return find(directory.path, detail=True).values()
    try:  # by default, this one leaves out folders that cannot be listed
        return find(directory.path, detail=True, on_error="raise").values()
    except FileNotFoundError:
        return ()


def read_whole(location: UPath, max_bytes: int, size: int | None = None) -> bytes:
    """Reads a remote file by one request.

    Args:
        location: the file.
        max_bytes: one byte more is read of a larger file.
        size: of the file, if it is known.

    Raises:
        Exception: what the file system raises.
    """
    if size == 0:
        return b""
    try:
        return bytes(location.fs.cat_file(location.path, start=0, end=max_bytes + 1))
    except (FileNotFoundError, PermissionError):
        raise
    except OSError:  # an empty file has no first byte
        if location.fs.info(location.path)["size"]:
            raise
        return b""
