"""The manifest of a page dataset: written last, and the only list of files that a reader trusts."""

import hashlib
from pathlib import Path
from typing import Any

import pydantic

from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.local_copy import fetch
from beam_pipelines.format.location import Location
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.format.records import FEATURES, SCHEMA_HASH
from beam_pipelines.format.text_file import read_text

MANIFEST_NAME = "manifest.json"
FORMAT = "page-dataset/1"
SPLITS = ("pretrain", "train", "test")
PRETRAINING = "pretraining"
"""Names the pre-training view wherever the name of a split is expected."""


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class File(_Strict):
    """One file of the dataset.

    Attributes:
        path: relative to the dataset, with `/`.
        records: pages, rows or pictures in it.
        bytes: its size.
        sha256: hex digest of its content.
    """

    path: str
    records: int
    bytes: int
    sha256: str

    @classmethod
    def of(cls, root: Path, path: str, records: int) -> "File":
        """Describes the file `root/path`."""
        return cls.at(root / path, path, records)

    @classmethod
    def at(cls, place: Path, path: str, records: int) -> "File":
        """Describes a local file that lies elsewhere, but is to become `path` of a dataset."""
        return cls(path=path, records=records, bytes=place.stat().st_size, sha256=file_sha256(place))


class Window(_Strict):
    """The first and last page timestamp of a split, in epoch milliseconds, both inclusive."""

    first: int
    last: int

    def overlaps(self, other: "Window") -> bool:
        """Whether some moment lies in both windows."""
        return self.first <= other.last and other.first <= self.last


class Split(_Strict):
    """The pages of one split.

    Attributes:
        pages, impressions, clicks: how many there are.
        window: when they were shown.
        negative_rate: share of the unclicked candidates that was kept; a model that learns on less than all of them
            overestimates clicks until it is corrected for it.
        history_lengths: history name to numbers of pages whose history has 0, 1, 2 to 3, 4 to 7, ... steps.
        shards: the files.
    """

    pages: int
    impressions: int
    clicks: int
    window: Window
    negative_rate: float
    history_lengths: dict[str, list[int]]
    shards: list[File]


class PretrainingView(Split):
    """The pages of the pretrain split as an encoder learns on them; see `pages.pretraining_view`.

    Attributes:
        kind: `page` or `causal`.
        max_candidates, max_clicks: the most that a page has.
        categories: categories of the items that are kept; all if empty.
    """

    kind: str
    max_candidates: int
    max_clicks: int
    categories: list[str]


class Table(_Strict):
    """`items/` or `users/`: one Parquet file, row number = the number used in pages.

    Attributes:
        file: the Parquet file.
        ids_sha256: digest of the string IDs in row order (each followed by a newline). Artifacts that refer to rows
            record it, so that rows of one dataset are never looked up in another.
    """

    file: File
    ids_sha256: str


class Images(_Strict):
    """`images/`: each distinct picture once, and the table from item row to picture.

    Attributes:
        format: `jpeg` or `webp`.
        stored: distinct pictures.
        items_with_image: items whose picture is stored.
        missing: reason to number of items without a picture.
        shards: the ArrayRecord files.
        index: Parquet with one row per item row: `shard` (number in `shards`, -1 without picture), `index` (record in
            the shard, -1), `sha256` (of the source picture, empty).
    """

    format: str
    stored: int
    items_with_image: int
    missing: dict[str, int]
    shards: list[File]
    index: File


class Source(_Strict):
    """One input file of the build: its name inside the log directory, size and digest.

    Attributes:
        lines: in it (rows in Parquet), without blank ones and the header; those beyond `rows` are of values that run
            over several lines. `None` in datasets of before, as is what follows.
        rows, rejected: rows in it, and those of them that break the contract.
    """

    path: str
    bytes: int
    sha256: str
    lines: int | None = None
    rows: int | None = None
    rejected: int | None = None


class Join(_Strict):
    """How many rows of a table name something that another table has.

    Attributes:
        rows, joined: the rows, and those whose ID is there.
        ids, joined_ids: the same of distinct IDs.
    """

    rows: int
    joined: int
    ids: int
    joined_ids: int

    @property
    def share(self) -> float:
        """Of the rows; 1 if there are none."""
        return self.joined / self.rows if self.rows else 1.0


class ColumnValues(_Strict):
    """What became of the values of a column.

    Attributes:
        present: rows with a value.
        read: of these, values that could be read; the others are lost, or their rows rejected.
        markers: rows with a marker of a missing value.
    """

    present: int
    read: int
    markers: int


class Manifest(_Strict):
    """Everything there is to know about a page dataset.

    Attributes:
        format: the layout's name and version.
        schema_hash: `records.SCHEMA_HASH` of the writer.
        features: the page schema, one feature each: name, kind, group.
        notice: what is simulated or sampled in the logs; printed wherever figures of this dataset are. May be empty.
        options: the options that shaped the content (paths left out).
        sources: the input files.
        splits: split name to its pages; a split without pages is absent.
        pretraining: the pretrain pages as an encoder learns on them; `None` if none is fit for that.
        items: the item table.
        users: the user table.
        images: the picture store, `None` if the logs have no pictures.
        max_candidates: candidates on the longest page.
        counters: everything counted on the way, rejected rows by reason included.
        joins: `TABLE.OTHER` to how many rows of a table name something that the other has; `items.pictures` counts
            items that name a picture, and those whose picture is stored. Empty in datasets of before, as is `columns`.
        columns: `TABLE.COLUMN` to what became of its values.
    """

    format: str
    schema_hash: str
    features: list[str]
    notice: str
    options: dict[str, Any]
    sources: list[Source]
    splits: dict[str, Split]
    pretraining: PretrainingView | None
    items: Table
    users: Table
    images: Images | None
    max_candidates: int
    counters: dict[str, int]
    joins: dict[str, Join] = {}
    columns: dict[str, ColumnValues] = {}

    def write(self, dataset: Location) -> File:
        """Writes `dataset/manifest.json`."""
        with whole_file(dataset / MANIFEST_NAME) as path:
            path.write_text(self.model_dump_json(indent=2) + "\n")
            return File.at(path, MANIFEST_NAME, 1)

    def digest(self) -> str:
        """Identifies the dataset's content: equal exactly when every byte of it is."""
        # What a manifest of before does not have is left out: artifacts remember the digest that it had then.
        return hashlib.sha256(self.model_dump_json(exclude_unset=True).encode()).hexdigest()

    @property
    def pictures_sha256(self) -> str:
        """Identifies which item has which picture; empty without pictures."""
        return self.images.index.sha256 if self.images is not None else ""

    @classmethod
    def read(cls, dataset: Path) -> "Manifest":
        """Reads and checks `dataset/manifest.json`.

        Raises:
            ArtifactError: there is none, it cannot be parsed, or it describes another format or page schema.
        """
        path = Path(dataset) / MANIFEST_NAME
        if not path.is_file():
            raise ArtifactError(f"{dataset} is not a page dataset (no {MANIFEST_NAME}); beam_pipelines.build makes one")
        try:
            manifest = cls.model_validate_json(read_text(path))
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise ArtifactError(f"{path}: {where}: {first['msg']}; build the dataset again") from error
        if manifest.format != FORMAT:
            raise ArtifactError(f"{path}: format is {manifest.format}, this version reads {FORMAT}; build it again")
        if manifest.schema_hash != SCHEMA_HASH:
            raise ArtifactError(
                f"{path}: pages have schema {manifest.schema_hash}, this version reads {SCHEMA_HASH} "
                f"({_schema_difference(manifest.features)}); build it again"
            )
        return manifest

    def verify(self, dataset: Path, files: list[File]) -> None:
        """Compares files with what the manifest says of them. Those that a local copy lacks are fetched first.

        Raises:
            ArtifactError: a file is missing or differs in size or digest.
        """
        fetch(Path(dataset), [file.path for file in files])
        for file in files:
            path = Path(dataset) / file.path
            if not path.is_file():
                raise ArtifactError(f"{path} is missing, but {MANIFEST_NAME} lists it; build the dataset again")
            if path.stat().st_size != file.bytes or file_sha256(path) != file.sha256:
                raise ArtifactError(f"{path} is not the file that {MANIFEST_NAME} lists; build the dataset again")


def _schema_difference(features: list[str]) -> str:
    """How a dataset's features differ from those of this version, in words."""
    theirs = {name: form for name, _, form in (text.partition(" ") for text in features)}
    ours = {feature.name: f"{feature.kind} {feature.group}" for feature in FEATURES}
    found = []
    if missing := sorted(ours.keys() - theirs.keys()):
        found.append(f"missing: {', '.join(missing)}")
    if unknown := sorted(theirs.keys() - ours.keys()):
        found.append(f"unknown: {', '.join(unknown)}")
    changed = sorted(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name])
    found += [f"{name} is {theirs[name]} instead of {ours[name]}" for name in changed]
    return "; ".join(found) or "the same features in another order, or other labels"


def ids_sha256(ids: list[str]) -> str:
    """Digest of string IDs in order, for `Table.ids_sha256`."""
    return hashlib.sha256("".join(f"{i}\n" for i in ids).encode()).hexdigest()
