"""What tests of remote logs share: copies of local ones, and the requests that reading them takes."""

import threading
from collections import Counter
from pathlib import Path

from fsspec.implementations.memory import MemoryFileSystem

from beam_pipelines.format.location import as_location

REQUESTS = ("info", "ls", "find", "cat_file", "exists", "isfile", "isdir", "open")


def copied(directory: Path, uri: str):
    """A copy of all files of a directory."""
    remote = as_location(uri)
    for path in directory.rglob("*"):
        if path.is_file():
            remote.fs.pipe_file((remote / path.relative_to(directory).as_posix()).path, path.read_bytes())
    return remote


def count_requests(monkeypatch) -> Counter:
    """Counts from now on what is asked of the file system in memory, as a store on a network would be."""
    counts: Counter = Counter()
    inside = threading.local()

    def counted(name):
        original = getattr(MemoryFileSystem, name)

        def method(*arguments, **options):
            if getattr(inside, "one", False):
                return original(*arguments, **options)
            counts[name] += 1
            inside.one = True
            try:
                return original(*arguments, **options)
            finally:
                inside.one = False

        return method

    for name in REQUESTS:
        monkeypatch.setattr(MemoryFileSystem, name, counted(name))
    return counts
