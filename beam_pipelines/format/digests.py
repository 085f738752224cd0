"""Digests of files."""

import hashlib

from beam_pipelines.format.location import Location
from beam_pipelines.format.remote_file import open_file


def file_sha256(path: Location) -> str:
    """Hex SHA-256 of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
