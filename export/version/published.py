"""The layout that TensorFlow Serving watches: `<base path>/<version>/saved_model.pb`."""

import re
from pathlib import Path

MAX_VERSION = 2**63 - 1
"""Versions are int64."""


def published_versions(base_path: Path) -> dict[int, Path]:
    """Version to directory for everything under `base_path` that TensorFlow Serving would take for a version.

    Names that are not whole numbers are skipped, so unfinished exports (`.7.incomplete-...`) are never served.
    """
    if not base_path.is_dir():
        return {}
    versions = {}
    for path in sorted(base_path.iterdir()):
        if re.fullmatch("[0-9]+", path.name) and path.is_dir() and int(path.name) <= MAX_VERSION:
            versions[int(path.name)] = path
    return versions
