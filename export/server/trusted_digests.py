"""The versions that a server may load, by the content of their files.

A SavedModel is a program. Whoever can write into the base path can run it, unless the server is told what to trust.
"""

import hashlib
import re
from pathlib import Path

import grpc

from export.server.serving_error import ServingError


class TrustedDigests:
    """A file of digests, one per line as `version_digest` gives it; what follows it on the line is a remark.

    The file is read anew for every version, so that one can be added while a server runs.

    Args:
        file: the file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def check(self, version: Path) -> None:
        """Refuses a version whose digest is not in the file.

        Raises:
            ServingError: PERMISSION_DENIED.
            OSError: a file cannot be read.
        """
        words = (line.split() for line in self._file.read_text("utf-8").splitlines())
        digest = version_digest(version)
        if digest not in {line[0] for line in words if line and re.fullmatch("[0-9a-f]{64}", line[0])}:
            raise ServingError(grpc.StatusCode.PERMISSION_DENIED, f"its digest {digest} is not in {self._file}")


def version_digest(version: Path) -> str:
    """SHA-256 over the names and contents of all files of a version, in hexadecimal."""
    total = hashlib.sha256()
    for path in sorted(path for path in version.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{content}  {path.relative_to(version).as_posix()}\n".encode())
    return total.hexdigest()
