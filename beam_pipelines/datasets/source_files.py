"""The files of a public data set as its publisher gives them: in a folder, or still in the archive of the download."""

import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, NoReturn, cast

from beam_pipelines.format.errors import InputError

READ_ERRORS = (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError, NotImplementedError, RuntimeError)
"""What a damaged, cut, encrypted or unusually packed file raises while it is read."""
PACKED = ("", ".gz", ".zip")
"""Endings under which a file is found: as it is, gzipped, or alone in a zip (so Kaggle gives single files)."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
"""Endings of archives that are read like folders."""
_DEPTH = 3  # folders: archives unpack to KuaiRand-Pure/data/...
_PICTURES = "images"


class Pictures(NamedTuple):
    """The pictures of a data set, loose or in zip shards.

    Attributes:
        paths: item ID (the file's name without its ending) to the picture's path inside the folder or shard.
        files: to hand on, by their path below the `images/` of a log directory.
    """

    paths: Mapping[str, str]
    files: Mapping[str, Path]

    def link(self, target: Path) -> None:
        """Puts the files into a folder: hard links where possible, copies elsewhere."""
        for name, file in self.files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file.resolve(), path)
            except OSError:  # another file system, or not ours to link
                shutil.copyfile(file, path)


class SourceFiles:
    """The files of a data set. Archives are read where they are, not unpacked.

    Args:
        path: a folder, or a .zip, .tar, .tar.gz or .tgz file.
        made_by: what makes it, for the error if it is not there: "downloading MovieLens".

    Attributes:
        path: as given.
        names: the files, by path inside the folder or archive; without those in folders named `images`.

    Raises:
        InputError: it is not there, is no folder and no such archive, is damaged or cannot be read.
    """

    def __init__(self, path: Path, made_by: str) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | tarfile.TarFile | None = None
        if path.is_file() and path.name.lower().endswith(ARCHIVES):
            try:
                names = self._open_archive()
            except READ_ERRORS as error:
                raise InputError(f"`source`: {path} cannot be read: {first_line(error)}") from error
        elif path.is_dir():
            names = _files_in(path)
        elif path.exists():
            raise InputError(f"`source`: {path} is no directory and no {', '.join(ARCHIVES)} file")
        else:
            raise InputError(f"`source`: no directory or archive {path}; {made_by} makes it")
        self._members = names
        self.names = sorted(name for name in names if _is_listed(PurePosixPath(name)))

    def _open_archive(self) -> list[str]:
        if self.path.suffix.lower() == ".zip":
            self._archive = zipfile.ZipFile(self.path)
            return self._archive.namelist()
        self._archive = tarfile.open(self.path)  # noqa: SIM115 - closed with the source
        return self._archive.getnames()

    def __enter__(self) -> "SourceFiles":
        return self

    def __exit__(self, *_: object) -> None:
        if self._archive is not None:
            self._archive.close()

    def find(self, name: str) -> dict[str, str]:
        """Finds a file, in whichever folders: the folder ("" for the uppermost) to the file's path."""
        found: dict[str, str] = {}
        for ending in PACKED:
            for path in self.names:
                folder, _, base = path.rpartition("/")
                if base == name + ending:
                    found.setdefault(folder, path)
        return found

    def describe(self, name: str) -> str:
        """Where a file is, for messages."""
        return f"{self.path}/{name}"

    def open(self, name: str) -> BinaryIO:
        """Opens a file of `names`, unpacked.

        Raises:
            READ_ERRORS: it cannot be read, now or later.
        """
        if self._archive is None:
            stream: BinaryIO = (self.path / name).open("rb")
        elif isinstance(self._archive, zipfile.ZipFile):
            stream = cast(BinaryIO, self._archive.open(name))
        else:
            member = self._archive.extractfile(name)
            if member is None:
                raise FileNotFoundError(f"{name} is a link to nothing")
            stream = cast(BinaryIO, member)
        if name.endswith(".gz"):
            return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
        if name.endswith(".zip"):
            inner = zipfile.ZipFile(stream)
            members = [info for info in inner.infolist() if not info.is_dir()]
            if len(members) != 1:
                raise zipfile.BadZipFile(f"{len(members)} files in it, not one")
            return cast(BinaryIO, inner.open(members[0]))
        return stream

    def pictures(self, beside: str) -> Pictures:
        """Finds the pictures: .jpg files and zip shards of `images/`.

        Args:
            beside: the folder that holds `images/`.

        Raises:
            InputError: a shard is damaged, or `images/` is there without a picture.
        """
        root = f"{beside}/{_PICTURES}/" if beside else f"{_PICTURES}/"
        paths: dict[str, str] = {}
        if self._archive is not None:
            inside = [name for name in self._members if name.startswith(root) and name.endswith(".jpg")]
            if inside and not isinstance(self._archive, zipfile.ZipFile):
                raise InputError(f"`source`: pictures are not read out of {self.path.name}; unpack it")
            paths = {PurePosixPath(name).stem: name for name in inside}
            return Pictures(paths, {self.path.name: self.path} if paths else {})
        files = {}
        folder = self.path / root
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.suffix == ".zip" and path.parent == folder:
                try:
                    with zipfile.ZipFile(path) as shard:
                        names: Sequence[str] = shard.namelist()
                except READ_ERRORS as error:
                    raise InputError(f"{path} cannot be read: {first_line(error)}") from error
            elif path.suffix == ".jpg":
                names = [name]
            else:
                continue
            files[name] = path
            paths.update({PurePosixPath(name).stem: name for name in names if name.endswith(".jpg")})
        if folder.is_dir() and not paths:
            raise InputError(f"`source`: no .jpg and no .zip with any in {folder}")
        return Pictures(paths, files)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _files_in(folder: Path) -> list[str]:
    def unreadable(error: OSError) -> NoReturn:
        raise InputError(f"`source`: {error.filename} cannot be read: {error.strerror}") from error

    found = []
    for path, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        inside = Path(path).relative_to(folder)
        if len(inside.parts) >= _DEPTH:
            folders.clear()
        folders[:] = [name for name in folders if name != _PICTURES and not name.startswith((".", "__"))]
        found += [(inside / name).as_posix() for name in files]
    return found


def _is_listed(name: PurePosixPath) -> bool:
    """Pictures, folders, and what operating systems leave behind (`.DS_Store`, `__MACOSX`) are no tables."""
    return bool(name.suffix) and _PICTURES not in name.parts and not any(p.startswith((".", "__")) for p in name.parts)
