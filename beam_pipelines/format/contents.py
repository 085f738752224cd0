"""What an output consists of where there is no rename: written last, it makes a directory of an object store exist.

    OUTPUT/attempt-1f0c.../...    the files, under the names that they have locally
    OUTPUT/contents.json          which attempt it is, and what lies in it

Many attempts may write below one output. The first that writes `contents.json` wins; nobody reads the others.
"""

from pathlib import Path

import pydantic
from upath import UPath

from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.location import Location, storage_errors

CONTENTS_NAME = "contents.json"
_FORMAT = "directory/1"


class StoredFile(pydantic.BaseModel):
    """A file of an output.

    Attributes:
        path: relative to the attempt, with `/`.
        bytes: its size.
        sha256: hex digest of its content.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    path: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, root: Path, path: str) -> "StoredFile":
        """Describes the local file `root/path`."""
        return cls(path=path, bytes=(root / path).stat().st_size, sha256=file_sha256(root / path))


class Contents(pydantic.BaseModel):
    """The contents of an output.

    Attributes:
        format: the layout's name and version.
        attempt: the directory below the output in which the files lie.
        files: all of them.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    format: str = _FORMAT
    attempt: str
    files: list[StoredFile]

    @classmethod
    def read(cls, output: Location) -> "Contents | None":
        """Reads `output/contents.json`; `None` if there is none.

        Raises:
            ArtifactError: it is damaged or of another version.
            InputError: the store cannot be read.
        """
        path = output / CONTENTS_NAME
        with storage_errors(path):
            try:
                text = path.read_text()
            except FileNotFoundError:
                return None
        try:
            contents = cls.model_validate_json(text)
        except pydantic.ValidationError as error:
            raise ArtifactError(f"{path} is damaged: {error.errors()[0]['msg']}; make {output} again") from error
        if contents.format != _FORMAT:
            raise ArtifactError(f"{path}: format is {contents.format}, this version reads {_FORMAT}; make it again")
        return contents

    def write(self, output: UPath, *, overwrite: bool) -> None:
        """Writes `output/contents.json` whole: only if there is none, unless `overwrite`.

        The store keeps the condition (`If-None-Match` on S3, generation 0 on Google's); HDFS has none, so that there a
        check and the write follow each other.

        Raises:
            FileExistsError: there is one, and `overwrite` is false.
            InputError: the store refuses.
        """
        path = output / CONTENTS_NAME
        content = (self.model_dump_json(indent=2) + "\n").encode()
        with storage_errors(path):
            path.fs.pipe_file(path.path, content, mode="overwrite" if overwrite else "create")
