"""The Beam transforms that store pictures: each distinct one once, in shards by content hash.

A picture is read, hashed and brought to its final form in one go, and waits in a scratch file; what goes through the
shuffle are references, so that memory does not grow with the pictures.
"""

import contextlib
import itertools
import os
import uuid
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordWriter

from beam_pipelines.format.manifest import File
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.images.normalisation import normalise_image
from beam_pipelines.images.previous_images import PreviousImages
from beam_pipelines.images.refusals import BadImageError
from beam_pipelines.images.source import ImageSource, content_hash, folders_of
from beam_pipelines.options import ImageFormat
from beam_pipelines.workspace import RESULTS, SCRATCH

SHARD_INDEX = pa.schema(
    [
        ("image", pa.string()),
        ("found_by", pa.string()),
        ("detail", pa.string()),
        ("sha256", pa.string()),
        ("index", pa.int64()),
        ("reason", pa.string()),
    ]
)
"""What the writer of a shard says of it: for each name the stored picture, or the reason why there is none.

`image` is null for pictures of items that are only in the previous dataset: no name is known for them. `found_by` says
how the name differs from the path, which is the `detail` then; that of a `reason` is what more is known. The metadata
hold `file` (a `manifest.File`, if any picture is stored) and `reused` (pictures from the previous dataset).
"""

_PICTURES_PER_ELEMENT = 256
_NAMES_AT_ONCE = 16
_REMEMBERED = 100_000  # pictures that a worker recognises when they come again under another name; about 25 MB
_OPEN_FILES = 256

_Place = tuple[str, int, int]  # scratch file, offset, length
_IN_PREVIOUS: _Place = ("", 0, 0)
_Outcome = tuple[str, str, str, int, int]  # why there is no picture, and its detail; or empty, and the place
_Entry = tuple[str, str, str, str, str, str, str, int, int]  # name, how it was found and where, content hash, outcome


@beam.typehints.with_input_types(list[tuple[str, str]])
@beam.typehints.with_output_types(tuple[int, list[_Entry]])
class NormaliseImages(beam.DoFn):
    """Brings pictures to their final form: yields `(shard, entries)`.

    An element holds pairs of a name and an empty string, or of an empty string and the content hash of a picture that
    is kept from the previous dataset.

    Args:
        directory: the dataset.
        images: the log directory's pictures.
        shared: leading folders that all names share, see `folders_of`.
        shards: how many there are.
        side, format: see `normalise_image`.
        previous: a dataset with pictures that need not be decoded again.
    """

    def __init__(
        self,
        directory: Path,
        images: Path,
        shared: tuple[str, ...],
        shards: int,
        side: int,
        format: ImageFormat,
        previous: Path | None,
    ) -> None:
        self._scratch = directory / SCRATCH
        self._images = images
        self._shared = shared
        self._shards = shards
        self._side = side
        self._format = format
        self._previous = previous

    def setup(self) -> None:
        """Opens the pictures and starts a thread per core: decoding and resizing release the interpreter lock."""
        # PIL's own, later limit on pixels, and oddities in metadata. (Not per picture: threads share the filters.)
        warnings.filterwarnings("ignore", module=r"PIL\.")
        self._source = ImageSource(self._images, self._shared)
        self._reusable = PreviousImages(self._previous, self._side, self._format) if self._previous else ()
        self._done: dict[str, _Outcome] = {}
        self._open = contextlib.ExitStack()
        paths = [self._scratch / f"pictures-{uuid.uuid4().hex}" for _ in os.sched_getaffinity(0)]
        self._files = [self._open.enter_context(path.open("xb", buffering=1 << 20)) for path in paths]
        self._pool = ThreadPoolExecutor(len(self._files))

    def process(self, pictures: list[tuple[str, str]]) -> Iterator[tuple[int, list[_Entry]]]:
        """Brings some pictures to their final form."""
        names = [name for name, _ in pictures if name]
        # The threads share this iterator: each takes the next names when it is done with some.
        waiting = iter([names[i : i + _NAMES_AT_ONCE] for i in range(0, len(names), _NAMES_AT_ONCE)])
        by_shard: dict[int, list[_Entry]] = {}
        kept = [("", "", "", sha256, "", "", *_IN_PREVIOUS) for _, sha256 in pictures if sha256]
        for entries in [kept, *self._pool.map(self._store, [waiting] * len(self._files), self._files)]:
            for entry in entries:
                name, _, _, sha256, *_ = entry
                shard = int(sha256[:8], 16) * self._shards >> 32 if sha256 else zlib.crc32(name.encode()) % self._shards
                by_shard.setdefault(shard, []).append(entry)
        yield from by_shard.items()

    def _store(self, waiting: Iterator[list[str]], file: BinaryIO) -> list[_Entry]:
        entries: list[_Entry] = []
        for names in waiting:  # all are read, then all decoded: faster than in turn when they are small
            sources: dict[str, bytes] = {}
            found: list[tuple[str, str, str, str]] = []
            for name in names:
                try:
                    place = self._source.find(name)
                    source = self._source.read(place)
                except BadImageError as error:
                    entries.append((name, "", "", "", error.reason, error.detail, *_IN_PREVIOUS))
                else:
                    sha256 = content_hash(source)
                    sources[sha256] = source
                    found.append((name, place.found_by, place.path if place.found_by else "", sha256))
            pictures = {sha256: self._known(sha256) or self._normalise(source) for sha256, source in sources.items()}
            outcomes: dict[str, _Outcome] = {}
            for sha256, picture in pictures.items():
                if isinstance(picture, bytes):
                    outcomes[sha256] = ("", "", file.name, file.tell(), len(picture))
                    file.write(picture)
                else:
                    outcomes[sha256] = picture
            entries += [(name, by, path, sha256, *outcomes[sha256]) for name, by, path, sha256 in found]
            if len(self._done) > _REMEMBERED:
                self._done.clear()
            self._done.update(outcomes)
        file.flush()
        return entries

    def _known(self, sha256: str) -> _Outcome | None:
        return ("", "", *_IN_PREVIOUS) if sha256 in self._reusable else self._done.get(sha256)

    def _normalise(self, source: bytes) -> bytes | _Outcome:
        try:
            return normalise_image(source, self._side, self._format)
        except BadImageError as error:
            return (error.reason, error.detail, *_IN_PREVIOUS)

    def teardown(self) -> None:
        """Ends the threads and closes the pictures."""
        self._pool.shutdown()
        self._open.close()
        self._source.close()


@beam.typehints.with_input_types(tuple[int, Iterable[list[_Entry]]])
class WriteImages(beam.DoFn):
    """Stores each distinct picture of a shard once, ordered by content hash, and says where each name went.

    Args:
        directory: the dataset.
        shards: how many there are.
        side, format, previous: see `NormaliseImages`.
    """

    def __init__(self, directory: Path, shards: int, side: int, format: ImageFormat, previous: Path | None) -> None:
        self._directory = directory
        self._shards = shards
        self._side = side
        self._format = format
        self._previous = previous

    def setup(self) -> None:
        """Opens the previous dataset."""
        self._reusable = PreviousImages(self._previous, self._side, self._format) if self._previous else None

    def process(self, element: tuple[int, Iterable[list[_Entry]]]) -> None:
        """Writes one shard."""
        shard, entries = element
        names: dict[str, list[tuple[str | None, str, str]]] = {}
        places: dict[str, _Place] = {}
        index: list[tuple[str | None, str, str, str, int, str]] = []
        entry: _Entry
        for entry in itertools.chain.from_iterable(entries):
            name, found_by, path, sha256, reason, detail, file, offset, length = entry
            if reason:
                index.append((name, found_by, detail, "", -1, reason))
            else:
                names.setdefault(sha256, []).append((name or None, found_by, path))
                places[sha256] = (file, offset, length)
        path = f"images/images-{shard:05d}-of-{self._shards:05d}.array_record"
        metadata = {"reused": str(sum(place == _IN_PREVIOUS for place in places.values()))}
        if places:
            with whole_file(self._directory / path) as temporary:
                # One record per group: a reader that wants one picture reads one. They are compressed already.
                writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
                with _ScratchFiles() as scratch:
                    for row, sha256 in enumerate(sorted(places)):
                        place = places[sha256]
                        if place == _IN_PREVIOUS and self._reusable is not None:
                            writer.write(self._reusable.read(sha256))
                        else:
                            writer.write(scratch.read(*place))
                        index += [(*found, sha256, row, "") for found in names[sha256]]
                writer.close()
            metadata["file"] = File.of(self._directory, path, len(places)).model_dump_json()
        columns = [pa.array(c, f.type) for c, f in zip(zip(*index, strict=True), SHARD_INDEX, strict=True)]
        table = pa.table(columns, schema=SHARD_INDEX.with_metadata(metadata))
        with whole_file(self._directory / RESULTS / f"{Path(path).stem}.parquet") as temporary:
            pq.write_table(table, temporary)

    def teardown(self) -> None:
        """Closes the previous dataset."""
        if self._reusable is not None:
            self._reusable.close()


class _ScratchFiles:
    """Reads from scratch files, of which only so many are open at a time."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def read(self, path: str, offset: int, length: int) -> bytes:
        if path not in self._open:
            if len(self._open) == _OPEN_FILES:
                self.__exit__()
            self._open[path] = os.open(path, os.O_RDONLY)
        return os.pread(self._open[path], length, offset)

    def __enter__(self) -> "_ScratchFiles":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            os.close(file)
        self._open.clear()


def store_images(
    pipeline: beam.Pipeline,
    directory: Path,
    images: Path,
    names: Sequence[str],
    shards: int,
    side: int,
    format: ImageFormat,
    *,
    previous: Path | None,
    kept: Sequence[str],
) -> None:
    """Adds the transforms from picture names to picture shards.

    Args:
        pipeline: the pipeline.
        directory: the dataset.
        images: the log directory's pictures.
        names: the distinct ones to store, which passed `check_images`.
        shards: how many to write.
        side, format: see `normalise_image`.
        previous: the previous dataset: pictures that are stored there in the same form are copied.
        kept: content hashes of pictures to copy from there although the logs do not name them.
    """
    shared = folders_of(names)
    pictures = [(name, "") for name in names] + [("", sha256) for sha256 in kept]
    step = _PICTURES_PER_ELEMENT
    _ = (
        pipeline
        | "Pictures" >> beam.Create([pictures[i : i + step] for i in range(0, len(pictures), step)], reshuffle=True)
        | "NormaliseImages" >> beam.ParDo(NormaliseImages(directory, images, shared, shards, side, format, previous))
        | "GroupImages" >> beam.GroupByKey()
        | "WriteImages" >> beam.ParDo(WriteImages(directory, shards, side, format, previous))
    )
