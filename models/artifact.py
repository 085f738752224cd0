"""What every trained artifact has in common: it says of itself what it is, so that versions are never mixed.

A run directory holds a `metadata.json`, of a class of its own, next to the files that the class names.
"""

import hashlib
from pathlib import Path
from typing import TypeVar

import pydantic

from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.errors import ArtifactError
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


def read_metadata(kind: type[MetadataT], directory: Path, made_by: str) -> MetadataT:
    """Reads `directory/metadata.json`.

    Args:
        kind: the class expected there.
        directory: the artifact.
        made_by: the command that makes such an artifact, for errors.

    Raises:
        ArtifactError: there is none, or it describes something else.
        InputError: it cannot be read.
    """
    path = Path(directory) / METADATA_NAME
    if not path.is_file():
        raise ArtifactError(f"{directory} has no {METADATA_NAME}; {made_by} makes it")
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
