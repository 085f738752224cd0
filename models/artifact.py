"""What every trained artifact has in common: it says of itself what it is, so that versions are never mixed.

A run directory holds a `metadata.json`, of a class of its own, next to the files that the class names.
"""

import functools
import hashlib
from pathlib import Path
from typing import TypeVar

import pydantic

from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.local_copy import fetch, local_copy
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.text_file import parse_json, read_text

METADATA_NAME = "metadata.json"


class Metadata(pydantic.BaseModel):
    """Base of all artifact descriptions."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def write(self, directory: Path) -> None:
        """Writes `directory/metadata.json`."""
        (Path(directory) / METADATA_NAME).write_text(self.model_dump_json(indent=2) + "\n")

    def digest(self) -> str:
        """Identifies the artifact."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


MetadataT = TypeVar("MetadataT", bound=Metadata)


class ArtifactFiles:
    """Base of what opens an artifact: a directory on this machine, or elsewhere, whose files come here when needed.

    Args:
        path: the directory: a path, or a URI.

    Attributes:
        path: as given.
    """

    path: Location

    def __init__(self, path: Location | str) -> None:
        self.path = as_location(path)

    def file(self, name: str) -> Path:
        """Where a file of the artifact is on this machine, if the artifact has it.

        Raises:
            ArtifactError: the artifact lies elsewhere, and the file there is not the one that was written.
            InputError: the store refuses.
        """
        fetch(self._directory, [name])
        return self._directory / name

    @functools.cached_property
    def _directory(self) -> Path:
        return local_copy(self.path, only=[METADATA_NAME])


def read_metadata(kind: type[MetadataT], artifact: ArtifactFiles | Location | str, made_by: str) -> MetadataT:
    """Reads the `metadata.json` of an artifact.

    Args:
        kind: the class expected there.
        artifact: the artifact, or its directory.
        made_by: the command that makes such an artifact, for errors.

    Raises:
        ArtifactError: there is none, or it describes something else.
        InputError: it cannot be read.
    """
    if not isinstance(artifact, ArtifactFiles):
        artifact = ArtifactFiles(artifact)
    path = artifact.file(METADATA_NAME)
    if not path.is_file():
        raise ArtifactError(f"{artifact.path} has no {METADATA_NAME}; {made_by} makes it")
    text = read_text(path)
    try:
        parse_json(text)  # strictly: pydantic accepts NaN
        return kind.model_validate_json(text)
    except ValueError as error:
        wanted = kind.model_fields["kind"].default
        raise ArtifactError(f"{path} does not describe a directory of kind `{wanted}`; {made_by} makes it") from error


def check_digest(path: Path, sha256: str) -> None:
    """Refuses a file that is missing or is not the one that a digest was taken of.

    Raises:
        ArtifactError: it is.
    """
    if not path.is_file() or file_sha256(path) != sha256:
        raise ArtifactError(f"{path} is missing or is not the file its metadata describes; make it again")
