"""Finds and reads the pictures of a log directory."""

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from upath import UPath

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location, is_remote
from beam_pipelines.format.remote_file import list_directory
from beam_pipelines.images.formats import PICTURE_ENDINGS
from beam_pipelines.images.refusals import AMBIGUOUS, MISSING, OUTSIDE, BadImageError, quoted
from beam_pipelines.images.shards import MAX_BYTES, Shard, check_shard, is_shard, open_shard
from beam_pipelines.images.spelling import Match, PathGroup, SpellingIndex, fold, shared_folders
from beam_pipelines.images.uris import check_uris, read_remote, read_uri, scheme_of

_EXAMPLES = 2
FIRST_SHARD = "first shard"


class Place(NamedTuple):
    """Where a picture is.

    Attributes:
        at: a shard, a file, or a URI.
        member: of the shard; of a remote file, its size.
        path: as messages show it.
        found_by: the difference between the name and the path, `first shard` if others have another picture of this
            name; empty if it is the path of one file.
    """

    at: Shard | Location | str
    member: Any
    path: str
    found_by: str


class ImageSource:
    """The pictures of a log directory.

    A name is looked up exactly first: among the members of the shards in `images/`, in the order of their paths (of
    equal names that in the first one counts), then as a path in `images/`, then in shards in folders of it. A name that
    is none of these is looked for in other spellings, see `SpellingIndex`: only then are local files listed, but remote
    ones at once. A URI (`file:///...`, `gs://...`) is read from where it points to.

    Args:
        images: the directory `images/`. A directory whose name differs in letter case, and shards beside it of the same
            name (`images.zip`), count as well.
        shared: leading folders that all names share, see `folders_of`.

    Raises:
        InputError: a shard is damaged.
    """

    def __init__(self, images: Location, shared: tuple[str, ...] = ()) -> None:
        places = _picture_places(images)
        self._folder, self._remote_files = places.folder, places.remote_files
        self._roots = (images.name, str(images), *(() if is_remote(images) else (str(images.resolve()),)))
        self._shared = shared
        self._shards = [open_shard(path) for path in places.shards]
        self._members = _Members(self._shards)
        self._listing: _Listing | None = None
        self._lock = threading.Lock()

    def find(self, name: str) -> Place:
        """Finds a picture without reading it; a URI is taken as it is.

        Raises:
            BadImageError: it is not there or lies outside the directory, or several are equally close to the name.
            InputError: a shard in a folder is damaged.
        """
        if scheme := scheme_of(name):
            if scheme == "file":  # Beam knows local files as plain paths only
                return Place(Path(unquote(urlsplit(name.strip()).path)), None, name, "")
            return Place(name, None, name, "")
        if place := self._members.find(name):
            return place
        path = PurePosixPath(name)
        inside = not path.is_absolute() and ".." not in path.parts
        if inside and self._has(str(path)):
            size = self._remote_files.get(str(path))
            return Place(self._folder / str(path), size, str(path), "" if str(path) == name else "path")
        return self._listed().find(name, MISSING if inside else OUTSIDE)

    def read(self, place: Place) -> bytes:
        """Reads the bytes of a picture that was found.

        Raises:
            BadImageError: it cannot be read, or is larger than `MAX_BYTES`.
            InputError: it is a URI that nothing here can read.
        """
        if isinstance(place.at, Shard):
            return place.at.read(place.member)
        if isinstance(place.at, str):
            return read_uri(place.at, self._folder)
        return read_remote(place.at, place.member) if is_remote(place.at) else _read_file(place.at)

    def _has(self, path: str) -> bool:
        folder = self._folder
        return path in self._remote_files if is_remote(folder) else _is_file(folder / path)

    def describe(self, missing: Sequence[str]) -> str:
        """Where pictures are looked for, with examples, which files there are not read, and what may be the matter.

        Args:
            missing: some names that are not there.
        """
        return self._listed().describe(missing)

    def _listed(self) -> "_Listing":
        with self._lock:
            if self._listing is None:
                self._listing = _Listing(self._folder, self._remote_files, self._shards, self._roots, self._shared)
            return self._listing

    def close(self) -> None:
        """Closes the shards."""
        for shard in {*self._shards, *(self._listing.shards if self._listing else ())}:
            shard.close()


class _Members:
    """The members of shards by their names; of equal names that in the first shard counts."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._members: dict[str, tuple[Shard, Any]] = {}
        self._several: set[str] = set()
        for shard in shards:
            for name, member in shard.members.items():
                first, kept = self._members.setdefault(name, (shard, member))
                if first is not shard and first.fingerprint(kept) != shard.fingerprint(member):
                    self._several.add(name)

    def find(self, name: str) -> Place | None:
        if name not in self._members:
            return None
        shard, member = self._members[name]
        return Place(shard, member, f"{shard.path.name}/{name}", FIRST_SHARD if name in self._several else "")


class _Listing:
    """All that is in a directory of pictures, for names that do not lead to it at once."""

    def __init__(
        self,
        folder: Location,
        remote_files: Mapping[str, int],
        shards: Sequence[Shard],
        roots: Sequence[str],
        shared: tuple[str, ...],
    ) -> None:
        self._folder = folder
        self._remote_files = remote_files
        self._loose: list[str] = []
        nested: list[str] = []
        for path in filter(_is_visible, remote_files) if is_remote(folder) else _walk(folder):
            (nested if is_shard(os.path.basename(path)) else self._loose).append(path)
        opened = {shard.path for shard in shards}
        more = [open_shard(folder / path) for path in sorted(nested) if folder / path not in opened]
        self.shards = [*shards, *more]
        self._members = _Members(more)
        groups = [PathGroup(list(shard.members), self._places(shard)) for shard in self.shards]
        self._index = SpellingIndex([*groups, PathGroup(self._loose)], roots, shared)

    def _places(self, shard: Shard) -> tuple[str, str]:
        folder = self._folder.parts
        within = shard.path.parts[: len(folder)] == folder
        inside = PurePosixPath(*(shard.path.parts[len(folder) :] if within else ()))
        return str(inside.parent), str(inside.with_suffix("")) if inside.name else ""

    def find(self, name: str, otherwise: str) -> Place:
        if place := self._members.find(name):
            return place
        matches = self._index.find(name)
        if not matches:
            raise BadImageError(otherwise)
        if len(matches) > 1:
            places = sorted(quoted(self._place(match).path) for match in matches)
            raise BadImageError(AMBIGUOUS, " or ".join(places[:_EXAMPLES]))
        return self._place(matches[0])

    def _place(self, match: Match) -> Place:
        if match.group == len(self.shards):
            return Place(self._folder / match.path, self._remote_files.get(match.path), match.path, match.found_by)
        shard = self.shards[match.group]
        return Place(shard, shard.members[match.path], f"{shard.path.name}/{match.path}", match.found_by)

    def describe(self, missing: Sequence[str]) -> str:
        pictures = sorted(path for path in self._loose if _ending(path) in PICTURE_ENDINGS)
        example = f", e.g. {quoted(pictures[0])}" if pictures else ""
        text = f"{self._folder} has {_counted(len(pictures), 'loose picture')}{example}"
        if self.shards:
            text += f", and {_counted(len(self.shards), 'shard')}"
            held = [f"{s.path.name} holds e.g. {quoted(next(iter(s.members)))}" for s in self.shards if s.members]
            text += f" ({', '.join(held[:_EXAMPLES])})" if held else ""
        other = sorted(path for path in self._loose if _ending(path) not in {*PICTURE_ENDINGS, ""})
        if other:
            listed = ", ".join(map(quoted, other[:_EXAMPLES]))
            listed += f" and {len(other) - _EXAMPLES} more" if len(other) > _EXAMPLES else ""
            text += f"; not read there: {listed} (shards are zip and plain tar files)"
        return text + self._likely_cause(missing)

    def _likely_cause(self, missing: Sequence[str]) -> str:
        wanted = {fold(name).rpartition("/")[2] for name in missing}
        paths = (path for paths in (self._loose, *(shard.members for shard in self.shards)) for path in paths)
        there = {fold(path).rpartition("/")[2] for path in paths} if wanted else set()
        if wanted & there:
            return "; files of these names are there, but in other folders"
        if {_as_number(name) for name in wanted} & {_as_number(name) for name in there}:
            return (
                "; names and files differ in leading zeros or a .0 at the end: a column of numbers loses and adds them"
            )
        return ""


def folders_of(names: Sequence[str]) -> tuple[str, ...]:
    """The leading folders that all names of pictures share, URIs aside."""
    return shared_folders(fold(name) for name in names if not scheme_of(name))


def check_images(images: Location, names: Sequence[str]) -> None:
    """Finds what would spoil every picture, before anything is read.

    Args:
        images: see `ImageSource`.
        names: of pictures, in order.

    Raises:
        InputError: URIs that cannot be read here, no directory `images/` for paths, or a shard that was cut.
    """
    check_uris(names, images)
    folder, shards, remote_files = _picture_places(images)
    paths = [name for name in names if not scheme_of(name)]
    is_there = bool(remote_files) if is_remote(folder) else folder.is_dir()
    if paths and not is_there and not shards:
        leads_nowhere = not is_remote(folder) and folder.is_symlink()
        where = f"{folder} leads nowhere" if leads_nowhere else f"there is no directory {folder}"
        raise InputError(
            f"items.image names {_counted(len(paths), 'picture')} such as {quoted(paths[0])}, but {where}; add it, or "
            "leave the column empty"
        )
    for path in shards:
        check_shard(path)


class _PicturePlaces(NamedTuple):
    """Where pictures are.

    Attributes:
        folder: the directory of the loose files.
        shards: in it and beside it.
        remote_files: all that is in a remote folder, and its bytes: one listing instead of a request for each name.
    """

    folder: Location
    shards: Sequence[Location]
    remote_files: Mapping[str, int]


def _picture_places(images: Location) -> _PicturePlaces:
    if is_remote(images):
        return _remote_places(images)
    folder = images
    name = images.name.casefold()
    shards: list[Location] = []
    for path in sorted(images.parent.iterdir()) if images.parent.is_dir() else ():
        if path.stem.casefold() == name and is_shard(path.name) and path.is_file():
            shards.append(path)
        elif path.name.casefold() == name and path.is_dir() and not images.is_dir():
            folder = path
    if folder.is_dir():
        with os.scandir(folder) as entries:
            shards += sorted(Path(entry.path) for entry in entries if is_shard(entry.name) and not entry.is_dir())
    return _PicturePlaces(folder, shards, {})


def _remote_places(images: UPath) -> _PicturePlaces:
    name = images.name.casefold()
    beside = list_directory(images.parent)
    folders = [entry.path for entry in beside if entry.is_directory and entry.path.casefold() == name]
    shards: list[Location] = [
        images.parent / entry.path
        for entry in beside
        if PurePosixPath(entry.path).stem.casefold() == name and is_shard(entry.path) and not entry.is_directory
    ]
    folder = images if images.name in folders or not folders else images.parent / folders[-1]
    files = {entry.path: entry.bytes for entry in list_directory(folder, below=True)} if folders else {}
    shards += [folder / path for path in files if "/" not in path and is_shard(path)]
    return _PicturePlaces(folder, shards, files)


def _is_visible(path: str) -> bool:
    """Whether `_walk` would find a file."""
    *folders, name = path.split("/")
    return not name.startswith(".") and not any(part.startswith(".") or part == "__MACOSX" for part in folders)


def _walk(folder: Path) -> Iterator[str]:
    """The files of a directory and of its folders by their paths in it, hidden ones left out; each folder once."""
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # links may lead in circles
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        start = os.path.relpath(parent, folder)
        prefix = "" if start == "." else f"{start}/"
        yield from (prefix + name for name in files if not name.startswith("."))


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # there need not be a directory
        raise InputError(f"{error.filename} cannot be listed ({error.strerror})") from error


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _as_number(name: str) -> str:
    return name.lstrip("0").removesuffix(".0") or "0"


def _ending(path: str) -> str:
    return os.path.splitext(path)[1][1:].lower()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise BadImageError("unreadable", error.strerror) from error


def _read_file(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadImageError(MISSING)
            if status.st_size > MAX_BYTES:
                raise BadImageError("too many bytes")
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise BadImageError(MISSING) from error
    except (OSError, ValueError) as error:
        raise BadImageError("unreadable", getattr(error, "strerror", "") or error) from error


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # for whoever writes to a named pipe


def content_hash(source: bytes) -> str:
    """Hex SHA-256 of a picture's source bytes: one picture, whatever its names."""
    return hashlib.sha256(source).hexdigest()
