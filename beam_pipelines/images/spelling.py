"""Finds files by names that are spelt in another way than their paths.

Logs and pictures come from different systems: one writes `images\\0.JPG`, the other stores `0.jpg`. What can be told
apart with certainty is found; where several files are equally close to a name, none is taken.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from beam_pipelines.images.formats import PICTURE_ENDINGS

FOLDER = "folder"
_HIDDEN = re.compile(r"(?:^|/)(?:\.[^/.]|__MACOSX/)")
_PLAIN = re.compile(r"[\w\-]+(?:[./][\w\-]+)*", re.ASCII).fullmatch


def _without_ending(path: str) -> str:
    stem, dot, ending = path.rpartition(".")
    return stem if dot and ending.lower() in PICTURE_ENDINGS and stem[-1:] not in ("", "/") else path


def _compose(path: str) -> str:
    return path if path.isascii() else unicodedata.normalize("NFC", path)


_STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("path", lambda path: path),
    ("backslashes", lambda path: path.replace("\\", "/")),
    ("percent encoding", lambda path: unquote(path) if "%" in path else path),
    ("spaces", lambda path: "/".join(part.strip() for part in path.split("/"))),
    ("unicode form", _compose),
    ("letter case", lambda path: _compose(path.casefold())),
    ("ending", _without_ending),
)
"""From the most harmless difference to the boldest; each step assumes those before it."""


def _without_dots(path: str) -> str:
    """Without `./`, doubled slashes and a slash in front."""
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def fold(path: str) -> str:
    """The form in which names and paths are compared."""
    if _PLAIN(path):
        return _without_ending(path.lower())
    for _, step in _STEPS:
        path = _without_dots(step(path))
    return path


def _difference(name: str, path: str, parts: int) -> int:
    """How bold one must be to take the last parts of a name and of a path for the same: the number of the step."""
    for number, (_, step) in enumerate(_STEPS):
        name, path = _without_dots(step(name)), _without_dots(step(path))
        if name.split("/")[-parts:] == path.split("/")[-parts:]:
            return number
    return len(_STEPS)


def shared_folders(folded: Iterable[str]) -> tuple[str, ...]:
    """The leading folders that all of some folded paths share."""
    prefix = None
    for path in folded:
        if prefix is None:
            prefix = path[: path.rfind("/") + 1]
        while not path.startswith(prefix):
            prefix = prefix[: prefix.rfind("/", 0, -1) + 1]
        if not prefix:
            break
    return tuple(prefix.split("/")[:-1]) if prefix else ()


class PathGroup(NamedTuple):
    """Paths that lie together: the members of a shard, or the loose files.

    Attributes:
        paths: as they are spelt.
        places: the folders that a name may have before such a path, in each way that it may be written: of a shard
            `2024/a.zip` those are `2024/` and `2024/a/`.
    """

    paths: Sequence[str]
    places: Sequence[str] = ("",)


class Match(NamedTuple):
    """A path that a name may mean.

    Attributes:
        group: number of its group.
        path: as it is spelt.
        found_by: the boldest difference between them.
    """

    group: int
    path: str
    found_by: str


class SpellingIndex:
    """Paths by the form in which they are compared. Thread-safe; about 300 bytes per path.

    Differences of spelling that do not count: `./` and doubled slashes, backslashes, percent-encoding, spaces around,
    the Unicode form, letter case, the ending of pictures; leading folders that all paths of a group share; leading
    folders that all names share, unless such a folder exists. Hidden files are not found, nor files outside the folders
    that the pictures of their group share.

    Args:
        groups: the paths; of equal ones that of the first group counts.
        roots: folders that names may begin with as well as not.
        shared: leading folders that all names share, see `shared_folders`.
    """

    def __init__(self, groups: Sequence[PathGroup], roots: Iterable[str], shared: tuple[str, ...]) -> None:
        self._paths: list[str] = []
        self._group_of: list[int] = []
        self._rows: dict[str, int | list[int]] = {}
        self._places: list[list[list[str]]] = []
        folders: set[str] = set()  # that names may rightly begin with
        for number, group in enumerate(groups):
            folders |= self._add(number, group)
        left_out = {tuple(fold(root).split("/")) for root in roots}
        if shared and shared[0] not in folders:
            left_out |= {shared[:length] for length in range(1, len(shared) + 1)}
        self._left_out = [(), *sorted(left_out, key=lambda parts: (len(parts), parts))]

    def _add(self, number: int, group: PathGroup) -> set[str]:
        visible = [path for path in group.paths if not _HIDDEN.search(path)]
        folded = [fold(path) for path in visible]
        pictures = (form for form, path in zip(folded, visible, strict=True) if _is_picture(path))
        common = shared_folders(pictures)
        start = "".join(f"{folder}/" for folder in common)
        self._places.append([[*filter(None, fold(place).split("/")), *common] for place in group.places])
        folders = {place[0] for place in self._places[-1] if place}
        for form, path in zip(folded, visible, strict=True):
            if not form.startswith(start):
                continue
            key = form[len(start) :]
            if "/" in key:
                folders.add(key[: key.index("/")])
            row = self._rows.setdefault(key, len(self._paths))
            if isinstance(row, list):
                row.append(len(self._paths))
            elif row != len(self._paths):
                self._rows[key] = [row, len(self._paths)]
            self._paths.append(path)
            self._group_of.append(number)
        return folders

    def find(self, name: str) -> list[Match]:
        """The paths that a name may mean: those closest to it, more than one if they are equally close."""
        parts = fold(name).split("/")
        closest: dict[str, Match] = {}
        least: tuple[int, int, int] | None = None
        for folders in self._left_out:
            if tuple(parts[: len(folders)]) != folders:
                continue
            for start in range(len(folders), len(parts)):
                row = self._rows.get("/".join(parts[start:]), [])
                before = parts[len(folders) : start]
                for candidate in row if isinstance(row, list) else [row]:
                    path, group = self._paths[candidate], self._group_of[candidate]
                    fitting = [len(p) for p in self._places[group] if p[len(p) - len(before) :] == before]
                    if not fitting:
                        continue
                    added = min(fitting) - len(before)
                    whole = not folders and not added and len(parts) == fold(path).count("/") + 1
                    number = _difference(name, path, len(parts) if whole else len(parts) - start)
                    distance = int(bool(folders or added)), len(folders), number
                    if least is None or distance < least:
                        closest, least = {}, distance
                    if distance == least:
                        closest.setdefault(path, Match(group, path, _STEPS[number][0] if whole else FOLDER))
        return list(closest.values())


def _is_picture(path: str) -> bool:
    return path.rpartition(".")[2].lower() in PICTURE_ENDINGS
